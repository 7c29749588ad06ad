"""Occupations of a region: the eigenvalues z of its correlation matrix, and their derivatives."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxlib import lapack
from jaxtyping import Array, Bool, Float

from jaxlab.vne.precision import Matrix, concrete, in_double

_ROUNDING = 1e-8
"""How far eigenvalues may leave [0, 1] and count as occupations."""

Region = Bool[Array | np.ndarray, " sites"]


def occupations(
    corr: Matrix, region: Region | None = None, *, largest: int | None = None
) -> Float[Array, " size"]:
    """Eigenvalues of a region's correlation matrix, between 0 and 1, ascending.

    The region is data: one compiled program serves any region. Sites outside count as empty modes,
    which carry neither entropy nor charge. ``largest`` bounds the size of the region and makes the
    eigenvalue problem smaller.

    Differentiable once; symmetric functions of all occupations have the right gradient at
    degenerate occupations too, because only their traces enter.

    Args:
      corr: ``C[i, j] = <c_i^dag c_j>``, ``[L, L]``; its Hermitian part counts.
      region: bool ``[L]``, True on the sites of the region; None for all sites.
      largest: upper bound on the number of sites of the region, static; None for ``L``.

    Returns:
      float64 ``[largest]``. NaN where a traced region has more than ``largest`` sites, and in place
      of eigenvalues beyond 0 and 1 by more than 1e-8 where ``corr`` is traced.

    Raises:
      TypeError: 64-bit mode is off, or the region is not boolean.
      ValueError: a shape does not fit, a concrete region is larger than ``largest``, or ``corr`` is
        no correlation matrix: its eigenvalues leave [0, 1].

    Source: Peschel (2003): entropy and statistics of a Gaussian state follow from these numbers.
    """
    check_region("occupations", corr, region)
    sites = corr.shape[0]
    if largest is None:
        return _possible(_occupations(corr, region, sites))
    if not 1 <= largest <= sites:
        raise ValueError(f"occupations: largest={largest} must lie between 1 and {sites} sites.")
    if region is None or (concrete(region) and np.count_nonzero(region) > largest):
        size = sites if region is None else np.count_nonzero(region)
        raise ValueError(f"occupations: the region has {size} sites, largest={largest}; raise it.")
    return _possible(_occupations(corr, region, largest))


def _possible(z: Array) -> Array:
    """Refuses occupations that can be looked at and that no state has."""
    if concrete(z) and jnp.isnan(z).any():
        raise ValueError(
            "occupations: corr has eigenvalues outside [0, 1] on the region (or is not finite); "
            "give C[i, j] = <c_i^dag c_j> itself, not 2 C - 1 and not a multiple of it."
        )
    return z


def check_region(function: str, corr: Any, region: Any, name: str = "region") -> None:
    """Refuses a correlation matrix that is not square and a region that is not its mask."""
    if corr.ndim != 2 or corr.shape[0] != corr.shape[1]:
        raise ValueError(
            f"{function}: corr has shape {corr.shape}, not [L, L]; use jax.vmap for a batch."
        )
    if region is None:
        return
    if getattr(region, "dtype", None) != np.bool_:
        kind = getattr(region, "dtype", type(region).__name__)
        raise TypeError(
            f"{function}: {name} must be a bool mask [L], got {kind}; for a list of sites use "
            "`np.isin(np.arange(L), sites)`."
        )
    if region.shape != corr.shape[:1]:
        raise ValueError(
            f"{function}: {name} has shape {region.shape}, but corr has {corr.shape[0]} sites."
        )


def _occupations_body(corr: Array, region: Array | None, largest: int) -> Array:
    (corr,) = in_double("occupations", corr=corr)
    corr = (corr + corr.conj().T) / 2
    if region is None:
        return _clip(eigenvalues(corr))
    region = jnp.asarray(region)
    if largest == corr.shape[0]:
        return _clip(eigenvalues(jnp.where(region[:, None] & region, corr, 0)))
    (chosen,) = jnp.nonzero(region, size=largest, fill_value=corr.shape[0])
    block = corr.at[chosen[:, None], chosen].get(mode="fill", fill_value=0)
    return jnp.where(jnp.count_nonzero(region) > largest, jnp.nan, _clip(eigenvalues(block)))


_occupations = jax.jit(_occupations_body, static_argnums=2)


def _clip(values: Array) -> Array:
    """Into [0, 1], where they lie but for rounding: the derivative stays that of the values."""
    clipped = jnp.clip(values, 0, 1)
    clipped = jnp.where(jnp.abs(clipped - values) <= _ROUNDING, clipped, jnp.nan)
    return values + jax.lax.stop_gradient(clipped - values)


@jax.custom_jvp
def eigenvalues(matrix: Array) -> Array:
    """Eigenvalues of a Hermitian matrix, ascending, without the vectors where LAPACK allows it.

    ``jnp.linalg.eigvalsh`` computes the vectors too and drops them: about twice the time.
    """
    return jax.lax.platform_dependent(matrix, cpu=_lapack_eigenvalues, default=_all_eigenvalues)


@eigenvalues.defjvp
def _eigenvalues_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    values, vectors = jnp.linalg.eigh(primals[0], symmetrize_input=False)
    moved = tangents[0] @ vectors
    return values, jnp.sum((vectors.conj() * moved).real, axis=0)


def _all_eigenvalues(matrix: Array) -> Array:
    return jnp.linalg.eigvalsh(matrix, symmetrize_input=False)


def _lapack_eigenvalues(matrix: Array) -> Array:
    size = matrix.shape[-1]
    if size == 0:
        return jnp.zeros(0)
    kind = "heevd_ffi" if jnp.iscomplexobj(matrix) else "syevd_ffi"
    outputs = (
        jax.ShapeDtypeStruct(matrix.shape, matrix.dtype),
        jax.ShapeDtypeStruct(matrix.shape[:-1], jnp.float64),
        jax.ShapeDtypeStruct(matrix.shape[:-2], jnp.int32),
    )
    call = jax.ffi.ffi_call(
        lapack.prepare_lapack_call(kind, matrix.dtype), outputs, vmap_method="broadcast_all"
    )
    _, values, info = call(matrix, mode=np.uint8(ord("N")), uplo=np.uint8(ord("L")))
    return jnp.where(info[..., None] == 0, values, jnp.nan)
