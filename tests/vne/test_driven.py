"""Driven, noisy, sampled and sharded evolution against independent solvers and counts."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.optimize

from jaxlab.vne import (
    entropy,
    entropy_from_modes,
    evolve_driven,
    evolve_eig,
    evolve_noisy,
    jackknife,
    map_quenches,
    qpc,
    sample_occupations,
    telegraph_noise,
    white_noise,
)
from tests.vne.cases import hermitian, mixed, projector

TIMES = np.array([0.4, 1.5])


STILL, MOVING, TURNING = (hermitian(np.random.default_rng(seed), 4) for seed in range(3))


def drive(time, sine=jnp.sin):
    return STILL + sine(2 * time) * MOVING + sine(time + np.pi / 2) ** 2 * TURNING


def by_adaptive_solver(corr, times):
    """An eighth-order Runge-Kutta of the propagator, tolerance 1e-12."""

    def slope(time, flat):
        return (-1j * drive(time, np.sin) @ flat.reshape(4, 4)).ravel()

    solved = scipy.integrate.solve_ivp(
        slope,
        (0, times[-1]),
        np.eye(4, dtype=complex).ravel(),
        "DOP853",
        times,
        rtol=1e-12,
        atol=1e-13,
    )
    unitaries = solved.y.T.reshape(-1, 4, 4)
    return np.array([u.conj() @ corr @ u.T for u in unitaries])


@pytest.mark.parametrize(("method", "order"), [("magnus4", 4), ("midpoint", 2), ("cayley", 2)])
def test_integrators_converge_at_their_order_and_stay_unitary(method, order):
    corr = mixed(np.random.default_rng(1), 4)
    right = by_adaptive_solver(corr, TIMES)
    errors = []
    for steps in (16, 32):
        found = evolve_driven(drive, corr, TIMES, steps=steps, method=method)
        errors.append(np.abs(np.asarray(found) - right).max())
        np.testing.assert_allclose(
            np.linalg.eigvalsh(found[-1]), np.linalg.eigvalsh(corr), atol=1e-12
        )
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.35)


@hypothesis.given(st.integers(0, 2**32 - 1), st.floats(-3, 3))
@hypothesis.settings(max_examples=10)
def test_drives_keep_the_entropy_of_all_sites(seed, time):
    corr = mixed(np.random.default_rng(seed), 4)
    later = DRIVEN(corr, np.array([time]))[0]
    assert float(entropy(later)) == pytest.approx(float(entropy(corr)), abs=1e-10)
    assert float(jnp.trace(later).real) == pytest.approx(np.trace(corr).real, abs=1e-11)


DRIVEN = jax.jit(lambda corr, times: evolve_driven(drive, corr, times, steps=4))


def test_a_constant_drive_is_no_drive():
    rng = np.random.default_rng(2)
    h, corr = hermitian(rng, 4), mixed(rng, 4)
    for method in ("magnus4", "midpoint"):
        found = evolve_driven(lambda t: jnp.asarray(h), corr, TIMES, steps=1, method=method)
        np.testing.assert_allclose(found, evolve_eig(h, corr, TIMES), atol=1e-12)
    (found,) = evolve_driven(lambda t: jnp.asarray(h), corr, np.array([0.7]), start=0.2)
    np.testing.assert_allclose(found, evolve_eig(h, corr, np.array([0.5]))[0], atol=1e-12)


def test_gradient_of_a_drive():
    corr = np.diag([1.0, 1, 0, 0]) + 0j

    @jax.jit
    @jax.value_and_grad
    def target(strength):
        return evolve_driven(
            lambda t: qpc(2, 2, contact=strength * jnp.sin(t)),
            corr,
            TIMES,
            measure=lambda c: entropy(c, np.arange(4) < 2),
        )[-1]

    slope = target(0.4)[1]
    ends = [float(target(0.4 + s)[0]) for s in (1e-5, -1e-5)]
    assert float(slope) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6)
    assert np.isfinite(target(0.0)[1])


def test_default_steps_are_checked():
    """One late time: sixteen steps would give half the entropy."""
    corr = np.diag([1.0, 1, 0, 0]) + 0j

    def late(time, steps=None):
        pulsed = lambda t: qpc(2, 2, contact=0.5 + 0.4 * jnp.sin(t))  # noqa: E731
        return evolve_driven(pulsed, corr, time, steps=steps)[-1]

    with pytest.raises(ValueError, match="steps"):
        late(np.array([50.0]))
    assert np.isnan(jax.jit(late)(np.array([50.0]))).all()
    found = late(np.linspace(1, 50, 50))
    np.testing.assert_allclose(found, late(np.array([50.0]), 2000), atol=1e-5)


def test_driven_refusals():
    corr = np.eye(4) / 2 + 0j
    with pytest.raises(ValueError, match="steps"):
        evolve_driven(drive, corr, TIMES, steps=0)
    with pytest.raises(ValueError, match="magnus4"):
        evolve_driven(drive, corr, TIMES, method="rk4")
    with pytest.raises(ValueError, match="shape"):
        evolve_driven(drive, np.eye(3) + 0j, TIMES)
    with jax.enable_x64(False), pytest.raises(TypeError, match="enable_x64"):
        evolve_driven(drive, corr, TIMES)


def test_white_noise_dephases_by_its_own_equation():
    """The averaged C obeys dC/dt = -i[h, C]' - (g / 2) [K, [K, C]], solved here as one matrix."""
    rng = np.random.default_rng(3)
    h, corr = hermitian(rng, 3), projector(rng, 3, 1)
    coupling = np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 0]])
    strength, interval, steps = 0.6, 0.05, 20
    paths = white_noise(jax.random.key(0), 1500, steps, interval, strength)
    found, inside = evolve_noisy(
        h, coupling, corr, paths, interval, measure=lambda c: entropy(c, np.arange(3) < 1)
    )
    one = np.eye(3)
    turn = lambda m: np.kron(m.conj(), one) - np.kron(one, m)  # noqa: E731
    double = turn(coupling) @ turn(coupling)
    whole = scipy.linalg.expm(interval * steps * (1j * turn(h) - strength / 2 * double))
    expected = (whole @ corr.ravel()).reshape(3, 3)
    assert np.abs(np.asarray(found[-1]) - expected).max() < 0.03
    assert (
        np.abs(np.asarray(found[-1]) - np.asarray(evolve_eig(h, corr, np.ones(1))[0])).max() > 0.1
    )
    assert float(inside[-1]) <= float(entropy(found[-1], np.arange(3) < 1))


def test_telegraph_noise_forgets_at_its_rate():
    paths = np.asarray(telegraph_noise(jax.random.key(1), 4000, 30, 0.1, 0.8, 0.5))
    np.testing.assert_allclose(np.abs(paths), 0.5)
    lag = 10
    memory = (paths[:, :-lag] * paths[:, lag:]).mean() / 0.25
    assert memory == pytest.approx(np.exp(-2 * 0.8 * 0.1 * lag), abs=0.02)
    assert abs(paths.mean()) < 0.01


@pytest.mark.parametrize("pure", [True, False])
def test_shots_have_the_probabilities_of_minors(pure):
    rng = np.random.default_rng(4)
    corr = projector(rng, 4, 2) if pure else mixed(rng, 4)
    shots = np.asarray(sample_occupations(jax.random.key(2), corr, 40_000))
    found = np.bincount(shots @ (1 << np.arange(4)), minlength=16) / len(shots)
    expected = np.zeros(16)
    for code in range(16):
        bits = (code >> np.arange(4)) & 1
        expected[code] = np.linalg.det(np.where(bits[:, None], corr, np.eye(4) - corr)).real
    np.testing.assert_allclose(found, expected, atol=0.012)
    if pure:
        assert (shots.sum(1) == 2).all()


@pytest.mark.parametrize("shots", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_intervals_cover_as_often_as_they_say(shots):
    """The twelve-site contact at t = 2: most of its modes are all but full or empty."""
    rng = np.random.default_rng(5)
    z = np.array([3.05814e-5, 3.142872e-3, 0.697511428, 0.987329557, 0.999984692, 1.0])
    truth = float(entropy(np.diag(z) + 0j))
    hits, values = 0, []
    for _ in range(600):
        estimate = entropy_from_modes(rng.binomial(shots, z), shots)
        assert estimate.low <= estimate.value <= estimate.high
        hits += estimate.low <= truth <= estimate.high
        values.append(estimate.value)
    assert 0.93 <= hits / 600 <= 0.97
    assert np.mean(values) == pytest.approx(truth, abs=3 * np.std(values) / 600**0.5 + 1 / shots)


def test_interval_of_one_coin_is_that_of_its_likelihood():
    estimate = entropy_from_modes(np.array([30]), 100)
    spent = lambda z: 30 * np.log(0.3 / z) + 70 * np.log(0.7 / (1 - z)) - 1.96**2 / 2  # noqa: E731
    ends = [scipy.optimize.brentq(spent, *side) for side in ((0.01, 0.3), (0.3, 0.49))]
    expected = [float(entropy(np.array([[z + 0j]]))) + 0.005 for z in ends]
    np.testing.assert_allclose([estimate.low, estimate.high], expected, atol=2e-3)
    never = entropy_from_modes(np.array([0]), 100)
    assert never.low == pytest.approx(0, abs=1e-9)
    rare = 1 - np.exp(-(1.96**2) / 200)
    assert never.high == pytest.approx(float(entropy(np.array([[rare + 0j]]))), rel=0.05)


def test_jackknife_takes_out_the_bias():
    chances = np.array([0.1, 0.2, 0.4, 0.25, 0.05])
    charges = np.arange(5)

    def variance(p):
        return p @ charges**2 - (p @ charges) ** 2

    rng, plain, mended, hits = np.random.default_rng(6), [], [], 0
    for _ in range(1500):
        counts = rng.multinomial(60, chances)
        estimate = jackknife(variance, counts)
        plain.append(variance(counts / 60))
        mended.append(estimate.value)
        assert estimate.value == pytest.approx(plain[-1] * 60 / 59)
        hits += estimate.low <= variance(chances) <= estimate.high
    assert abs(np.mean(mended) - variance(chances)) < 0.5 * abs(np.mean(plain) - variance(chances))
    assert hits / 1500 > 0.9


def test_batches_of_any_size_on_any_number_of_devices():
    contacts = np.linspace(0.1, 0.9, 13)
    start = np.diag([1.0, 1, 0, 0]) + 0j

    def final(contact):
        h = qpc(2, 2, contact=contact)
        return evolve_eig(
            h, start, jnp.array([1.0]), measure=lambda c: entropy(c, np.arange(4) < 2)
        )

    alone = jax.jit(lambda x: map_quenches(final, x))(contacts)
    mesh = jax.make_mesh((4, 2), ("a", "b"), (jax.sharding.AxisType.Auto,) * 2)
    spread = jax.jit(lambda x: map_quenches(final, x, mesh))(contacts)
    np.testing.assert_allclose(spread, alone, atol=1e-12)
    for contact, value in zip(contacts[::6], np.asarray(alone)[::6], strict=True):
        assert float(value[0]) == pytest.approx(float(final(contact)[0]), abs=1e-12)
    with pytest.raises(ValueError, match="batch"):
        map_quenches(final, (contacts, contacts[:3]))


def test_other_refusals():
    with pytest.raises(ValueError, match="shots"):
        sample_occupations(jax.random.key(0), np.eye(2) + 0j, 0)
    with pytest.raises(ValueError, match="counts"):
        entropy_from_modes(np.array([11]), 10)
    with pytest.raises(ValueError, match="counts"):
        jackknife(lambda p: 0.0, np.array([1, 0]))
