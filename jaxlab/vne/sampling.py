"""Finite shots: occupations as a detector would see them, and what entropies they give."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxlab.vne.precision import Matrix, in_double


def sample_occupations(key: Array, corr: Matrix, shots: int) -> Bool[Array, "shots sites"]:
    """Draws which sites are occupied in a Gaussian state, shot after shot.

    Site by site: occupied with the probability ``C[i, i]`` given all sites before, after which
    ``C`` is that of the state so projected.

    Args:
      key: of ``jax.random``.
      corr: ``C[i, j] = <c_i^dag c_j>``, ``[L, L]``.
      shots: how many, static.

    Returns:
      bool ``[shots, L]``.

    Raises:
      TypeError: 64-bit mode is off, or ``corr`` is not in double precision.
      ValueError: ``shots`` is not positive.

    Source: sequential sampling of determinantal point processes.
    """
    if shots < 1:
        raise ValueError(f"sample_occupations: shots={shots} must be at least 1.")
    (corr,) = in_double("sample_occupations", corr=corr)

    def shot(key: Array) -> Array:
        def look(now: Array, drawn: tuple[Array, Array]) -> tuple[Array, Array]:
            site, uniform = drawn
            chance = now[site, site].real
            occupied = uniform < chance
            weight = jnp.where(occupied, -chance, 1 - chance)
            weight = jnp.where(weight == 0, 1.0, weight)
            return now + jnp.outer(now[:, site], now[site]) / weight, occupied

        uniforms = jax.random.uniform(key, (len(corr),), jnp.float64)
        return jax.lax.scan(look, corr, (jnp.arange(len(corr)), uniforms))[1]

    return jax.vmap(shot)(jax.random.split(key, shots))


@dataclasses.dataclass(frozen=True)
class Estimate:
    """An estimate with its interval.

    Attributes:
      value: corrected for bias.
      low: lower end of the interval.
      high: upper end of the interval.
    """

    value: float
    low: float
    high: float


def entropy_from_modes(
    counts: Int[np.ndarray, " modes"], shots: int, *, deviations: float = 1.96
) -> Estimate:
    """Entropy from counts in the region's own modes, in which it is a product of coins.

    Args:
      counts: shots in which each mode was occupied, ``[modes]``.
      shots: of all.
      deviations: half width of the interval, in standard deviations.

    Returns:
      The estimate, in nats. Entropy of a coin is concave, so plain frequencies give too little;
      ``1 / (2 shots)`` for every mode seen both full and empty mends it to second order.

    Raises:
      ValueError: a count is not between 0 and ``shots``.

    Source: Miller (1955) for the correction; ours for this use.
    """
    counts = np.asarray(counts)
    if shots < 2 or (counts < 0).any() or (counts > shots).any():
        raise ValueError(f"entropy_from_modes: counts must lie between 0 and shots={shots} (>= 2).")
    z = counts[(counts > 0) & (counts < shots)] / shots
    value = float(-(z * np.log(z) + (1 - z) * np.log1p(-z)).sum() + z.size / (2 * shots))
    spread = math.sqrt((z * (1 - z) * (np.log1p(-z) - np.log(z)) ** 2).sum() / shots)
    return Estimate(value, value - deviations * spread, value + deviations * spread)


def jackknife(
    statistic: Callable[[Float[np.ndarray, " outcomes"]], float],
    counts: Int[np.ndarray, " outcomes"],
    *,
    deviations: float = 1.96,
) -> Estimate:
    """Corrects a function of a charge distribution for the bias of finite shots.

    Leaves out one shot at a time; shots with the same charge need only one evaluation.

    Args:
      statistic: function of probabilities ``[outcomes]``.
      counts: shots that gave each charge, ``[outcomes]``.
      deviations: half width of the interval, in standard deviations.

    Returns:
      The estimate, in the statistic's unit.

    Raises:
      ValueError: there are fewer than two shots.

    Source: Quenouille and Tukey's jackknife.
    """
    counts = np.asarray(counts)
    shots = int(counts.sum())
    if shots < 2 or (counts < 0).any():
        raise ValueError(f"jackknife: counts must not be negative and sum to 2 or more: {shots}.")
    whole = statistic(counts / shots)
    seen = np.flatnonzero(counts)
    without = np.array(
        [statistic((counts - (np.arange(counts.size) == n)) / (shots - 1)) for n in seen]
    )
    mean = float(counts[seen] @ without) / shots
    value = shots * whole - (shots - 1) * mean
    spread = math.sqrt((shots - 1) / shots * float(counts[seen] @ (without - mean) ** 2))
    return Estimate(value, value - deviations * spread, value + deviations * spread)
