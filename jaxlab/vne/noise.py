"""Classical noise on a contact: the average over noise paths is a state that is not Gaussian."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex128, Float

from jaxlab.vne.driven import unitary_step
from jaxlab.vne.evolution import Measure
from jaxlab.vne.precision import Matrix, Scalar, in_double


def white_noise(
    key: Array, paths: int, steps: int, interval: Scalar, strength: Scalar
) -> Float[Array, "paths steps"]:
    """Noise without memory, as constant pieces: ``<x(t) x(t')> = strength * delta(t - t')``.

    Args:
      key: of ``jax.random``.
      paths: how many.
      steps: pieces of each.
      interval: length of a piece, time.
      strength: spectral density, energy squared times time.

    Returns:
      float64 ``[paths, steps]``, energy.

    Raises:
      TypeError: 64-bit mode is off.
    """
    interval, strength = in_double("white_noise", interval=interval, strength=strength)
    return jnp.sqrt(strength / interval) * jax.random.normal(key, (paths, steps), jnp.float64)


def telegraph_noise(
    key: Array, paths: int, steps: int, interval: Scalar, rate: Scalar, amplitude: Scalar
) -> Float[Array, "paths steps"]:
    """A two-level fluctuator: ``+-amplitude``, flipping at random.

    Args:
      key: of ``jax.random``.
      paths: how many.
      steps: pieces of each.
      interval: length of a piece, time.
      rate: flips per time; ``<x(t) x(0)> = amplitude^2 exp(-2 rate t)``.
      amplitude: energy.

    Returns:
      float64 ``[paths, steps]``, energy; each sign is as likely at the start.

    Raises:
      TypeError: 64-bit mode is off.
    """
    interval, rate, amplitude = in_double(
        "telegraph_noise", interval=interval, rate=rate, amplitude=amplitude
    )
    odd = -jnp.expm1(-2 * rate * interval) / 2
    chances = jnp.full((paths, steps), odd).at[:, 0].set(0.5)
    flips = jax.random.bernoulli(key, chances)
    return amplitude * (1.0 - 2 * (jnp.cumsum(flips, axis=1) % 2))


def evolve_noisy(
    h: Matrix,
    coupling: Matrix,
    corr: Matrix,
    paths: Float[Array | np.ndarray, "paths steps"],
    interval: Scalar,
    *,
    measure: Measure | None = None,
) -> tuple[Complex128[Array, "steps sites sites"], Any]:
    """Averages the evolution under ``h + x(t) coupling`` over noise paths ``x``.

    The averaged state is a mixture of Gaussian states, not Gaussian itself. Its entropy lies
    between the average over paths of their entropies (concavity), which ``measure`` gives, and the
    entropy of the averaged correlation matrix.

    Args:
      h: ``[L, L]`` Hermitian, energy.
      coupling: ``[L, L]`` Hermitian, what the noise moves, without unit.
      corr: ``C[i, j] = <c_i^dag c_j>`` at time 0, ``[L, L]``.
      paths: ``[P, T]``, energy, constant over each interval.
      interval: length of each, time.
      measure: function of each path's ``C``, averaged as well; None for none.

    Returns:
      The averaged ``C`` at the end of every interval, complex128 ``[T, L, L]``, and the average of
      ``measure``, with a leading ``T`` (None without one).

    Raises:
      TypeError: 64-bit mode is off, or an array is not in double precision.
      ValueError: shapes do not fit.
    """
    h, coupling, corr, paths, interval = in_double(
        "evolve_noisy", h=h, coupling=coupling, corr=corr, paths=paths, interval=interval
    )
    if h.ndim != 2 or not h.shape == coupling.shape == corr.shape or paths.ndim != 2:
        raise ValueError(
            f"evolve_noisy: h {h.shape}, coupling {coupling.shape} and corr {corr.shape} must all "
            f"be [L, L], and paths {paths.shape} [P, T]."
        )

    def step(now: Array, value: Array) -> tuple[Array, tuple[Array, Any]]:
        unitary = unitary_step(interval * (h + value * coupling)).astype(now.dtype)
        now = unitary.conj() @ now @ unitary.T
        return now, (now, None if measure is None else measure(now))

    def along(path: Array) -> tuple[Array, Any]:
        return jax.lax.scan(step, corr.astype(jnp.complex128), path)[1]

    def add(total: Any, path: Array) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, along(path)), None

    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(along, paths[0]))
    total, _ = jax.lax.scan(add, zero, paths)
    return jax.tree.map(lambda x: x / len(paths), total)
