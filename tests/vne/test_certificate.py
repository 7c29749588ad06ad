"""The bracket holds for every state, and is as tight as promised."""

import dataclasses

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.vne import certificate, entropy
from jaxlab.vne.certificate import _entropy_beside_charge, _least_entropy
from tests.oracles import fock
from tests.vne.cases import hermitian, mixed, projector

SITES = 5


@dataclasses.dataclass(frozen=True)
class Instance:
    corr: np.ndarray
    region: np.ndarray
    entropy: float
    start: float


def instance(seed: int, thermal: bool) -> Instance:
    """A random quench of random interacting fermions, and a random region, by brute force."""
    rng = np.random.default_rng(seed)
    cut = int(rng.integers(1, SITES))
    joined = hermitian(rng, SITES) * rng.choice([0.5, 1.5])
    strength = rng.choice([0.05, 0.3, 1.0, 3.0])
    interaction = np.triu(strength * rng.normal(size=(SITES, SITES)), 1)
    apart = np.ones((SITES, SITES))
    apart[:cut, cut:] = apart[cut:, :cut] = 0
    prepared, moved = ((1, 0), (0, 1), (1, 1))[rng.integers(3)]
    before = fock.hamiltonian(joined * apart, interaction * apart * prepared)
    after = fock.hamiltonian(joined, interaction * moved)
    if thermal:
        number = sum(c.conj().T @ c for c in fock.annihilators(SITES))
        rho = fock.thermal(before, number, beta=rng.uniform(0.2, 4), mu=rng.normal())
    else:
        charges = {
            tuple(range(cut)): int(rng.integers(0, cut + 1)),
            tuple(range(cut, SITES)): int(rng.integers(0, SITES - cut + 1)),
        }
        rho = fock.ground(before, SITES, charges)
    rho = fock.evolved(rho, after, rng.uniform(0.1, 5))
    region = np.zeros(SITES, bool)
    region[rng.permutation(SITES)[: rng.integers(1, SITES)]] = True
    exact = fock.von_neumann(fock.reduced(rho, SITES, region))
    return Instance(fock.correlation(rho, SITES), region, exact, fock.von_neumann(rho))


def check(instances: list[Instance]) -> tuple[np.ndarray, np.ndarray]:
    """Widths of the plain and of the tightened bracket, where zero does not clip the former."""
    widths = []
    for one in instances:
        low, high = map(float, certificate(one.corr, one.region, one.start))
        assert low - 1e-9 <= one.entropy <= high + 1e-9
        gaussian = float(entropy(one.corr, one.region))
        surplus = float(entropy(one.corr)) - one.start
        if 1e-6 < surplus < gaussian:
            widths.append((surplus, high - low))
    return np.array(widths).T


@pytest.mark.parametrize("thermal", [False, True])
def test_bracket_holds(thermal):
    plain, tight = check([instance(seed, thermal) for seed in range(25)])
    assert np.all(tight <= plain + 1e-9)
    assert tight.mean() < (0.9 if thermal else 0.7) * plain.mean()


@pytest.mark.slow
def test_bracket_holds_a_thousand_times():
    plain, tight = check([instance(seed, seed % 2 == 0) for seed in range(1000, 2100)])
    assert tight.mean() < 0.7 * plain.mean()


def pair(correlation: float) -> np.ndarray:
    """Two coins with mean 1/2, as occupations of two modes."""
    return np.diag([0.25 + correlation, *[0.25 - correlation] * 2, 0.25 + correlation])


def test_states_with_the_same_data_sit_at_both_ends():
    """No bracket from two-point functions and the start's entropy could be narrower here."""
    region, free = np.arange(4) < 2, np.eye(4) / 4
    inside, outside = np.kron(pair(0.2), free), np.kron(free, pair(0.2))
    corrs = [fock.correlation(rho, 4) for rho in (inside, outside)]
    np.testing.assert_allclose(corrs[0], corrs[1], atol=1e-15)
    assert fock.von_neumann(inside) == pytest.approx(fock.von_neumann(outside))
    low, high = map(float, certificate(corrs[0], region, fock.von_neumann(inside)))
    assert low == pytest.approx(fock.von_neumann(fock.reduced(inside, 4, region)), abs=1e-9)
    assert high == pytest.approx(fock.von_neumann(fock.reduced(outside, 4, region)), abs=1e-9)


def test_one_site_is_known_exactly_however_mixed():
    one = instance(4, thermal=True)
    site = np.arange(SITES) == 2
    low, high = map(float, certificate(one.corr, site, one.start))
    assert low == pytest.approx(high, abs=1e-9)


def sectors(rng: np.random.Generator, sites: int, rank: int) -> np.ndarray:
    """A random state without coherence between charges, of low rank in each."""
    charges = np.array([sum(bits) for bits in fock.configurations(sites)])
    rho = np.zeros((2**sites,) * 2, complex)
    for charge in range(sites + 1):
        places = np.flatnonzero(charges == charge)
        factor = rng.normal(size=(len(places), rank)) + 1j * rng.normal(size=(len(places), rank))
        rho[np.ix_(places, places)] = rng.uniform() ** 3 * factor @ factor.conj().T
    return rho / np.trace(rho).real


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(1, 2))
def test_no_three_modes_have_less_than_their_least_entropy(seed, rank):
    rho = sectors(np.random.default_rng(seed), 3, rank)
    z = np.linalg.eigvalsh(fock.correlation(rho, 3))
    assert float(LEAST(z)) <= fock.von_neumann(rho) + 1e-9


LEAST, BESIDE = jax.jit(_least_entropy), jax.jit(_entropy_beside_charge)


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_bracket_holds_for_any_state_of_definite_charge_blocks(seed, rank):
    rng = np.random.default_rng(seed)
    rho = sectors(rng, SITES, rank)
    region = np.isin(np.arange(SITES), rng.permutation(SITES)[: rng.integers(1, SITES)])
    corr, exact = fock.correlation(rho, SITES), fock.von_neumann(fock.reduced(rho, SITES, region))
    low, high = map(float, certificate(corr, region, fock.von_neumann(rho)))
    assert low - 1e-9 <= exact <= high + 1e-9
    assert exact <= float(entropy(corr, region)) + 1e-9


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_bracket_of_a_definite_number_holds_and_is_no_wider(seed, rank):
    """Mixtures inside one sector: the sites outside tell how many particles are inside."""
    rng = np.random.default_rng(seed)
    rho = sectors(rng, SITES, rank)
    charges = np.array([sum(bits) for bits in fock.configurations(SITES)])
    rho[charges != rng.integers(1, SITES)] = 0
    rho /= np.trace(rho).real
    region = np.isin(np.arange(SITES), rng.permutation(SITES)[: rng.integers(1, SITES)])
    corr, start = fock.correlation(rho, SITES), fock.von_neumann(rho)
    exact = fock.von_neumann(fock.reduced(rho, SITES, region))
    low, high = map(float, certificate(corr, region, start, definite_number=True))
    assert low - 1e-9 <= exact <= high + 1e-9
    loose = map(float, certificate(corr, region, start))
    assert next(loose) <= low + 1e-9
    assert next(loose) == pytest.approx(high)
    if region.sum() == SITES - 1:
        assert low >= start - 1e-9


@pytest.mark.parametrize("z", [(0.3,), (0.5, 0.5), (0.2, 0.9, 0.4), (1.0, 0.0, 0.25)])
def test_entropy_beside_the_charge_is_no_less_than_that_of_coins(z):
    chances = np.array([1.0])
    for mean in z:
        chances = np.convolve(chances, [1 - mean, mean])
    charge = -(chances[chances > 0] * np.log(chances[chances > 0])).sum()
    most = float(BESIDE(jnp.array([*z, *[0.0] * (3 - len(z))])))  # empty modes hold nothing
    coins = float(entropy(np.diag(z) + 0j))
    assert coins - charge - 1e-12 <= most <= coins + 1e-12
    if len(z) == 1:
        assert most == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("others", [(), (0.0,), (1.0,)])
def test_least_entropy_of_two_modes_is_that_of_two_coins(others):
    def joint(both):
        chances = np.array([both, 0.3 - both, 0.8 - both, both - 0.1])
        chances = chances[chances > 0]
        return -(chances * np.log(chances)).sum()

    z = np.array([0.3, 0.8, *others, *[0.0] * (1 - len(others))])
    assert float(LEAST(z)) == pytest.approx(min(joint(0.1), joint(0.3)), abs=1e-9)


def test_negative_control():
    """(|0011> + |1100>) / sqrt 2 looks fully mixed in its two-point functions."""
    state = np.zeros(16)
    state[[0b0011, 0b1100]] = 1 / np.sqrt(2)
    rho, region = np.outer(state, state), np.array([True, True, False, False])
    corr = fock.correlation(rho, 4)
    np.testing.assert_allclose(corr, np.eye(4) / 2, atol=1e-15)
    assert fock.von_neumann(fock.reduced(rho, 4, region)) == pytest.approx(np.log(2))
    low, high = certificate(corr, region)
    assert float(high) == pytest.approx(2 * np.log(2))
    assert 0 <= float(low) <= np.log(2) + 1e-12


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(0, 5))
@hypothesis.settings(max_examples=10)
def test_gaussian_states_have_no_bracket(seed, particles):
    rng = np.random.default_rng(seed)
    region = rng.random(5) < 0.5
    pure, blurred = projector(rng, 5, particles), mixed(rng, 5)
    for corr, start in ((pure, 0.0), (blurred, float(entropy(blurred)))):
        low, high = certificate(corr, region, start)
        assert float(high) - float(low) == pytest.approx(0, abs=1e-9)
        assert float(high) == pytest.approx(float(entropy(corr, region)), abs=1e-9)


@pytest.mark.parametrize("modes", [0, 7, pytest.param(1, marks=pytest.mark.slow)])
def test_any_number_of_modes_gives_a_bound(modes):
    one = instance(3, thermal=False)
    low, high = certificate(one.corr, one.region, modes=modes)
    assert float(low) <= one.entropy + 1e-9 <= float(high) + 2e-9


@pytest.mark.parametrize("region", [np.zeros(SITES, bool), np.ones(SITES, bool)])
def test_nothing_and_everything_are_known(region):
    one = instance(8, thermal=True)
    low, high = certificate(one.corr, region, one.start)
    expected = one.start if region.all() else 0.0
    assert float(low) == pytest.approx(expected, abs=1e-9)
    assert float(high) == pytest.approx(expected, abs=1e-9)


def test_impossible_data_have_no_bracket():
    """A bracket that looks certain would be worse than none."""
    corr, region = mixed(np.random.default_rng(0), 4), np.arange(4) < 2
    total = float(entropy(corr))
    jitted = jax.jit(certificate)
    for start in (-1e-6, total + 1e-6, np.nan):
        with pytest.raises(ValueError, match="initial_entropy"):
            certificate(corr, region, start)
        assert np.isnan(jitted(corr, region, start)).all()
    for start in (0.0, total, total + 1e-12):
        assert np.isfinite(jitted(corr, region, start)).all()
    with pytest.raises(ValueError, match="outside"):
        certificate(2 * corr, region)


def test_refusals():
    corr, region = np.eye(3) / 2 + 0j, np.arange(3) < 1
    with pytest.raises(ValueError, match="modes"):
        certificate(corr, region, modes=-1)
    for call in (
        lambda: certificate(corr, region),
        lambda: jax.jit(certificate)(corr, region),
        lambda: jax.vmap(certificate, (None, 0))(corr, region[None]),
    ):
        with jax.enable_x64(False), pytest.raises(TypeError, match="enable_x64"):
            call()
