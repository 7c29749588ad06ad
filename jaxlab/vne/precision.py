"""Double precision or a clear refusal: in single precision entropies near pure states are noise."""

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Inexact, Num

Matrix = Num[Array | np.ndarray, "sites sites"]
"""A Hermitian matrix over sites, as it comes in."""

_HERMITIAN = 1e-10
"""Largest difference from Hermitian, relative to the largest entry."""

Scalar = int | float | Num[Array | np.ndarray, ""]
"""One real number, traced or not."""

ComplexMatrix = Inexact[Array, "sites sites"]
"""A matrix over sites, as it goes out: complex128 unless said otherwise."""


def in_double(function: str, **values: object) -> list[Array]:
    """Turns arguments into float64 or complex128 arrays, inside the traced body of a function.

    Args:
      function: its name, for the error.
      **values: its arguments by name; integers become float64.

    Returns:
      The arrays, in the order given.

    Raises:
      TypeError: 64-bit mode is off, or an array came in single precision.
    """
    arrays = []
    for name, value in values.items():
        array = jnp.asarray(value)
        wide = jnp.asarray(0.0).dtype == jnp.float64
        if wide and jnp.issubdtype(array.dtype, jnp.integer):
            array = array.astype(jnp.float64)
        if not wide or array.dtype not in (jnp.float64, jnp.complex128):
            state = "on" if wide else "off"
            raise TypeError(
                f"{function}: {name} has dtype {array.dtype} and 64-bit mode is {state}, but "
                "this needs double precision; make the arrays float64 or complex128 and call me "
                "inside `with jax.enable_x64(True):`."
            )
        arrays.append(array)
    return arrays


def check_hermitian(function: str, matrix: Any, name: str = "h") -> None:
    """Refuses a matrix that can be looked at and is not Hermitian, to 1e-10 of its largest entry.

    Half of a matrix, such as hoppings above the diagonal alone, would count as half the hopping.
    """
    if concrete(matrix) and not _is_hermitian(np.asarray(matrix)):
        raise ValueError(
            f"{function}: {name} is not Hermitian (or not finite); give both triangles, as "
            f"{name} + {name}.conj().T of one without its diagonal."
        )


def hermitian(matrix: Array) -> Array:
    """A Hermitian matrix without its rounding; NaN where `check_hermitian` would refuse it."""
    return jnp.where(_is_hermitian(matrix), (matrix + matrix.conj().T) / 2, jnp.nan)


def _is_hermitian(matrix: Any) -> Any:
    return abs(matrix - matrix.conj().T).max() <= _HERMITIAN * abs(matrix).max()


def concrete(*values: object) -> bool:
    """Whether values can be looked at on the host, now."""
    return not any(isinstance(value, jax.core.Tracer) for value in values)
