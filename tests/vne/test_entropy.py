"""Entropies against the full density matrix, and the laws that every correlation matrix obeys."""

import itertools
import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxlab.vne import (
    charge_cumulants,
    charge_distribution,
    entanglement_spectrum,
    entropy,
    evolve_eig,
    generating_function,
    ground_corr,
    kl_series,
    mutual_information,
    occupations,
    renyi,
    roots_estimator,
    roots_occupations,
    sample_occupations,
    song_extrapolated,
    song_series,
    subsystems,
    transfer_function,
)
from jaxlab.vne.occupations import check_region, eigenvalues
from tests.compile_counter import count_compilations
from tests.oracles import fock
from tests.vne.cases import hermitian, mixed, projector

seeds = st.integers(0, 2**32 - 1)
few = hypothesis.settings(max_examples=10)


def draw(seed, sites=None):
    rng = np.random.default_rng(seed)
    sites = sites or int(rng.choice([2, 6]))
    return rng, mixed(rng, sites), rng.random(sites) < 0.5


@pytest.mark.parametrize("region", [(1, 0, 1, 0), (0, 1, 1, 0), (0, 0, 0, 1), (1, 1, 0, 1)])
def test_entropy_is_that_of_the_density_matrix(region):
    rng = np.random.default_rng(3)
    h, region = hermitian(rng, 4), np.array(region, bool)
    number = sum(c.conj().T @ c for c in fock.annihilators(4))
    rho = fock.thermal(fock.hamiltonian(h), number, beta=1.3, mu=0.2)
    rho = fock.evolved(rho, fock.hamiltonian(hermitian(rng, 4)), 0.8)
    corr, part = fock.correlation(rho, 4), fock.reduced(rho, 4, region)
    assert float(entropy(corr, region)) == pytest.approx(fock.von_neumann(part), abs=1e-12)
    weights = np.linalg.eigvalsh(part)
    for alpha in (0.5, 2.0, 3.7):
        expected = np.log((np.clip(weights, 0, 1) ** alpha).sum()) / (1 - alpha)
        assert float(renyi(corr, region, alpha)) == pytest.approx(expected, abs=1e-10)
    assert float(renyi(corr, region, math.inf)) == pytest.approx(-np.log(weights[-1]), abs=1e-12)
    np.testing.assert_allclose(
        charge_distribution(corr, region)[: region.sum() + 1],
        fock.charge_distribution(rho, 4, region),
        atol=1e-14,
    )
    levels = entanglement_spectrum(corr, region, largest=int(region.sum()))
    z = np.linalg.eigvalsh(corr[np.ix_(region, region)])
    np.testing.assert_allclose(levels, np.sort(np.log((1 - z) / z)), rtol=1e-9)


@hypothesis.given(seeds)
def test_laws_of_entropies(seed):
    rng, corr, region = draw(seed)
    other = rng.random(region.size) < 0.4
    third = rng.random(region.size) < 0.4
    s = {
        name: float(entropy(corr, mask))
        for name, mask in (
            ("a", region),
            ("b", other & ~region),
            ("ab", region | other),
            ("abc", region | other | third),
            ("bc", (other & ~region) | (third & ~region)),
            ("rest", ~region),
            ("all", np.ones_like(region)),
        )
    }
    assert -1e-12 <= s["a"] <= region.sum() * np.log(2) + 1e-12
    assert s["ab"] <= s["a"] + s["b"] + 1e-10
    assert s["all"] >= abs(s["a"] - s["rest"]) - 1e-10
    assert s["abc"] + s["b"] <= s["ab"] + s["bc"] + 1e-10
    assert float(mutual_information(corr, region, other & ~region)) >= -1e-10


@hypothesis.given(seeds)
def test_what_leaves_the_entropy_alone(seed):
    rng, corr, region = draw(seed)
    sites = region.size
    expected = float(entropy(corr, region))
    inside = np.eye(sites, dtype=complex)
    chosen = np.flatnonzero(region)
    inside[np.ix_(chosen, chosen)] = np.linalg.eigh(hermitian(rng, chosen.size))[1]
    gauge = np.exp(2j * np.pi * rng.random(sites))
    order = rng.permutation(sites)
    for changed, mask in (
        (inside.conj().T @ corr @ inside, region),
        (np.eye(sites) - corr.T, region),
        (gauge[:, None] * corr * gauge.conj(), region),
        (corr[np.ix_(order, order)], region[order]),
    ):
        assert float(entropy(changed, mask)) == pytest.approx(expected, abs=1e-10)


@hypothesis.given(seeds, st.integers(0, 6))
def test_both_sides_of_a_pure_state_are_alike(seed, particles):
    rng = np.random.default_rng(seed)
    corr, region = projector(rng, 6, particles), rng.random(6) < 0.5
    inside, outside = float(entropy(corr, region)), float(entropy(corr, ~region))
    assert inside == pytest.approx(outside, abs=1e-10)
    if region.any() and not region.all():
        shared = float(mutual_information(corr, region, ~region))
        assert shared == pytest.approx(2 * inside, abs=1e-10)


@hypothesis.given(seeds)
def test_charge_statistics_agree_with_each_other(seed):
    _, corr, region = draw(seed, 6)
    chances = np.asarray(charge_distribution(corr, region))
    charges = np.arange(chances.size)
    assert chances.min() >= 0
    assert chances.sum() == pytest.approx(1, abs=1e-13)
    found = np.asarray(charge_cumulants(corr, region, 4))
    mean = chances @ charges
    moments = [chances @ (charges - mean) ** k for k in (2, 3, 4)]
    expected = [mean, moments[0], moments[1], moments[2] - 3 * moments[0] ** 2]
    np.testing.assert_allclose(found, expected, atol=1e-11)
    field = np.array([0.0, 0.7, 2 * np.pi, -2.0])
    transform = (chances * np.exp(1j * field[:, None] * charges)).sum(1)
    np.testing.assert_allclose(generating_function(corr, region, field), transform, atol=1e-12)
    size = int(region.sum())
    det = np.linalg.det(np.eye(size) + (np.exp(0.7j) - 1) * corr[np.ix_(region, region)])
    assert complex(transform[1]) == pytest.approx(det, abs=1e-12)


@pytest.mark.parametrize("sizes", [(2, 2), (1, 2, 1)])
def test_transfers_are_those_of_two_countings(sizes):
    """Thermal starts, whose charges fluctuate: joint operators against the determinant."""
    rng = np.random.default_rng(8)
    masks = subsystems(*sizes)
    before, h = hermitian(rng, 4), hermitian(rng, 4)
    before[~(masks.T.astype(int) @ masks).astype(bool)] = 0
    c = fock.annihilators(4)
    rho = fock.thermal(fock.hamiltonian(before), sum(x.conj().T @ x for x in c), 0.7, 0.4)
    back = scipy.linalg.expm(1j * fock.hamiltonian(h) * 0.9)
    fields = rng.uniform(-3, 3, size=(3, len(masks)))
    found = transfer_function(h, fock.correlation(rho, 4), masks, 0.9, fields)
    for field, chi in zip(fields, found, strict=True):
        angle = field @ masks
        charge = np.diag(sum(a * x.conj().T @ x for a, x in zip(angle, c, strict=True)))
        later = back @ np.diag(np.exp(1j * charge)) @ back.conj().T
        expected = np.trace(rho @ later @ np.diag(np.exp(-1j * charge)))
        assert complex(chi) == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ValueError, match="apart"):
        transfer_function(h, mixed(rng, 4), masks, 0.9, fields)
    with pytest.raises(ValueError, match="overlap"):
        transfer_function(h, np.eye(4) / 2 + 0j, np.ones((2, 4), bool), 0.9, fields[:, :2])
    with pytest.raises((ValueError, TypeError), match="regions"):
        transfer_function(h, np.eye(4) / 2 + 0j, masks[:, :3], 0.9, fields)


@pytest.mark.slow
def test_transfers_from_a_sharp_start_are_charges():
    rng = np.random.default_rng(9)
    h, region, field = hermitian(rng, 5), np.arange(5) < 2, np.array([0.4, -1.3])
    start = np.diag([1.0, 0, 1, 1, 0]) + 0j
    (later,) = evolve_eig(h, start, np.array([1.7]))
    charges = generating_function(later, region, field) * np.exp(-1j * field)
    found = transfer_function(h, start, region[None], 1.7, field[:, None])
    np.testing.assert_allclose(found, charges, atol=1e-12)


@hypothesis.given(seeds)
@few
def test_estimators_from_charges_reach_the_entropy(seed):
    _, corr, region = draw(seed, 6)
    exact = float(entropy(corr, region))
    assert roots_estimator(charge_distribution(corr, region)) == pytest.approx(exact, abs=1e-9)
    cumulants = charge_cumulants(corr, region, 20)
    partial = [float(song_series(cumulants, order)) for order in (1, 4, 9, 19)]
    assert np.all(np.diff(partial) > -1e-12)
    assert partial[-1] <= exact + 1e-9


@pytest.mark.parametrize("z", [1e-9, 0.03, 0.31, 0.5, 0.87, 1 - 1e-6])
def test_cumulants_of_one_coin_to_order_twenty(z):
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(60):
        mean = mpmath.mpf(z)
        series = mpmath.taylor(lambda t: mpmath.log(1 + (mpmath.exp(t) - 1) * mean), 0, 20)
        expected = [float(c * mpmath.factorial(n)) for n, c in enumerate(series)][1:]
    found = charge_cumulants(np.array([[z + 0j]]), None, 20)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10 * np.abs(expected).max())


def test_roots_in_extended_precision_reach_further():
    z, chances = np.linspace(0.02, 0.98, 30), np.ones(1)
    for mean in z:
        chances = np.convolve(chances, [1 - mean, mean])
    exact = -(z * np.log(z) + (1 - z) * np.log1p(-z)).sum()
    assert roots_estimator(chances, digits=50) == pytest.approx(exact, abs=1e-6)


def test_complex_zeros_betray_interactions():
    z = roots_occupations(np.array([0.5, 0.0, 0.5]))
    assert abs(z.imag).max() > 0.4


def test_regions_are_data_and_not_programs():
    rng = np.random.default_rng(0)
    corr = mixed(rng, 11)
    with count_compilations("_occupations_body") as compiled:
        for region in itertools.islice(itertools.product((False, True), repeat=11), 5, 25):
            entropy(corr, np.array(region))
    assert compiled.count == 1


def test_largest_region_changes_nothing_but_the_work():
    _, corr, region = draw(5, 8)
    size = int(region.sum())
    full = np.asarray(occupations(corr, region))
    for largest in (size, 7):
        small = np.asarray(occupations(corr, region, largest=largest))
        np.testing.assert_allclose(small, full[8 - largest :], atol=1e-14)
    with pytest.raises(ValueError, match="largest"):
        entropy(corr, region, largest=size - 1)
    traced = jax.jit(lambda mask: entropy(corr, mask, largest=size - 1))
    assert np.isnan(traced(region))


CORNERS = {
    "empty region": (np.eye(3) / 2 + 0j, [0, 0, 0], 0.0),
    "all of a pure state": (np.ones((2, 2)) / 2 + 0j, [1, 1], 0.0),
    "one site": (np.ones((2, 2)) / 2 + 0j, [0, 1], np.log(2)),
    "no particles": (np.zeros((3, 3), complex), [1, 0, 1], 0.0),
    "full": (np.eye(3, dtype=complex), [1, 1, 0], 0.0),
    "rounding beyond the edges": (np.diag([-1e-15, 1 + 1e-15]) + 0j, [1, 1], 0.0),
}


@pytest.mark.parametrize("name", CORNERS)
def test_corners(name):
    corr, region, expected = CORNERS[name]
    region = np.array(region, bool)
    assert float(entropy(corr, region)) == pytest.approx(expected, abs=1e-12)
    assert np.isfinite(jax.grad(lambda c: entropy(c, region))(corr)).all()
    assert float(renyi(corr, region, 2.0)) == pytest.approx(expected, abs=1e-12)
    assert np.isfinite(jax.grad(lambda c: renyi(c, region, 0.4))(corr)).all()


FUNCTIONS = {
    "entropy": lambda c, r: entropy(c, r),
    "renyi": lambda c, r: renyi(c, r, 1.7),
    "min-entropy": lambda c, r: renyi(c, r, math.inf),
    "mutual": lambda c, r: mutual_information(c, r, ~r & (np.arange(6) < 5)),
    "cumulants": lambda c, r: charge_cumulants(c, r, 5) @ np.array([1.0, 2, 0.5, 0.1, 0.2]),
    "distribution": lambda c, r: charge_distribution(c, r) @ np.arange(7.0) ** 1.5,
    "spectrum": lambda c, r: jnp.tanh(entanglement_spectrum(c, r)).sum(),
    "naive series": lambda c, r: kl_series(charge_cumulants(c, r, 6), 3),
    "Song's series": lambda c, r: song_series(charge_cumulants(c, r, 6), 5),
    "extrapolated": lambda c, r: song_extrapolated(charge_cumulants(c, r, 6), (3, 5)),
    "generating": lambda c, r: generating_function(c, r, np.array([0.3, 1.1])).imag.sum(),
    "transfers": lambda c, r: transfer_function(
        jnp.arange(36.0).reshape(6, 6), jnp.where(jnp.eye(6) > 0, c, 0), r[None], 0.7, FIELDS
    ).real.sum(),
}
FIELDS = np.array([[0.3], [1.1]])


def test_renyi_entropies_meet_the_entropy_at_order_one():
    """S_a = S - (a - 1) Var(ln rho) / 2 + ...: no digits are lost on the way."""
    z = np.array([0.3, 0.2, 0.0, 1.0])
    corr, inner = np.diag(z) + 0j, z[:2]
    variance = (inner * (1 - inner) * np.log((1 - inner) / inner) ** 2).sum()
    for step in (1e-3, -1e-5, 1e-9, 1e-12, -1e-15):
        expected = float(entropy(corr)) - step * variance / 2
        assert float(renyi(corr, None, 1 + step)) == pytest.approx(expected, abs=step**2 + 1e-13)
    near = jax.grad(lambda c: renyi(c, None, 1 + 1e-12))(corr[:2, :2])
    np.testing.assert_allclose(near, jax.grad(entropy)(corr[:2, :2]), rtol=1e-9)
    ends = [float(renyi(corr, None, 1 + s)) for s in (0.01 - 1e-9, 0.01 + 1e-9)]
    assert ends[0] == pytest.approx(ends[1], abs=1e-8)


@pytest.mark.parametrize(
    "names",
    [
        [name for name in FUNCTIONS if name != "transfers"],
        pytest.param(["transfers"], marks=pytest.mark.slow),
    ],
)
def test_eager_jit_vmap_and_gradient_agree(names):
    """Of all functions together, in their order: few programs, each compiled once."""

    def all_of(corr, region):
        return jnp.stack([FUNCTIONS[name](corr, region) for name in names])

    rng = np.random.default_rng(1)
    corrs = np.stack([mixed(rng, 6) for _ in range(3)])
    region = np.array([True, False, True, True, False, False])
    jitted, mapped = jax.jit(all_of), jax.jit(jax.vmap(all_of, (0, None)))
    alone = np.stack([jitted(c, region) for c in corrs])
    np.testing.assert_allclose(all_of(corrs[0], region), alone[0], rtol=1e-12)
    np.testing.assert_allclose(mapped(corrs, region), alone, rtol=1e-12)
    direction = hermitian(rng, 6)
    _, slopes = jax.jit(lambda c, d: jax.jvp(lambda c: all_of(c, region), (c,), (d,)))(
        corrs[0], direction
    )
    step = 1e-6
    ahead, behind = (jitted(corrs[0] + s * direction, region) for s in (step, -step))
    np.testing.assert_allclose(slopes, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-7)
    weights = rng.normal(size=len(names))
    pulled = jax.jit(jax.grad(lambda c: weights @ all_of(c, region)))(jnp.asarray(corrs[0]))
    # jax's gradient of a real function is conjugate to the direction it pairs with.
    assert float(jnp.sum(pulled * direction).real) == pytest.approx(
        float(weights @ slopes), rel=1e-9
    )


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("how", ["eager", "jit", "grad", "vmap"])
def test_single_precision_is_refused(name, how):
    function, region = FUNCTIONS[name], np.arange(6) % 2 == 0
    corr = np.eye(6, dtype=complex) / 2
    call = {
        "eager": lambda: function(corr, region),
        "jit": lambda: jax.jit(function)(corr, region),
        "grad": lambda: jax.grad(lambda c: function(c, region).real)(jnp.asarray(corr)),
        "vmap": lambda: jax.vmap(function, (0, None))(corr[None], region),
    }[how]
    with jax.enable_x64(False), pytest.raises(TypeError, match="enable_x64"):
        call()


SERIES = {
    "kl_series": lambda x: kl_series(x, 2),
    "song_series": lambda x: song_series(x, 3),
    "song_extrapolated": lambda x: song_extrapolated(x, (2, 3)),
    "generating_function": lambda x: generating_function(np.eye(3) / 2 + 0j, None, x).real.sum(),
    "sample_occupations": lambda x: sample_occupations(jax.random.key(0), jnp.diag(x), 2).sum() * x,
}


@pytest.mark.parametrize("name", SERIES)
@pytest.mark.parametrize("how", ["eager", "jit", "grad", "vmap"])
def test_single_precision_numbers_are_refused(name, how):
    function, x = SERIES[name], np.array([0.1, 0.2, 0.3, 0.4])
    call = {
        "eager": lambda: function(x),
        "jit": lambda: jax.jit(function)(x),
        "grad": lambda: jax.grad(lambda y: jnp.sum(function(y)))(jnp.asarray(x)),
        "vmap": lambda: jax.vmap(function)(x[None]),
    }[how]
    with jax.enable_x64(False), pytest.raises(TypeError, match="enable_x64"):
        call()


def test_single_precision_arrays_are_refused_in_double_mode():
    with pytest.raises(TypeError, match="complex64"):
        entropy(np.eye(2, dtype=np.complex64))


def test_gradient_is_finite_where_occupations_are_degenerate():
    rng = np.random.default_rng(4)
    corr = np.kron(np.eye(2), mixed(rng, 3))
    region, direction = np.arange(6) % 3 != 1, hermitian(rng, 6)
    _, slope = jax.jvp(lambda c: entropy(c, region), (corr,), (direction,))
    ahead, behind = (float(entropy(corr + s * direction, region)) for s in (1e-5, -1e-5))
    assert float(slope) == pytest.approx((ahead - behind) / 2e-5, rel=1e-5)


def test_second_derivative_is_right_where_occupations_differ():
    def along(x):
        h = jnp.asarray(hermitian(np.random.default_rng(0), 5)) + x * jnp.diag(jnp.arange(5.0))
        return entropy(ground_corr(h, 2), np.arange(5) < 2, largest=2)

    both = jax.jit(jax.value_and_grad(jax.grad(along)))
    second, slopes = both(0.3)[1], [both(0.3 + s)[0] for s in (1e-5, -1e-5)]
    assert float(second) == pytest.approx(float(slopes[0] - slopes[1]) / 2e-5, rel=1e-5)


@pytest.mark.oldest
@pytest.mark.parametrize("real", [False, True])
def test_eigenvalues_without_vectors(real):
    """LAPACK's own function, called by name: what a change of jax would break first."""
    rng = np.random.default_rng(2)
    batch = np.stack([hermitian(rng, 5) for _ in range(3)])
    batch = batch.real if real else batch
    expected = np.linalg.eigvalsh(batch)
    np.testing.assert_allclose(jax.jit(jax.vmap(eigenvalues))(batch), expected, atol=1e-13)
    np.testing.assert_allclose(eigenvalues(jnp.asarray(batch[0])), expected[0], atol=1e-13)


def test_impossible_occupations_are_refused():
    z = np.array([0.3, 1 + 1e-6, 0.5])
    for wrong in (np.diag(z) + 0j, np.diag([5.0, -3.0]) + 0j, 2 * np.eye(3) / 3 - np.eye(3) + 0j):
        with pytest.raises(ValueError, match="outside"):
            entropy(wrong)
        assert np.isnan(jax.jit(entropy)(wrong))
    corr, clear = np.diag(z) + 0j, np.array([True, False, True])
    assert np.isfinite(float(entropy(corr, clear)))  # the region is what counts
    with pytest.raises(ValueError, match="outside"):
        charge_cumulants(corr, ~clear, 2)
    assert np.isnan(jax.jit(lambda c: charge_distribution(c, ~clear))(corr)).all()


@pytest.mark.parametrize(
    ("region", "error", "message"),
    [
        (np.array([0, 2]), TypeError, "bool mask"),
        (np.ones(3, bool), ValueError, "4 sites"),
    ],
)
def test_bad_regions_are_refused(region, error, message):
    with pytest.raises(error, match=message):
        check_region("occupations", np.eye(4), region)


def test_other_bad_input_is_refused():
    corr, region = np.eye(4) / 2 + 0j, np.arange(4) < 2
    with pytest.raises(ValueError, match="alpha"):
        renyi(corr, region, 0.0)
    with pytest.raises(ValueError, match="overlap"):
        mutual_information(corr, region, region)
    with pytest.raises(ValueError, match="order"):
        charge_cumulants(corr, region, 0)
