"""Free evolution under a Hamiltonian that depends on time, by steps that stay unitary."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxlab.vne.evolution import Measure, check_start, propagator_differences
from jaxlab.vne.precision import Matrix, concrete, in_double

_STEPS_TRIED, _COARSE = 16, 1e-5
"""Steps taken by default, and the difference from half as many at which they are refused."""

_EARLY, _LATE = 0.25 + 3**0.5 / 6, 0.25 - 3**0.5 / 6
"""Weights of the two Gauss points in the two exponentials of the fourth-order step."""


def evolve_driven(
    h_of_t: Callable[[Array], Array],
    corr: Matrix,
    times: Float[Array | np.ndarray, " times"],
    *,
    start: float | Float[Array, ""] = 0.0,
    steps: int | None = None,
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
      steps: steps from each time to the next. The error falls with their number to the power of
        the method's order, once a step is short beside the drive's period and ``1 / ||h||``. None
        for 16, which are checked against 8 and refused where the two propagators differ by more
        than 1e-5, as they nearly always are for methods of second order: give those a number. A
        number that is given is taken as it is.
      method: ``"magnus4"`` (two exponentials a step, fourth order), ``"midpoint"`` (one
        exponential, second order) or ``"cayley"`` (Crank-Nicolson, second order, no eigensolver).
      measure: what to keep of each ``C(t)``; None for all of it.

    Returns:
      ``C(t)``, complex128 ``[T, L, L]``, or what ``measure`` returns with a leading ``T``. Under
      ``jit``, ``C`` is NaN where this function would raise a ValueError for 16 steps.

    Raises:
      TypeError: 64-bit mode is off, or an array is not in double precision.
      ValueError: shapes do not fit, ``steps`` is not positive, the method is unknown, or 16 steps
        are too few and no other number was given.

    Source: commutator-free Magnus integrator CF4 (Alvermann and Fehske); the note's 4.
    """
    if steps is not None and steps < 1:
        raise ValueError(f"evolve_driven: steps={steps} must be at least 1.")
    if method not in _METHODS:
        raise ValueError(f"evolve_driven: method={method!r} is not one of {', '.join(_METHODS)}.")
    corr, times, start = in_double("evolve_driven", corr=corr, times=times, start=start)
    (first,) = in_double("evolve_driven", **{"h_of_t(start)": h_of_t(start)})
    check_start("evolve_driven", first, corr, times)
    advance = _METHODS[method]

    def propagator(before: Array, time: Array, count: int) -> Array:
        length = (time - before) / count

        def step(unitary: Array, number: Array) -> tuple[Array, None]:
            return advance(h_of_t, before + number * length, length) @ unitary, None

        one = jnp.eye(len(corr), dtype=jnp.complex128)
        return jax.lax.scan(step, one, jnp.arange(count))[0]

    def until(carry: tuple[Array, ...], time: Array) -> tuple[tuple[Array, ...], Any]:
        now, before, fine = carry
        whole = propagator(before, time, _STEPS_TRIED if steps is None else steps)
        if steps is None:
            coarse = jax.lax.stop_gradient(propagator(before, time, _STEPS_TRIED // 2))
            fine &= jnp.abs(whole - coarse).max() < _COARSE
            whole = jnp.where(fine, whole, jnp.nan)
        now = whole.conj() @ now @ whole.T
        return (now, time, fine), now if measure is None else measure(now)

    begin = (corr.astype(jnp.complex128), start, jnp.asarray(True))
    (_, _, fine), found = jax.lax.scan(until, begin, times)
    if concrete(fine) and not fine:
        raise ValueError(
            f"evolve_driven: {_STEPS_TRIED} steps from one time to the next are too few; give "
            "steps, or more times."
        )
    return found


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


_METHODS = {"magnus4": _magnus4, "midpoint": _midpoint, "cayley": _cayley}


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
