"""Free evolution under a Hamiltonian that depends on time, by steps that stay unitary."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxlab.vne.evolution import Measure, check_start, propagator_differences
from jaxlab.vne.precision import Matrix, in_double

_EARLY, _LATE = 0.25 + 3**0.5 / 6, 0.25 - 3**0.5 / 6
"""Weights of the two Gauss points in the two exponentials of the fourth-order step."""


def evolve_driven(
    h_of_t: Callable[[Array], Array],
    corr: Matrix,
    times: Float[Array | np.ndarray, " times"],
    *,
    start: float | Float[Array, ""] = 0.0,
    steps: int = 16,
    method: str = "magnus4",
    measure: Measure | None = None,
) -> Any:
    """Evolves a correlation matrix under ``h(t)``, with ``C(t) = conj(U) C U^T``.

    Every step is unitary to rounding, so occupations stay between 0 and 1 however coarse the steps.
    Differentiable in ``corr``, ``times`` and whatever ``h_of_t`` depends on. Compiles at each call:
    put the caller under ``jax.jit``.

    Args:
      h_of_t: gives ``[L, L]`` Hermitian for a scalar time.
      corr: ``C[i, j] = <c_i^dag c_j>`` at ``start``, ``[L, L]``.
      times: ``[T]``, where the result is wanted; one after the other, in any direction.
      start: time at which the evolution starts.
      steps: steps from each time to the next.
      method: ``"magnus4"`` (two exponentials a step, fourth order), ``"midpoint"`` (one
        exponential, second order) or ``"cayley"`` (Crank-Nicolson, second order, no eigensolver).
      measure: what to keep of each ``C(t)``; None for all of it.

    Returns:
      ``C(t)``, complex128 ``[T, L, L]``, or what ``measure`` returns with a leading ``T``.

    Raises:
      TypeError: 64-bit mode is off, or an array is not in double precision.
      ValueError: shapes do not fit, ``steps`` is not positive, or the method is unknown.

    Source: commutator-free Magnus integrator CF4 (Alvermann and Fehske); the note's 4.
    """
    if steps < 1:
        raise ValueError(f"evolve_driven: steps={steps} must be at least 1.")
    if method not in _STEPS:
        raise ValueError(f"evolve_driven: method={method!r} is not one of {', '.join(_STEPS)}.")
    corr, times, start = in_double("evolve_driven", corr=corr, times=times, start=start)
    (first,) = in_double("evolve_driven", **{"h_of_t(start)": h_of_t(start)})
    check_start("evolve_driven", first, corr, times)
    advance = _STEPS[method]

    def until(carry: tuple[Array, Array], time: Array) -> tuple[tuple[Array, Array], Any]:
        now, before = carry
        length = (time - before) / steps

        def step(unitary: Array, number: Array) -> tuple[Array, None]:
            return advance(h_of_t, before + number * length, length) @ unitary, None

        whole, _ = jax.lax.scan(step, jnp.eye(len(now), dtype=now.dtype), jnp.arange(steps))
        now = whole.conj() @ now @ whole.T
        return (now, time), now if measure is None else measure(now)

    begin = (corr.astype(jnp.complex128), start)
    return jax.lax.scan(until, begin, times)[1]


def _magnus4(h_of_t: Callable[[Array], Array], time: Array, length: Array) -> Array:
    shift = 3**0.5 / 6
    first, second = h_of_t(time + (0.5 - shift) * length), h_of_t(time + (0.5 + shift) * length)
    early = unitary_step(length * (_EARLY * first + _LATE * second))
    return unitary_step(length * (_LATE * first + _EARLY * second)) @ early


def _midpoint(h_of_t: Callable[[Array], Array], time: Array, length: Array) -> Array:
    return unitary_step(length * h_of_t(time + length / 2))


def _cayley(h_of_t: Callable[[Array], Array], time: Array, length: Array) -> Array:
    half = 0.5j * length * h_of_t(time + length / 2)
    one = jnp.eye(len(half))
    return jnp.linalg.solve(one + half, one - half)


_STEPS = {"magnus4": _magnus4, "midpoint": _midpoint, "cayley": _cayley}


@jax.custom_jvp
def unitary_step(action: Array) -> Array:
    """``exp(-i M)`` of a Hermitian matrix, differentiable where its levels are degenerate."""
    energies, modes = jnp.linalg.eigh(action)
    return (modes * jnp.exp(-1j * energies)) @ modes.conj().T


@unitary_step.defjvp
def _unitary_step_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    energies, modes = jnp.linalg.eigh(primals[0])
    moved = modes.conj().T @ tangents[0] @ modes
    change = modes @ (propagator_differences(energies, jnp.asarray(1.0)) * moved) @ modes.conj().T
    return unitary_step(primals[0]), change
