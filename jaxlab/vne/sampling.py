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
      ``1 / (2 shots)`` for every mode seen both full and empty mends it to second order. The
      interval holds the entropies of all means whose likelihood is not too small, moved by the same
      correction: a mode that was never seen full may still be so now and then.

    Raises:
      ValueError: a count is not between 0 and ``shots``.

    Source: Miller (1955) for the correction, Wilks (1938) for the interval; ours for this use.
    """
    counts = np.asarray(counts)
    if shots < 2 or (counts < 0).any() or (counts > shots).any():
        raise ValueError(f"entropy_from_modes: counts must lie between 0 and shots={shots} (>= 2).")
    z = counts / shots
    shift = float(np.count_nonzero((counts > 0) & (counts < shots))) / (2 * shots)
    low, high = _likely_entropies(z, shots, deviations)
    return Estimate(float(coin_entropy(z).sum()) + shift, low + shift, high + shift)


def _likely_entropies(z: np.ndarray, shots: int, deviations: float) -> tuple[float, float]:
    """Least and largest entropy of coins whose log-likelihood is near that of the frequencies.

    Coins are independent: for each price of likelihood, every coin moves as far as it pays, over a
    grid of means; bisection finds the price at which ``deviations^2 / 2`` is spent.
    """
    width = 3 * deviations * np.sqrt((z * (1 - z) + 1 / shots) / shots)
    steps = np.linspace(-1, 1, 401) ** 3
    means = np.clip(z[:, None] + width[:, None] * steps, 1e-12, 1 - 1e-12)
    spent = shots * (_cross_entropy(z[:, None], means) - coin_entropy(z)[:, None])
    entropies, row, ends = coin_entropy(means), np.arange(z.size), []
    for sign in (-1, 1):
        cheap, dear = math.log(1e-3), math.log(1e5 * shots)
        for _ in range(40):
            price = (cheap + dear) / 2
            best = np.argmax(sign * math.exp(price) * entropies - spent, axis=1)
            if spent[row, best].sum() > deviations**2 / 2:
                dear = price
            else:
                cheap = price
        best = np.argmax(sign * math.exp(cheap) * entropies - spent, axis=1)
        ends.append(float(entropies[row, best].sum()))
    return ends[0], ends[1]


def _cross_entropy(z: np.ndarray, mean: np.ndarray) -> np.ndarray:
    return -z * np.log(mean) - (1 - z) * np.log1p(-mean)


def coin_entropy(z: np.ndarray) -> np.ndarray:
    """``-z ln z - (1 - z) ln(1 - z)`` elementwise on the host, for ``0 <= z <= 1``."""
    inner = np.clip(z, 1e-300, 1 - 1e-16)
    return _cross_entropy(inner, inner)


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
