"""Free evolution under a constant Hamiltonian: one diagonalization, then phases.

``C(t) = conj(U) C U^T`` with ``U = exp(-i h t) = V exp(-i E t) V^dag``. In the eigenbasis ``C``
only turns its phases, so each time costs two matrix products, and no more memory than one matrix.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxlab.vne.precision import ComplexMatrix, Matrix, check_hermitian, hermitian, in_double

Measure = Callable[[ComplexMatrix], Any]

_TOGETHER = 8
"""Most times whose matrices are made before any is measured. Threads of XLA's products and of
LAPACK wait for work by spinning, and slow each other down whenever one follows the other."""


def evolve_eig(
    h: Matrix,
    corr: Matrix,
    times: Float[Array | np.ndarray, " times"],
    *,
    sites: Int[Array | np.ndarray, " chosen"] | None = None,
    measure: Measure | None = None,
) -> Any:
    """Evolves a correlation matrix under a constant Hamiltonian.

    Differentiable in ``h``, ``corr`` and ``times``, by divided differences of the phases: finite
    where levels are degenerate, as they are at a closed contact. Exact for the leads given: they
    stand for infinite ones only until reflections return to the contact, at about ``t = 0.9 L / J``
    for leads of ``L`` sites and hopping ``J``, which nothing checks; states bound outside the band
    never settle.

    Args:
      h: ``[L, L]`` Hermitian, energy; real input keeps the eigensolver and the products real.
      corr: ``C(0)[i, j] = <c_i^dag c_j>``, ``[L, L]``; its Hermitian part counts.
      times: ``[T]``, in units of hbar / energy.
      sites: int ``[n]``, which rows and columns to compute; None for all.
      measure: what to keep of each ``C(t)``, a function of the ``[n, n]`` matrix; memory then does
        not grow with ``T`` matrices. Pass the same function again to reuse the compiled program.

    Returns:
      ``C(t)``, complex128 ``[T, n, n]``, or what ``measure`` returns with a leading ``T``. Under
      ``jit``, ``C`` is NaN where ``h`` is not Hermitian.

    Raises:
      TypeError: 64-bit mode is off, or an array is not in double precision.
      ValueError: shapes do not fit, or ``h`` is not Hermitian.

    Example:
      >>> import jax, numpy as np
      >>> from jaxlab.vne import entropy, hopping_chain
      >>> with jax.enable_x64(True):
      ...     corr, region = np.diag([1.0, 0.0]), np.array([True, False])
      ...     h, times = hopping_chain(2), np.array([0.0, np.pi / 4])
      ...     evolve_eig(h, corr, times, measure=lambda c: entropy(c, region)).round(6)
      Array([0.      , 0.693147], dtype=float64)
    """
    check_start("evolve_eig", h, corr, times)
    check_hermitian("evolve_eig", h)
    return _evolve(h, corr, times, sites, measure)


def check_start(function: str, h: Any, corr: Any, times: Any) -> None:
    """Refuses shapes that do not fit each other."""
    if h.ndim != 2 or h.shape[0] != h.shape[1] or corr.shape != h.shape:
        raise ValueError(
            f"{function}: h has shape {h.shape} and corr {corr.shape}; both must be [L, L]."
        )
    if np.ndim(times) != 1:
        raise ValueError(f"{function}: times has shape {np.shape(times)}, not [T].")


@functools.partial(jax.jit, static_argnames="measure")
def _evolve(
    h: Array, corr: Array, times: Array, sites: Array | None, measure: Measure | None
) -> Any:
    h, corr, times = in_double("evolve_eig", h=h, corr=corr, times=times)
    h = hermitian(h)
    energies, modes = jnp.linalg.eigh(h, symmetrize_input=False)
    corr = ((corr + corr.conj().T) / 2).astype(jnp.complex128)
    turned = _turned(modes, corr)
    rows = modes if sites is None else modes[jnp.asarray(sites)]
    slopes = (_held(modes, h.conj()), _held(modes, corr))

    def at(time: Array) -> Array:
        return _corr_at(time, *slopes, energies, turned, rows)

    if measure is None:
        return jax.lax.map(at, times)
    rounds = max(1, -(-times.size // _TOGETHER))
    together = max(1, -(-times.size // rounds))
    filled = jnp.concatenate([times, jnp.repeat(times[-1:], -times.size % together)])
    found = jax.lax.map(
        lambda some: jax.lax.map(measure, jax.lax.map(at, some)), filled.reshape(-1, together)
    )
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[: times.size], found)


def _turned(modes: Array, matrix: Array) -> Array:
    """A correlation matrix, or the conjugate of an operator, in the eigenbasis."""
    return _sandwich(modes.conj().T, matrix)


@jax.custom_jvp
def _held(modes: Array, matrix: Array) -> Array:
    """Carries the derivative of a matrix into the eigenbasis while that stands still."""
    return _turned(modes, matrix)


@_held.defjvp
def _held_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return _turned(*primals), _turned(primals[0], tangents[1])


@jax.custom_jvp
def _corr_at(
    time: Array, h_slope: Array, corr_slope: Array, energies: Array, turned: Array, rows: Array
) -> Array:
    """``C(t)`` on some rows. Values come from the last three, derivatives from the first three.

    Eigenvectors have no derivative where levels are degenerate, ``C(t)`` has.
    """
    del h_slope, corr_slope
    # Products of cosines and sines, one pass over the matrix: faster than complex phases twice.
    cosine, sine = jnp.cos(energies * time), jnp.sin(energies * time)
    along = cosine[:, None] * cosine + sine[:, None] * sine
    across = sine[:, None] * cosine - cosine[:, None] * sine
    real, imag = turned.real, turned.imag
    now = jax.lax.complex(real * along - imag * across, real * across + imag * along)
    return _sandwich(rows, now)


@_corr_at.defjvp
def _corr_at_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    time, _, _, energies, turned, rows = primals
    d_time, d_h, d_corr = tangents[:3]
    phases = jnp.exp(1j * energies * time)
    kick = propagator_differences(energies, time).conj() * d_h
    ahead, behind = phases[:, None] * turned, turned * phases.conj()
    change = kick @ behind + ahead @ kick.conj().T + phases[:, None] * d_corr * phases.conj()
    change += 1j * d_time * (energies[:, None] - energies) * ahead * phases.conj()
    return _corr_at(*primals), _sandwich(rows, change)


def propagator_differences(energies: Array, time: Array) -> Array:
    """Divided differences of ``exp(-i E t)`` over all pairs of energies.

    ``(exp(-i a t) - exp(-i b t)) / (a - b)``, which is ``-i t exp(-i a t)`` at ``a = b``.
    """
    mean, apart = (energies[:, None] + energies) / 2, energies[:, None] - energies
    return -1j * time * jnp.exp(-1j * mean * time) * jnp.sinc(apart * time / (2 * jnp.pi))


def _sandwich(rows: Array, matrix: Array) -> Array:
    """``conj(rows) @ matrix @ rows^T`` of a Hermitian matrix, in two real products for real rows.

    Real rows keep its real part symmetric and its imaginary part antisymmetric. So the sum of both
    goes through the products, and comes apart behind them.
    """
    if jnp.iscomplexobj(rows):
        return complex_product(complex_product(rows.conj(), matrix), rows.T)
    if not jnp.iscomplexobj(matrix):
        return rows @ matrix @ rows.T
    both = rows @ (matrix.real + matrix.imag) @ rows.T
    return jax.lax.complex((both + both.T) / 2, (both - both.T) / 2)


def complex_product(left: Array, right: Array) -> Array:
    """``left @ right`` by three real products instead of four, as fast as the processor's own.

    XLA's complex product on CPUs takes twice as long. Errors stay those of rounding, relative to
    the norms of the factors instead of to each entry.
    """
    a, b, c, d = left.real, left.imag, right.real, right.imag
    first, last = a @ c, b @ d
    return jax.lax.complex(first - last, (a + b) @ (c + d) - first - last)
