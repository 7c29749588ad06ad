"""The interacting reference against brute force and against numbers computed elsewhere."""

import dataclasses
import functools
import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse

from jaxlab.vne import Interacting, certificate, entropy, kl_series, mutual_information
from jaxlab.vne.exact import _lowest
from jaxlab.vne.krylov import evolve_vector
from tests.oracles import fock
from tests.vne.cases import Q12_LEFT, hermitian, q12

SITES = 5
HALVES = np.stack([Q12_LEFT, ~Q12_LEFT])


@functools.cache
def model(kind: str, strength: float) -> Interacting:
    """Q12 with an interaction on the contact, on all bonds or on the bonds inside the leads."""
    h, _ = q12(contact=0.0 if kind == "closed" else 0.5)
    bonds = np.full(11, strength)
    if kind == "boundary":
        bonds = np.where(np.arange(11) == 5, strength, 0.0)
    elif kind in ("leads", "closed"):
        bonds[5] = 0
    interaction = np.diag(bonds, 1)
    return Interacting(h, interaction + interaction.T, 6)


@functools.cache
def start(strength: float) -> np.ndarray:
    return model("closed", strength).ground_state(HALVES, (4, 2))


GOLDEN = {
    ("boundary", 0.1): [(0.419133, 0.419187), (0.712043, 0.712360), (1.168202, 1.168435)],
    ("boundary", 0.2): [(0.424793, 0.425025), (0.721466, 0.722705), (1.175460, 1.176380)],
    ("boundary", 0.8): [(0.474483, 0.481140), (0.775468, 0.793685), (1.197735, 1.214156)],
    ("boundary", 1.6): [(0.551780, 0.580609), (0.857049, 0.924891), (1.246232, 1.309151)],
    ("bulk", 0.1): [(0.416815, 0.421974), (0.708290, 0.712324), (1.169703, 1.173212)],
    ("bulk", 0.2): [(0.420098, 0.438188), (0.715654, 0.731054), (1.178121, 1.191898)],
    ("bulk", 0.8): [(0.452729, 0.628184), (0.793907, 1.001556), (1.249159, 1.503483)],
    ("bulk", 1.6): [(0.509255, 0.927241), (0.929986, 1.667307), (1.400698, 2.044383)],
}


@pytest.mark.parametrize("case", GOLDEN, ids=str)
def test_interactions_switched_on(case):
    exact = model(*case)
    for state, (truth, gaussian) in zip(
        exact.evolve(start(0.0), np.array([1.0, 2.0, 4.0])), GOLDEN[case], strict=True
    ):
        corr = exact.correlation(state)
        found = exact.entropy(state, Q12_LEFT)
        assert found == pytest.approx(truth, abs=1e-6)
        assert float(entropy(corr, Q12_LEFT)) == pytest.approx(gaussian, abs=1e-6)
        low, high = certificate(corr, Q12_LEFT)
        assert float(low) <= found <= float(high)


@pytest.mark.parametrize(
    ("case", "surplus"),
    [(("boundary", 0.2), 0.015747), (("bulk", 0.2), 0.071395), (("bulk", 1.6), 2.489348)],
    ids=str,
)
def test_total_surplus(case, surplus):
    (state,) = model(*case).evolve(start(0.0), np.array([2.0]))
    assert float(entropy(model(*case).correlation(state))) == pytest.approx(surplus, abs=1e-6)


def test_mutual_information_errs_the_other_way():
    exact = model("boundary", 0.2)
    (state,) = exact.evolve(start(0.0), np.array([2.0]))
    corr = exact.correlation(state)
    assert float(mutual_information(corr, *HALVES)) == pytest.approx(1.42942, abs=1e-5)
    assert 2 * exact.entropy(state, Q12_LEFT) == pytest.approx(1.44293, abs=1e-5)


@pytest.mark.parametrize(("strength", "surplus"), [(0.5, 0.06490), (1.0, 0.17714)])
def test_free_evolution_keeps_the_total_surplus(strength, surplus):
    exact = model("leads", 0.0)
    for state in exact.evolve(start(strength), np.array([0.0, 3.0])):
        assert float(entropy(exact.correlation(state))) == pytest.approx(surplus, abs=1e-5)


QUENCHES = {
    ("off", 0.5): [0.0329, 0.0269, 0.0221, 0.0163, 0.0087],
    ("none", 0.5): [0.0329, 0.0395, 0.0661, 0.0745, 0.1814],
    ("on", 0.5): [0.0, 0.0843, 0.0792, 0.0856, 0.1896],
    ("off", 1.0): [0.0906, 0.0783, 0.0636, 0.0475, 0.0274],
    ("none", 1.0): [0.0906, 0.1239, 0.2100, 0.2758, 0.6574],
    ("on", 1.0): [0.0, 0.2350, 0.3189, 0.3551, 0.6593],
}


@pytest.mark.parametrize("case", QUENCHES, ids=str)
def test_quenches_of_the_leads(case):
    kind, strength = case
    exact = model("leads", 0.0 if kind == "off" else strength)
    states = exact.evolve(start(0.0 if kind == "on" else strength), np.array([0.0, 1, 2, 4, 8]))
    truth = np.array([exact.entropy(state, Q12_LEFT) for state in states])
    gaussian = [float(entropy(exact.correlation(state), Q12_LEFT)) for state in states]
    np.testing.assert_allclose(gaussian - truth, QUENCHES[case], atol=6e-5)
    if case == ("off", 0.5):
        np.testing.assert_allclose(truth, [0, 0.415698, 0.709226, 1.185486, 1.157923], atol=1e-6)
    if case == ("off", 1.0):
        chances = exact.charge_distribution(states[3], Q12_LEFT)
        charges = np.arange(chances.size)
        moments = [chances @ (charges - chances @ charges) ** k for k in (2, 4)]
        cumulants = np.array([0, moments[0], 0, moments[1] - 3 * moments[0] ** 2])
        assert float(kl_series(cumulants, 2)) == pytest.approx(1.1179, abs=1e-4)


@pytest.fixture(scope="session")
def random_model() -> Interacting:
    rng = np.random.default_rng(0)
    interaction = np.triu(rng.normal(size=(SITES, SITES)), 1)
    return Interacting(hermitian(rng, SITES), interaction + interaction.T, 2)


REGIONS = [(1, 0, 1, 0, 1), (0, 1, 1, 0, 1), (0, 0, 0, 1, 1), (0, 1, 0, 0, 0)]


def test_against_brute_force(random_model):
    matrix = fock.hamiltonian(random_model.h, random_model.interaction)
    rho = fock.ground(matrix, SITES, {tuple(range(SITES)): 2})
    state = random_model.ground_state()
    np.testing.assert_allclose(
        random_model.correlation(state), fock.correlation(rho, SITES), atol=1e-12
    )
    rng = np.random.default_rng(1)
    places = [list(map(tuple, random_model.basis)).index(bits) for bits in _sector(SITES, 2)]
    amplitudes = rng.normal(size=10) + 1j * rng.normal(size=10)
    amplitudes /= np.linalg.norm(amplitudes)
    vector, state = np.zeros(32, complex), np.zeros(10, complex)
    vector[[n for n, bits in enumerate(fock.configurations(SITES)) if sum(bits) == 2]] = amplitudes
    state[places] = amplitudes
    later = fock.evolved(np.outer(vector, vector.conj()), matrix, 1.7)
    (state,) = random_model.evolve(state, np.array([1.7]))
    np.testing.assert_allclose(
        random_model.correlation(state), fock.correlation(later, SITES), atol=1e-11
    )
    for region in np.array(REGIONS, bool):
        expected = fock.von_neumann(fock.reduced(later, SITES, region))
        assert random_model.entropy(state, region) == pytest.approx(expected, abs=1e-10)
        np.testing.assert_allclose(
            random_model.charge_distribution(state, region)[: region.sum() + 1],
            fock.charge_distribution(later, SITES, region),
            atol=1e-12,
        )


def _sector(sites, particles):
    return [bits for bits in fock.configurations(sites) if sum(bits) == particles]


def test_ensembles_are_mixtures(random_model):
    matrix = fock.hamiltonian(random_model.h, random_model.interaction)
    places = [n for n, bits in enumerate(fock.configurations(SITES)) if sum(bits) == 2]
    rho = np.zeros((32, 32), complex)
    rho[np.ix_(places, places)] = fock.thermal(matrix[np.ix_(places, places)], np.eye(10), 0.6, 0.0)
    ensemble = random_model.thermal_state(1 / 0.6)
    region = np.array(REGIONS[0], bool)
    np.testing.assert_allclose(
        random_model.correlation(ensemble), fock.correlation(rho, SITES), atol=1e-12
    )
    expected = fock.von_neumann(fock.reduced(rho, SITES, region))
    assert random_model.entropy(ensemble, region) == pytest.approx(expected, abs=1e-10)
    later = random_model.evolve(ensemble, np.array([2.0]))[0]  # an eigenstate each: nothing moves
    assert random_model.entropy(later, region) == pytest.approx(expected, abs=1e-10)
    with pytest.raises(ValueError, match="temperature"):
        random_model.thermal_state(0.0)


def test_cold_ensembles_evolve(random_model):
    """Weights underflow; members without any stay as they are."""
    ensemble = random_model.thermal_state(1e-3)
    assert (np.linalg.norm(ensemble, axis=1) == 0).any()
    (later,) = random_model.evolve(ensemble, np.array([0.7]))
    region = np.array(REGIONS[1], bool)
    expected = random_model.entropy(random_model.ground_state(), region)
    assert random_model.entropy(later, region) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("time", [np.nan, np.inf])
def test_times_must_be_finite(random_model, time):
    with pytest.raises(ValueError, match="finite"):
        random_model.evolve(random_model.ground_state(), np.array([1.0, time]))


def sparse_hermitian(size: int) -> scipy.sparse.csr_matrix:
    rng = np.random.default_rng(2)
    half = scipy.sparse.random_array((size, size), density=0.02, rng=rng)
    phases = np.exp(2j * np.pi * rng.random(half.nnz))
    half = scipy.sparse.csr_matrix((half.data * phases, half.nonzero()), shape=(size, size))
    return half + half.conj().T + scipy.sparse.diags(rng.normal(size=size))


def test_large_sectors_go_to_sparse_solvers():
    """Beyond the dense solver, and beyond the dimension of one Krylov space."""
    matrix = sparse_hermitian(450)
    energies, vectors = np.linalg.eigh(matrix.toarray())
    lowest = _lowest(matrix)
    assert abs(np.vdot(lowest, vectors[:, 0])) == pytest.approx(1, abs=1e-9)
    state = np.ones(450) / 450**0.5 + 0j
    later = evolve_vector(matrix, state, 7.0)
    expected = vectors @ (np.exp(-7j * energies) * (vectors.conj().T @ state))
    np.testing.assert_allclose(later, expected, atol=1e-11)


def test_evolution_returns(random_model):
    state = random_model.ground_state()
    kicked = np.roll(state, 3)
    there = random_model.evolve(kicked, np.array([5.0, -2.0]))
    assert np.linalg.norm(there, axis=1) == pytest.approx(1, abs=1e-12)
    (back,) = random_model.evolve(there[0], np.array([-5.0]))
    np.testing.assert_allclose(back, kicked, atol=1e-11)


@pytest.fixture(scope="session")
def by_netket() -> dict[str, tuple[Interacting, Interacting]]:
    """Models on twelve sites, built by numpy and by NetKet, which compiles once for all."""
    if importlib.util.find_spec("netket") is None:  # to import it changes the process
        pytest.skip("netket is not installed")
    rng = np.random.default_rng(3)
    pairs = np.triu(rng.normal(size=(12, 12)), 1)
    models = {
        "complex": Interacting(hermitian(rng, 12), pairs + pairs.T, 6),
        "golden": model("boundary", 0.2),
    }
    return {
        name: (one, dataclasses.replace(one, implementation="netket"))
        for name, one in models.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["complex", "golden"])
def test_netket_builds_the_same_hamiltonian(by_netket, name):
    ours, theirs = (one.hamiltonian for one in by_netket[name])
    assert theirs.nnz > 924
    assert abs(ours - theirs).max() < 1e-13


@pytest.mark.slow
def test_netket_gives_the_golden_entropies(by_netket):
    """Signs of hops and of correlations come from one function here; these hops do not."""
    _, exact = by_netket["golden"]
    states = exact.evolve(start(0.0), np.array([1.0, 2.0, 4.0]))
    for state, (truth, gaussian) in zip(states, GOLDEN["boundary", 0.2], strict=True):
        assert exact.entropy(state, Q12_LEFT) == pytest.approx(truth, abs=1e-6)
        found = float(entropy(exact.correlation(state), Q12_LEFT))
        assert found == pytest.approx(gaussian, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("wide", [False, True])
def test_netket_leaves_a_fresh_process_as_it_was(wide):
    code = f"""
import jax, numpy as np, os
jax.config.update("jax_enable_x64", {wide})
before, variables = dict(jax.config.values), dict(os.environ)
from jaxlab.vne import Interacting
with jax.enable_x64(True):
    Interacting(np.diag([1.0, 2.0]), np.zeros((2, 2)), 1, "netket")
assert dict(jax.config.values) == before
assert dict(os.environ) == variables
assert jax.sharding.get_abstract_mesh().empty
assert jax.numpy.ones(1).dtype == np.float{64 if wide else 32}
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_refusals(random_model):
    h, none = np.eye(3), np.zeros((3, 3))
    with pytest.raises(ValueError, match="Hermitian"):
        Interacting(np.triu(np.ones((3, 3))), none, 1)
    with pytest.raises(ValueError, match="interaction"):
        Interacting(h, np.zeros((2, 2)), 1)
    with pytest.raises(ValueError, match="particles"):
        Interacting(h, none, 4)
    with pytest.raises(ValueError, match="implementation"):
        Interacting(h, none, 1, "qutip")
    with pytest.raises(ValueError, match="states"):
        Interacting(np.eye(30), np.zeros((30, 30)), 15)
    with pytest.raises(ValueError, match="couples"):
        random_model.ground_state(np.array([[1, 1, 0, 0, 0], [0, 0, 1, 1, 1]], bool), (1, 1))
    with pytest.raises(ValueError, match="region"):
        random_model.entropy(random_model.ground_state(), np.arange(5))
    with pytest.raises(ValueError, match="degenerate"):
        Interacting(h, none, 1).ground_state()
    apart = np.array([[1, 1, 0, 0, 0], [0, 0, 1, 1, 1]], bool)
    for regions, charges in ((None, (1, 1)), (apart, None), (apart, (1,))):
        with pytest.raises(ValueError, match="charges"):
            random_model.ground_state(regions, charges)
    state, region = random_model.ground_state(), np.arange(5) < 2
    for wrong in (2 * state, np.stack([state, state])):
        for call in (
            lambda s: random_model.entropy(s, region),
            lambda s: random_model.charge_distribution(s, region),
            random_model.correlation,
        ):
            with pytest.raises(ValueError, match="norm"):
                call(wrong)
    with pytest.raises(dataclasses.FrozenInstanceError):
        random_model.particles = 2
