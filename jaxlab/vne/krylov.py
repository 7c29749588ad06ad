"""Evolution of a vector under a large sparse Hamiltonian, by Lanczos steps."""

from typing import Any

import numpy as np
from jaxtyping import Complex128

_DIMENSION = 30
_TOLERANCE = 1e-13


def evolve_vector(
    hamiltonian: Any, state: Complex128[np.ndarray, " states"], time: float
) -> Complex128[np.ndarray, " states"]:
    """``exp(-i H t) |state>``, with steps as long as a fixed Krylov space allows.

    Args:
      hamiltonian: Hermitian, anything with ``@``, ``[states, states]``.
      state: complex128 ``[states]``.
      time: may be negative.

    Returns:
      complex128 ``[states]``; the error is about 1e-13 a step.
    """
    left, norm = float(time), np.linalg.norm(state)
    if norm == 0:  # a member of an ensemble without weight
        return state
    while left != 0:
        space, diagonal, beside = _lanczos(hamiltonian, state / np.linalg.norm(state))
        used = diagonal.size
        tridiagonal = np.diag(diagonal) + np.diag(beside[: used - 1], 1)
        energies, modes = np.linalg.eigh(tridiagonal, UPLO="U")
        step = left
        while True:
            amplitudes = modes @ (np.exp(-1j * energies * step) * modes[0])
            # What leaks out of the space grows from its last vector, at the rate of the next bond.
            if abs(step * beside[used - 1] * amplitudes[-1]) < _TOLERANCE:
                break
            step /= 2
        state = norm * (amplitudes @ space)
        left -= step
    return state


def _lanczos(hamiltonian: Any, start: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Orthonormal Krylov vectors, the diagonal of H between them, and the bonds."""
    most = min(_DIMENSION, start.size)
    space, diagonal, beside = np.empty((most + 1, start.size), start.dtype), [], []
    space[0] = start
    for number in range(most):
        new, known = hamiltonian @ space[number], space[: number + 1]
        diagonal.append(np.vdot(space[number], new).real)
        for _ in range(2):  # once is not enough to stay orthogonal to rounding
            new = new - (known.conj() @ new) @ known
        beside.append(np.linalg.norm(new))
        if beside[-1] < 1e-12:
            beside[-1] = 0.0
            break
        space[number + 1] = new / beside[-1]
    return space[: len(diagonal)], np.array(diagonal), np.array(beside)
