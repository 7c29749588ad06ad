"""Free evolution and its starting states against matrix exponentials, with their derivatives."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxlab.vne import (
    block_diag,
    box_disorder,
    certificate,
    dot,
    entropy,
    evolve_driven,
    evolve_eig,
    evolve_noisy,
    ground_corr,
    hopping_chain,
    qpc,
    star,
    thermal_corr,
)
from tests.compile_counter import count_compilations
from tests.vne.cases import hermitian, mixed, projector

TIMES = np.array([0.0, 0.7, 3.1])
LEFT = np.arange(6) < 3


def by_exponential(h, corr, time):
    unitary = scipy.linalg.expm(-1j * h * time)
    return unitary.conj() @ corr @ unitary.T


@pytest.mark.parametrize("real", [False, True])
def test_evolution_is_that_of_the_exponential(real):
    rng = np.random.default_rng(0)
    h, corr = hermitian(rng, 6), mixed(rng, 6)
    h = h.real if real else h
    found = evolve_eig(h, corr, TIMES)
    for time, now in zip(TIMES, found, strict=True):
        np.testing.assert_allclose(now, by_exponential(h, corr, time), atol=1e-12)
    sites = np.array([4, 1])
    np.testing.assert_allclose(
        evolve_eig(h, corr, TIMES, sites=sites), found[:, sites][:, :, sites], atol=1e-13
    )
    skewed = corr + 1j * hermitian(rng, 6)
    np.testing.assert_allclose(evolve_eig(h, skewed, TIMES), found, atol=1e-12)


@hypothesis.given(st.integers(0, 2**32 - 1))
@hypothesis.settings(max_examples=10)
def test_what_evolution_keeps(seed):
    rng = np.random.default_rng(seed)
    h, corr = hermitian(rng, 5), mixed(rng, 5)
    time = rng.uniform(0, 10)
    (later,) = evolve_eig(h, corr, np.array([time]))
    assert float(jnp.trace(later).real) == pytest.approx(np.trace(corr).real, abs=1e-11)
    np.testing.assert_allclose(np.linalg.eigvalsh(later), np.linalg.eigvalsh(corr), atol=1e-11)
    (back,) = evolve_eig(h, later, np.array([-time]))
    np.testing.assert_allclose(back, corr, atol=1e-11)


@hypothesis.given(st.integers(0, 2**32 - 1))
@hypothesis.settings(max_examples=5)
def test_continuity_of_the_charge(seed):
    rng = np.random.default_rng(seed)
    h, corr = np.asarray(hopping_chain(6, phase=0.4, onsite=rng.normal(size=6))), mixed(rng, 6)
    now, growth = moving(h, corr, 0.9)
    currents = -2 * (np.diagonal(h, 1) * np.diagonal(now, 1)).imag
    expected = np.concatenate([[0], currents]) - np.concatenate([currents, [0]])
    np.testing.assert_allclose(growth, expected, atol=1e-12)


@jax.jit
def moving(h, corr, time):
    """``C(t)``, and how fast the occupations change."""
    now, change = jax.jvp(lambda t: evolve_eig(h, corr, t[None])[0], (time,), (jnp.ones(()),))
    return now, jnp.diagonal(change).real


def test_light_cone():
    start = np.diag(np.arange(120) < 60).astype(complex)
    (later,) = evolve_eig(qpc(60, 60), start, np.array([10.0]))
    moved = np.abs(np.asarray(later) - start)
    assert moved[45:75, 45:75].max() > 0.1
    assert moved[:30, :30].max() < 1e-6
    assert moved[:20, :20].max() < 1e-12


def curve(contact, time=2.0, phase=0.3):
    left = ground_corr(hopping_chain(3, phase=phase), 2)
    right = ground_corr(hopping_chain(3, phase=phase), 1)
    h = qpc(3, 3, contact=contact, phase=phase)
    return evolve_eig(
        h, block_diag(left, right), jnp.array([time]), measure=lambda c: entropy(c, LEFT)
    )[0]


VALUE_AND_SLOPES = jax.jit(jax.value_and_grad(curve, argnums=(0, 1, 2)))


@pytest.mark.parametrize("contact", [0.5, 0.05])
@pytest.mark.parametrize("argument", [0, 1, 2])
def test_gradients_along_a_quench(contact, argument):
    point = [contact, 2.0, 0.3]
    slope = VALUE_AND_SLOPES(*point)[1][argument]
    ends = []
    for step in (1e-5, -1e-5):
        moved = list(point)
        moved[argument] += step
        ends.append(float(VALUE_AND_SLOPES(*moved)[0]))
    assert float(slope) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6, abs=1e-8)


def test_gradients_are_finite_at_a_closed_contact():
    assert VALUE_AND_SLOPES(0.0, 2.0, 0.3)[1][0] == 0  # the entropy is even in the contact
    filled = jax.jit(jax.grad(lambda x: entropy(ground_corr(qpc(4, 3, contact=x), 3))))
    assert np.isfinite(filled(0.0))
    small = 1e-3
    ends = [float(VALUE_AND_SLOPES(s * small, 2.0, 0.3)[0]) for s in (1.01, 0.99)]
    slope = float(VALUE_AND_SLOPES(small, 2.0, 0.3)[1][0])
    assert slope == pytest.approx((ends[0] - ends[1]) / (0.02 * small), rel=1e-3)


def test_derivative_where_levels_cross():
    """Two equal leads: every level is degenerate, and the contact mixes each pair."""
    corr = np.asarray(block_diag(projector(np.random.default_rng(0), 3, 1), np.zeros((3, 3))))
    bond = np.zeros((6, 6))
    bond[2, 3] = bond[3, 2] = 1
    h = np.asarray(qpc(3, 3, contact=0.0))
    change = jax.jvp(lambda m: evolve_eig(m, corr, TIMES), (jnp.asarray(h),), (jnp.asarray(bond),))[
        1
    ]
    for time, found in zip(TIMES, change, strict=True):
        ends = [by_exponential(h + s * bond, corr, time) for s in (1e-5, -1e-5)]
        np.testing.assert_allclose(found, (ends[0] - ends[1]) / 2e-5, atol=1e-8)


@pytest.mark.slow
def test_second_derivative_is_right_where_levels_differ():
    def charge(x):
        h = jnp.asarray(hermitian(np.random.default_rng(3), 4)) + x * jnp.diag(jnp.arange(4.0))
        corr = jnp.diag(jnp.array([1.0, 0, 0, 0])) + 0j
        return evolve_eig(h, corr, jnp.array([1.1]))[0, 0, 0].real

    slopes = jax.jit(jax.value_and_grad(jax.grad(charge)))
    second = slopes(0.2)[1]
    ends = [float(slopes(0.2 + s)[0]) for s in (1e-5, -1e-5)]
    assert float(second) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6)


@pytest.mark.parametrize("particles", [0, 1, 3, 5])
def test_ground_state_fills_the_lowest_levels(particles):
    h = hermitian(np.random.default_rng(5), 5)
    energies, modes = np.linalg.eigh(h)
    corr = ground_corr(h, particles)
    expected = modes[:, :particles].conj() @ modes[:, :particles].T
    np.testing.assert_allclose(corr, expected, atol=1e-12)
    energy = float(jnp.sum(h * corr).real)
    assert energy == pytest.approx(energies[:particles].sum(), abs=1e-12)


def test_derivatives_of_the_starting_states():
    rng = np.random.default_rng(6)
    h, bump, weight = (hermitian(rng, 5) for _ in range(3))

    @jax.jit
    @jax.value_and_grad
    def probe(point, signs):
        x, mu, temperature = point
        moved = jnp.asarray(h + x * bump)
        states = (
            ground_corr(moved, 2),
            thermal_corr(moved, mu, temperature),
            thermal_corr(moved, mu, 1e-3),
        )
        return signs @ jnp.stack([jnp.sum(weight * state).real for state in states])

    for signs in np.eye(3):
        point = np.array([0.0, 0.3, 0.2])
        slopes = probe(point, signs)[1]
        for place in range(3):
            step = 1e-5 * np.eye(3)[place]
            ends = [float(probe(point + s * step, signs)[0]) for s in (1, -1)]
            assert float(slopes[place]) == pytest.approx(
                (ends[0] - ends[1]) / 2e-5, rel=1e-6, abs=1e-7
            )


def test_thermal_leads_of_their_own():
    h = np.asarray(qpc(3, 2, contact=0.0, phase=0.2))
    mu, temperature = np.repeat([0.5, -0.5], [3, 2]), np.repeat([0.1, 0.4], [3, 2])
    found = thermal_corr(h, mu, temperature)
    for block, m, t in ((slice(0, 3), 0.5, 0.1), (slice(3, 5), -0.5, 0.4)):
        expected = np.linalg.inv(
            np.eye(len(h[block, block]))
            + scipy.linalg.expm((h[block, block] - m * np.eye(len(h[block, block]))) / t)
        ).T
        np.testing.assert_allclose(found[block, block], expected, atol=1e-12)
    assert np.abs(found[:3, 3:]).max() < 1e-13
    cold = thermal_corr(h, mu, 1e-8)
    assert float(entropy(cold)) == pytest.approx(0, abs=1e-12)


def test_what_has_no_unique_state_is_refused():
    with pytest.raises(ValueError, match="degenerate"):
        ground_corr(qpc(3, 3, contact=0.0), 3)
    assert np.isnan(jax.jit(ground_corr)(qpc(3, 3, contact=0.0), 3)).all()
    with pytest.raises(ValueError, match="particles"):
        ground_corr(hopping_chain(3), 4)
    h = qpc(2, 2, contact=0.1)
    with pytest.raises(ValueError, match="decoupled"):
        thermal_corr(h, np.repeat([0.0, 1.0], 2), 0.1)
    assert np.isnan(jax.jit(thermal_corr)(h, 0.0, np.repeat([0.1, 0.2], 2))).all()
    with pytest.raises(ValueError, match="positive"):
        thermal_corr(h, 0.0, 0.0)
    with pytest.raises(ValueError, match="mu"):
        thermal_corr(h, np.zeros(3), 0.1)


HALF = np.triu(np.diag(-np.ones(3), 1))
"""The commonest slip: hoppings above the diagonal alone."""

OF_H = {
    "evolve_eig": lambda h: evolve_eig(h, np.diag([1.0, 0, 1, 0]) + 0j, TIMES),
    "ground_corr": lambda h: ground_corr(h, 2),
    "thermal_corr": lambda h: thermal_corr(h, 0.1, 0.3),
}


@pytest.mark.parametrize("name", OF_H)
def test_matrices_that_are_not_hermitian_are_refused(name):
    call = OF_H[name]
    for wrong in (
        HALF,
        HALF + HALF.T + 1e-6j * np.eye(4),
        HALF + HALF.T + np.diag([np.nan, 0, 0, 0]),
    ):
        with pytest.raises(ValueError, match=f"{name}: h is not Hermitian"):
            call(wrong)
    rounded = HALF + HALF.T + 1e-13 * HALF
    found = jax.jit(call)(rounded)
    np.testing.assert_allclose(found, call(HALF + HALF.T), atol=1e-11)
    assert np.isnan(jax.jit(call)(HALF)).all()


def test_disorder_fills_its_box():
    found = np.asarray(box_disorder(jax.random.key(0), 4000, 0.8))
    assert -0.4 <= found.min() < -0.39
    assert 0.39 < found.max() <= 0.4
    assert found.mean() == pytest.approx(0, abs=0.02)


def test_lattices():
    chain = np.asarray(hopping_chain(3, hopping=[1.0, 2.0], onsite=[0.1, 0.2, 0.3], phase=[0.5, 0]))
    assert chain[0, 1] == pytest.approx(-np.exp(0.5j))
    assert chain[1, 0] == pytest.approx(-np.exp(-0.5j))
    np.testing.assert_allclose(np.diag(chain), [0.1, 0.2, 0.3])
    middle = np.asarray(dot(2, 3, couplings=(0.3, 0.4), energy=0.7))
    np.testing.assert_allclose(np.diagonal(middle, 1), [-1, -0.3, -0.4, -1, -1])
    assert middle[2, 2] == 0.7
    turned = np.asarray(dot(2, 3, couplings=(0.3j, 0.4j)))
    assert (turned[2, 1], turned[2, 3]) == (-0.3j, -0.4j)
    np.testing.assert_allclose(turned, turned.conj().T)
    web = np.asarray(star((2, 3), (0.3, 0.4j), energy=0.7, onsite=(0.0, 0.2)))
    np.testing.assert_allclose(web, web.conj().T)
    assert (web[0, 0], web[0, 1], web[0, 3], web[3, 3]) == (0.7, -0.3, -0.4j, 0.2)
    assert np.count_nonzero(web) == 1 + 4 + 2 * 3 + 3
    for build in (
        lambda: hopping_chain(0),
        lambda: hopping_chain(3, hopping=[1.0]),
        lambda: star((), 0.5),
        lambda: star((2, 2), (0.5, 0.5, 0.5)),
        lambda: block_diag(),
        lambda: block_diag(np.zeros((2, 3))),
    ):
        with pytest.raises(ValueError, match=r"must|give|empty|square"):
            build()


def test_one_program_for_all_regions_and_times():
    rng = np.random.default_rng(7)
    h, corr = hermitian(rng, 9), mixed(rng, 9)

    def curves(regions):
        def measure(now):
            return jax.vmap(entropy, (None, 0))(now, regions)

        return evolve_eig(h, corr, jnp.linspace(0, 5, 50), measure=measure)

    jitted = jax.jit(curves)
    with count_compilations("curves") as compiled:
        for _ in range(3):
            found = jitted(rng.random((20, 9)) < 0.5)
    assert compiled.count == 1
    assert found.shape == (50, 20)


CURVES = {
    "ground": lambda x: ground_corr(qpc(3, 2, contact=x, phase=0.3), 2),
    "thermal": lambda x: thermal_corr(qpc(3, 2, contact=x, phase=0.3), 0.2, 0.4),
    "eig": lambda x: evolve_eig(qpc(3, 2, contact=x), FILLED, TIMES),
}
LONGER = {
    "driven": lambda x: evolve_driven(
        lambda t: qpc(3, 2, contact=x * (1 + t / 3)), FILLED, TIMES / 2, steps=8
    ),
    "noisy": lambda x: evolve_noisy(qpc(3, 2, contact=x), np.eye(5)[::-1], FILLED, PATHS, 0.2)[0],
    "certificate": lambda x: jnp.stack(certificate(BLURRED + x * TILT, np.arange(5) < 2)),
}
FILLED, PATHS = np.diag([1.0, 1, 0, 0, 1]) + 0j, np.array([[0.3, -0.2], [0.1, 0.4]])
BLURRED, TILT = mixed(np.random.default_rng(8), 5), 0.01 * hermitian(np.random.default_rng(9), 5)


@pytest.mark.parametrize("curves", [CURVES, pytest.param(LONGER, marks=pytest.mark.slow)])
def test_eager_jit_vmap_and_gradient_agree(curves):
    """Of all curves together, in their order: few programs, each compiled once."""

    def all_of(x):
        return jnp.concatenate([jnp.ravel(curve(x)) for curve in curves.values()])

    points = np.array([0.2, 0.5, 0.9])
    eager, jitted = np.asarray(all_of(points[1])), jax.jit(all_of)
    alone = np.stack([jitted(x) for x in points])
    np.testing.assert_allclose(alone[1], eager, atol=1e-12)
    np.testing.assert_allclose(jax.jit(jax.vmap(all_of))(points), alone, atol=1e-12)
    _, slopes = jax.jit(lambda x: jax.jvp(all_of, (x,), (1.0,)))(0.5)
    ends = [jitted(0.5 + step) for step in (1e-5, -1e-5)]
    np.testing.assert_allclose(slopes, (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=1e-8)
    weight = np.random.default_rng(1).normal(size=eager.shape)

    def probe(x):
        found = all_of(x)
        return jnp.sum(weight * (found.real + found.imag))

    pulled = jax.jit(jax.grad(probe))(0.5)
    expected = weight @ (slopes.real + slopes.imag)
    assert float(pulled) == pytest.approx(float(expected), rel=1e-9)


STEPS = {
    "evolve_driven": lambda h, c: evolve_driven(lambda t: h, c, np.array([1.0])),
    "evolve_noisy": lambda h, c: evolve_noisy(h, h, c, np.ones((1, 2)), 0.1)[0],
    "hopping_chain": lambda h, c: hopping_chain(3),
    "ground_corr": lambda h, c: ground_corr(h, 1),
    "thermal_corr": lambda h, c: thermal_corr(h, 0.0, 0.1),
    "evolve_eig": lambda h, c: evolve_eig(h, c, np.array([1.0])),
    "block_diag": lambda h, c: block_diag(h, c),
}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("how", ["eager", "jit", "grad", "vmap"])
def test_single_precision_is_refused(name, how):
    function = STEPS[name]
    h = hermitian(np.random.default_rng(0), 3)
    corr = projector(np.random.default_rng(1), 3, 1)
    call = {
        "eager": lambda: function(h, corr),
        "jit": lambda: jax.jit(function)(h, corr),
        "grad": lambda: jax.grad(lambda m: function(m, corr).real.sum())(jnp.asarray(h)),
        "vmap": lambda: jax.vmap(lambda m: function(m, corr))(h[None]),
    }[how]
    with jax.enable_x64(False), pytest.raises(TypeError, match="enable_x64"):
        call()
