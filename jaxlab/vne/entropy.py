"""Entropies of regions from their two-point functions, in nats.

With the occupations ``z`` of a region, a Gaussian state has ``S = sum h(z)`` exactly, where
``h(z) = -z ln z - (1 - z) ln(1 - z)``. For other states this is an upper bound (`certificate`).
"""

import functools
import math

import jax
import jax.core
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxlab.vne.occupations import Region, occupations
from jaxlab.vne.precision import Matrix

_NEAR_ONE = 0.01
"""Renyi orders closer to 1 than this lose digits in the usual form."""

_EDGE = 1e-15
"""Occupations closer to 0 or 1 than this are noise; slopes are taken here instead."""


def entropy(
    corr: Matrix, region: Region | None = None, *, largest: int | None = None
) -> Float[Array, ""]:
    """Von Neumann entropy of a region of a Gaussian state, ``Tr h(C_A)``.

    The gradient is by hand and finite everywhere: for occupations at 0 or 1, where the true slope
    diverges, it is that at a distance of 1e-15. Values below about 1e-12 are rounding.

    Args:
      corr: ``C[i, j] = <c_i^dag c_j>``, ``[L, L]``.
      region: bool ``[L]``, True on the sites of the region, which may be disjoint; None for all.
      largest: static upper bound on the sites of the region; makes it cheaper (`occupations`).

    Returns:
      float64, in nats, not negative.

    Raises:
      TypeError: 64-bit mode is off, or the region is not boolean.
      ValueError: a shape does not fit.

    Source: Peschel (2003); the paper's supplement VII.1 reaches it from charge statistics.

    Example:
      >>> import jax, numpy as np
      >>> with jax.enable_x64(True):
      ...     print(entropy(np.eye(2) / 2 + 0j, np.array([True, False])))
      0.6931471805599453
    """
    return jnp.sum(binary_entropy(occupations(corr, region, largest=largest)))


@jax.custom_jvp
def binary_entropy(z: Array) -> Array:
    """``-z ln z - (1 - z) ln(1 - z)`` elementwise, for ``0 <= z <= 1``."""
    return -jax.scipy.special.xlogy(z, z) - jax.scipy.special.xlog1py(1 - z, -z)


@binary_entropy.defjvp
def _binary_entropy_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    z = primals[0]
    return binary_entropy(z), _log_odds(jnp.clip(z, _EDGE, 1 - _EDGE)) * tangents[0]


def renyi(
    corr: Matrix, region: Region | None, alpha: float, *, largest: int | None = None
) -> Float[Array, ""]:
    """Renyi entropy of a region, ``sum ln(z^alpha + (1 - z)^alpha) / (1 - alpha)``.

    Args:
      corr: ``C[i, j] = <c_i^dag c_j>``, ``[L, L]``.
      region: bool ``[L]``; None for all sites.
      alpha: order, above 0, static; 1 is the von Neumann entropy, ``math.inf`` the min-entropy.
      largest: static upper bound on the sites of the region.

    Returns:
      float64, in nats.

    Raises:
      TypeError: 64-bit mode is off, or the region is not boolean.
      ValueError: ``alpha`` is not positive, or a shape does not fit.
    """
    if not alpha > 0:
        raise ValueError(f"renyi: alpha={alpha} must be positive.")
    z = occupations(corr, region, largest=largest)
    return jnp.sum(binary_entropy(z) if alpha == 1 else _binary_renyi(z, float(alpha)))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _binary_renyi(z: Array, alpha: float) -> Array:
    """``ln(z^alpha + (1 - z)^alpha) / (1 - alpha)`` elementwise."""
    far = jnp.maximum(z, 1 - z)
    if math.isinf(alpha):
        return -jnp.log(far)
    if abs(alpha - 1) < _NEAR_ONE:  # what sums to nearly 1 is its distance from 1
        logs = [jnp.log(jnp.maximum(p, 1e-300)) for p in (z, 1 - z)]
        left = z * jnp.expm1((alpha - 1) * logs[0]) + (1 - z) * jnp.expm1((alpha - 1) * logs[1])
        return jnp.log1p(left) / (1 - alpha)
    return (alpha * jnp.log(far) + jnp.log1p(((1 - far) / far) ** alpha)) / (1 - alpha)


@_binary_renyi.defjvp
def _binary_renyi_jvp(
    alpha: float, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    z = primals[0]
    inner = jnp.clip(z, _EDGE, 1 - _EDGE)
    far = jnp.maximum(inner, 1 - inner)
    ratio = (1 - far) / far
    slope = 1 / far
    if not math.isinf(alpha):
        slope *= alpha / (1 - alpha) * jnp.expm1((alpha - 1) * jnp.log(ratio)) / (1 + ratio**alpha)
    return _binary_renyi(z, alpha), jnp.sign(1 - 2 * inner) * slope * tangents[0]


def mutual_information(
    corr: Matrix, region_a: Region, region_b: Region, *, largest: int | None = None
) -> Float[Array, ""]:
    """Mutual information ``I(A:B) = S_A + S_B - S_AB`` of two disjoint regions.

    For a state that is not Gaussian the error has no known sign (`certificate` bounds each term).

    Args:
      corr: ``C[i, j] = <c_i^dag c_j>``, ``[L, L]``.
      region_a: bool ``[L]``.
      region_b: bool ``[L]``, no site in common with ``region_a``.
      largest: static upper bound on the sites of the two regions together.

    Returns:
      float64, in nats. NaN where traced regions overlap.

    Raises:
      TypeError: 64-bit mode is off, or a region is not boolean.
      ValueError: the regions overlap, or a shape does not fit.
    """
    from_a = entropy(corr, region_a, largest=largest)
    from_b = entropy(corr, region_b, largest=largest)
    joint = entropy(corr, jnp.logical_or(region_a, region_b), largest=largest)
    overlap = jnp.any(jnp.logical_and(region_a, region_b))
    if not isinstance(overlap, jax.core.Tracer) and overlap:
        raise ValueError("mutual_information: region_a and region_b overlap; make them disjoint.")
    return jnp.where(overlap, jnp.nan, from_a + from_b - joint)


def entanglement_spectrum(
    corr: Matrix, region: Region | None = None, *, largest: int | None = None
) -> Float[Array, " size"]:
    """Single-particle entanglement energies ``ln((1 - z) / z)``, ascending.

    Args:
      corr: ``C[i, j] = <c_i^dag c_j>``, ``[L, L]``.
      region: bool ``[L]``; None for all sites.
      largest: static upper bound on the sites of the region.

    Returns:
      float64 ``[largest]``: eigenvalues of the entanglement Hamiltonian; sites outside the region
      count as empty, at ``+inf``. Magnitudes beyond about 35 are rounding.

    Raises:
      TypeError: 64-bit mode is off, or the region is not boolean.
      ValueError: a shape does not fit.
    """
    return _log_odds(occupations(corr, region, largest=largest)[::-1])


@jax.custom_jvp
def _log_odds(z: Array) -> Array:
    """``ln((1 - z) / z)`` elementwise: the slope of `binary_entropy`."""
    return jnp.log1p(-z) - jnp.log(z)


@_log_odds.defjvp
def _log_odds_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    inner = jnp.clip(primals[0], _EDGE, 1 - _EDGE)
    return _log_odds(primals[0]), -tangents[0] / (inner * (1 - inner))
