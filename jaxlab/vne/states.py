"""Gaussian states to start from: ground states and thermal states of single-particle Hamiltonians.

With ``h = V diag(E) V^dag`` and occupations ``n(E)``, ``C = conj(V) n V^T``. Derivatives are by
hand: ``dC`` follows from divided differences of ``n``, which stay finite where levels cross.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxlab.vne.precision import (
    ComplexMatrix,
    Matrix,
    check_hermitian,
    concrete,
    hermitian,
    in_double,
)

DEGENERATE = 1e-10
"""Smallest gap at the Fermi level, relative to the width of the spectrum."""


def ground_corr(h: Matrix, particles: int | Int[Array, ""]) -> ComplexMatrix:
    """Correlation matrix of the ground state of free fermions.

    Differentiable in ``h``: the derivative couples occupied with empty levels only, so levels may
    be degenerate on either side of the Fermi level.

    Args:
      h: ``[L, L]`` Hermitian, energy.
      particles: 0 to ``L``; may be traced.

    Returns:
      ``C[i, j] = <c_i^dag c_j>``, complex128 ``[L, L]``. Under ``jit``, NaN where this function
      would raise a ValueError.

    Raises:
      TypeError: 64-bit mode is off, or ``h`` is not in double precision.
      ValueError: ``h`` is not Hermitian, ``particles`` is out of range, or the ground state
        is not unique because the Fermi level is degenerate: fill the subsystems one by one
        (``block_diag``), or use ``thermal_corr`` at a small temperature.

    Example:
      >>> import jax
      >>> from jaxlab.vne import hopping_chain
      >>> with jax.enable_x64(True):
      ...     ground_corr(hopping_chain(2), 1).real
      Array([[0.5, 0.5],
             [0.5, 0.5]], dtype=float64)
    """
    _square("ground_corr", h)
    check_hermitian("ground_corr", h)
    if concrete(particles) and not 0 <= particles <= h.shape[0]:
        raise ValueError(
            f"ground_corr: particles={particles} must lie between 0 and {h.shape[0]} sites."
        )
    corr = _ground(h, particles)
    if concrete(corr) and jnp.isnan(corr).any():
        raise ValueError(
            f"ground_corr: the ground state of particles={particles} is not unique, the Fermi "
            "level is degenerate; fill subsystems one by one and join them "
            "with block_diag, or use thermal_corr at a small temperature."
        )
    return corr


@jax.jit
def _ground(h: Array, particles: Array) -> Array:
    (h,) = in_double("ground_corr", h=h)
    return _filled(hermitian(h), jnp.asarray(particles))


@jax.custom_jvp
def _filled(h: Array, particles: Array) -> Array:
    energies, vectors = jnp.linalg.eigh(h, symmetrize_input=False)
    return _fill(energies, vectors, particles)


@_filled.defjvp
def _filled_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    h, particles = primals
    energies, modes = jnp.linalg.eigh(h, symmetrize_input=False)
    full = jnp.arange(energies.size) < particles
    leaving = full[:, None] & ~full
    crossing = leaving | leaving.T
    steps = jnp.where(leaving, 1.0, jnp.where(leaving.T, -1.0, 0.0))
    gaps = jnp.where(crossing, energies[:, None] - energies, 1.0)
    moved = modes.conj().T @ tangents[0] @ modes
    change = modes @ (steps / gaps * moved) @ modes.conj().T
    return _fill(energies, modes, particles), change.conj().astype(jnp.complex128)


def _fill(energies: Array, modes: Array, particles: Array) -> Array:
    """``conj(V) n V^T``, or NaN where the level to fill last is not alone."""
    levels = jnp.arange(energies.size)
    filled = modes * (levels < particles)
    edge = jnp.clip(particles, 1, energies.size - 1)
    gap = jnp.where(
        (particles <= 0) | (particles >= energies.size),
        jnp.inf,
        energies[edge % energies.size] - energies[edge - 1],
    )
    known = gap > DEGENERATE * jnp.maximum(energies[-1] - energies[0], 1e-300)
    known &= (particles >= 0) & (particles <= energies.size)
    return jnp.where(known, filled.conj() @ filled.T, jnp.nan).astype(jnp.complex128)


def thermal_corr(
    h: Matrix,
    mu: float | Float[Array | np.ndarray, "..."],
    temperature: float | Float[Array | np.ndarray, "..."],
) -> ComplexMatrix:
    """Correlation matrix of a thermal state, or of leads each in its own thermal state.

    Args:
      h: ``[L, L]`` Hermitian, energy.
      mu: chemical potential, energy: a number, or ``[L]`` constant on decoupled blocks of ``h``.
      temperature: above 0, energy (k_B = 1): a number, or ``[L]`` likewise.

    Returns:
      ``C[i, j] = <c_i^dag c_j>``, complex128 ``[L, L]``. Under ``jit``, NaN where this function
      would raise a ValueError.

    Raises:
      TypeError: 64-bit mode is off, or ``h`` is not in double precision.
      ValueError: ``h`` is not Hermitian, a temperature is not positive, a shape does not fit, or
        ``h`` couples sites of different ``mu`` or ``temperature``, between which there is no
        equilibrium.

    Example:
      >>> import jax
      >>> from jaxlab.vne import hopping_chain
      >>> with jax.enable_x64(True):
      ...     thermal_corr(hopping_chain(1), mu=0.5, temperature=0.1).real.round(4)
      Array([[0.9933]], dtype=float64)
    """
    _square("thermal_corr", h)
    check_hermitian("thermal_corr", h)
    for name, value in (("mu", mu), ("temperature", temperature)):
        shape = np.shape(value)
        if shape not in ((), (h.shape[0],)):
            raise ValueError(
                f"thermal_corr: {name} has shape {shape}; give one number or ({h.shape[0]},)."
            )
    if concrete(temperature) and not np.all(np.asarray(temperature) > 0):
        raise ValueError(
            f"thermal_corr: temperature={temperature} must be positive; ground_corr is its limit."
        )
    corr = _thermal(h, mu, temperature)
    if concrete(corr) and jnp.isnan(corr).any():
        raise ValueError(
            "thermal_corr: h couples sites of different mu or temperature; "
            "make both constant on decoupled blocks, by preparing the leads before joining them."
        )
    return corr


@jax.jit
def _thermal(h: Array, mu: Array, temperature: Array) -> Array:
    h, mu, temperature = in_double("thermal_corr", h=h, mu=mu, temperature=temperature)
    h = hermitian(h)
    sites = h.shape[0]
    mu, beta = jnp.broadcast_to(mu, sites), jnp.broadcast_to(1 / temperature, sites)
    apart = (mu[:, None] != mu) | (beta[:, None] != beta)
    known = ~jnp.any((h != 0) & apart) & jnp.all(beta > 0)
    # On decoupled blocks beta commutes with h; the roots keep the product Hermitian to rounding.
    root = jnp.sqrt(jnp.where(known, beta, 1.0))
    reduced = root[:, None] * (h - jnp.diag(mu)) * root
    return jnp.where(known, _fermi(reduced), jnp.nan)


@jax.custom_jvp
def _fermi(reduced: Array) -> Array:
    """``conj(1 / (1 + exp(K)))`` of a Hermitian matrix K."""
    return _occupy(*jnp.linalg.eigh(reduced, symmetrize_input=False))


@_fermi.defjvp
def _fermi_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    energies, modes = jnp.linalg.eigh(primals[0], symmetrize_input=False)
    upper = jnp.maximum(energies[:, None], energies)
    lower = jnp.minimum(energies[:, None], energies)
    apart = upper - lower
    shrink = jnp.where(apart > 0, -jnp.expm1(-apart) / jnp.where(apart > 0, apart, 1.0), 1.0)
    slopes = -jax.nn.sigmoid(upper) * jax.nn.sigmoid(-lower) * shrink
    moved = modes.conj().T @ tangents[0] @ modes
    change = modes @ (slopes * moved) @ modes.conj().T
    return _occupy(energies, modes), change.conj().astype(jnp.complex128)


def _occupy(energies: Array, modes: Array) -> Array:
    return ((modes.conj() * jax.nn.sigmoid(-energies)) @ modes.T).astype(jnp.complex128)


def _square(function: str, h: Matrix) -> None:
    if h.ndim != 2 or h.shape[0] != h.shape[1]:
        raise ValueError(
            f"{function}: h has shape {h.shape}, not [L, L]; use jax.vmap for a batch."
        )
