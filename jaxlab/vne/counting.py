"""Charge statistics of a region: cumulants and the whole distribution, from its occupations.

Each occupation ``z`` is an independent coin: the charge is their sum, and its generating function
``chi(lambda) = prod(1 + (exp(i lambda) - 1) z) = sum_n P(n) exp(i lambda n)``.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, Float

from jaxlab.vne.driven import unitary_step
from jaxlab.vne.occupations import Region, occupations
from jaxlab.vne.precision import Matrix, Scalar, concrete, in_double


def charge_cumulants(
    corr: Matrix, region: Region | None, order: int, *, largest: int | None = None
) -> Float[Array, " order"]:
    """Cumulants of the number of particles in a region of a Gaussian state.

    Args:
      corr: ``C[i, j] = <c_i^dag c_j>``, ``[L, L]``.
      region: bool ``[L]``; None for all sites.
      order: highest cumulant, at least 1.
      largest: static upper bound on the sites of the region.

    Returns:
      float64 ``[order]``: mean, variance, third cumulant, ...

    Raises:
      TypeError: 64-bit mode is off, or the region is not boolean.
      ValueError: ``order`` is not positive, or a shape does not fit.

    Source: Klich and Levitov (2009); computed from the spectrum by the recursion
    ``kappa_{n+1} = z (1 - z) d kappa_n / dz`` in exact integers, never by finite differences.

    Example:
      >>> import jax, numpy as np
      >>> with jax.enable_x64(True):
      ...     charge_cumulants(np.eye(3) / 2 + 0j, np.array([True, True, False]), 4).tolist()
      [1.0, 0.5, 0.0, -0.25]
    """
    if order < 1:
        raise ValueError(f"charge_cumulants: order={order} must be at least 1.")
    return jnp.sum(coin_cumulants(occupations(corr, region, largest=largest), order), axis=1)


def coin_cumulants(z: Array, order: int) -> Array:
    """Cumulants 1 to ``order`` of coins with mean ``z``, ``[order, *z.shape]``."""
    numbers = range(2, order + 1)
    factors = np.zeros((order - 1, order + 1))
    for row, number in enumerate(numbers):
        even = _even_polynomial(number - number % 2)
        if number % 2:
            even = tuple(power * factor for power, factor in enumerate(even))[1:]
        factors[row, : len(even)] = even
    # Horner's rule for all orders at once.
    spread, total = z * (1 - z), jnp.zeros((order - 1, *z.shape))
    for column in factors.T[::-1]:
        total = total * spread + column.reshape(-1, *[1] * z.ndim)
    odd = (np.array(numbers) % 2 == 1).reshape(-1, *[1] * z.ndim)
    total = jnp.where(odd, total * spread * (1 - 2 * z), total)
    return jnp.concatenate([z[None], total])


@functools.cache
def _even_polynomial(number: int) -> tuple[int, ...]:
    """An even cumulant of a coin as a polynomial in its variance ``w = z (1 - z)``.

    Twice ``d / d lambda`` maps ``p(w)`` to ``p'' w^2 (1 - 4 w) + p' w (1 - 6 w)``.
    """
    if number == 2:
        return (0, 1)
    before = _even_polynomial(number - 2)
    after = [0] * (len(before) + 1)
    for power, factor in enumerate(before):
        after[power] += factor * power * power
        after[power + 1] -= factor * power * (4 * power + 2)
    return tuple(after)


def charge_distribution(
    corr: Matrix, region: Region | None = None, *, largest: int | None = None
) -> Float[Array, " outcomes"]:
    """Probability of every number of particles in a region of a Gaussian state.

    Sums of positive terms only, so that even the smallest probabilities have a small relative
    error.

    Args:
      corr: ``C[i, j] = <c_i^dag c_j>``, ``[L, L]``.
      region: bool ``[L]``; None for all sites.
      largest: static upper bound on the sites of the region.

    Returns:
      float64 ``[largest + 1]``, entry ``n`` the probability of ``n`` particles.

    Raises:
      TypeError: 64-bit mode is off, or the region is not boolean.
      ValueError: a shape does not fit.

    Example:
      >>> import jax, numpy as np
      >>> with jax.enable_x64(True):
      ...     charge_distribution(np.eye(2) / 2 + 0j)
      Array([0.25, 0.5 , 0.25], dtype=float64)
    """
    return coin_distribution(occupations(corr, region, largest=largest))


def coin_distribution(z: Array) -> Array:
    """Distribution of the sum of coins with mean ``z``, ``[size + 1]``."""

    def add_coin(distribution: Array, mean: Array) -> tuple[Array, None]:
        return distribution * (1 - mean) + jnp.roll(distribution, 1) * mean, None

    start = jnp.zeros(z.size + 1).at[0].set(1.0)
    return jax.lax.scan(add_coin, start, z)[0]


def generating_function(
    corr: Matrix, region: Region | None, counting_field: Float[Array | np.ndarray, " fields"]
) -> Complex[Array, " fields"]:
    """``chi(lambda) = det(1 + (exp(i lambda) - 1) C_A)``, the transform of the distribution.

    Args:
      corr: ``C[i, j] = <c_i^dag c_j>``, ``[L, L]``.
      region: bool ``[L]``; None for all sites.
      counting_field: lambda, in radians, ``[n]``.

    Returns:
      complex128 ``[n]``; 1 at multiples of 2 pi.

    Raises:
      TypeError: 64-bit mode is off, or the region is not boolean.
      ValueError: a shape does not fit.

    Source: the paper's supplement VII.1, once subsystems are grouped into two sets.
    """
    (field,) = in_double("generating_function", counting_field=counting_field)
    steps = jnp.exp(1j * field) - 1
    return jnp.prod(1 + steps[:, None] * occupations(corr, region), axis=1)


def transfer_function(
    h: Matrix,
    corr: Matrix,
    regions: Bool[Array | np.ndarray, "regions sites"],
    time: Scalar,
    counting_fields: Float[Array | np.ndarray, "fields regions"],
) -> Complex[Array, " fields"]:
    """Generating function of the charges that several subsystems gain between two countings.

    ``chi(lambda) = <exp(i lambda . N(t)) exp(-i lambda . N(0))>``, the transform of the joint
    distribution of ``N(t) - N(0)``. Unlike `generating_function` it leaves out how many particles a
    subsystem had at the start, which fluctuates at a temperature above 0. A field ``lambda_j`` on
    every subsystem is the paper's ``lambda_jk = lambda_k - lambda_j`` on every transfer.

    Args:
      h: ``[L, L]`` Hermitian, energy, while particles move.
      corr: ``C[i, j] = <c_i^dag c_j>`` at the first counting, ``[L, L]``, which must not connect
        a region with the rest: a counting would disturb it.
      regions: bool ``[R, L]``, disjoint.
      time: between the countings, in units of hbar / energy.
      counting_fields: lambda, in radians, ``[n, R]``.

    Returns:
      complex128 ``[n]``. Under ``jit``, NaN where this function would raise a ValueError for what
      an array holds.

    Raises:
      TypeError: 64-bit mode is off, or an array is not in double precision.
      ValueError: a shape does not fit, regions overlap, or ``corr`` connects them.

    Source: the paper's supplement VII.1; Levitov, Lee and Lesovik's determinant.
    """
    sites = corr.shape[0]
    if h.shape != (sites, sites) or corr.shape != h.shape or regions.shape[1:] != (sites,):
        raise ValueError(
            f"transfer_function: h {h.shape} and corr {corr.shape} must be [L, L], and regions "
            f"{regions.shape} [R, L]."
        )
    found = _transfer(h, corr, regions, time, counting_fields)
    if concrete(found) and jnp.isnan(found).any():
        raise ValueError(
            "transfer_function: regions overlap, or corr connects them with each other or with the "
            "rest; start from subsystems that were prepared apart (block_diag)."
        )
    return found


@jax.jit
def _transfer(h: Array, corr: Array, regions: Array, time: Array, fields: Array) -> Array:
    h, corr, time, fields = in_double(
        "transfer_function", h=h, corr=corr, time=time, counting_fields=fields
    )
    inside = regions.astype(jnp.float64)
    together = inside.T @ inside + jnp.outer(1 - inside.sum(0), 1 - inside.sum(0))
    known = (inside.sum(0) <= 1).all() & (jnp.abs(corr * (1 - together)) < 1e-12).all()
    unitary = unitary_step((h + h.conj().T) / 2 * time)
    one = jnp.eye(len(corr))

    def at(field: Array) -> Array:
        phases = jnp.exp(1j * (field @ inside))
        moved = unitary.conj().T @ (phases[:, None] * unitary) * phases.conj()
        return jnp.linalg.det(one + corr.T @ (moved - one))

    return jnp.where(known, jax.lax.map(at, fields), jnp.nan)
