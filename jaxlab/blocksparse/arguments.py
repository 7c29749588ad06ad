"""Checks on the host that mask rules share; each names the argument, its value and the remedy."""

import numbers
import operator
from collections.abc import Iterable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


def whole_number(rule: str, name: str, value: Any, *, least: int = 1) -> int:
    """The argument as an int.

    Args:
      rule: name of the public function, for error messages, here and below.
      name: name of the argument.
      value: what was given for it.
      least: smallest value allowed.

    Returns:
      The int.

    Raises:
      TypeError: it is not an integer, a float with an integer's value included.
      ValueError: it is too small.
    """
    number = _index(value)
    if number is None:
        raise TypeError(
            f"{rule}: {name} must be an integer, got {value!r}; convert it first, for example "
            f"`int({name})`."
        )
    if number < least:
        raise ValueError(f"{rule}: {name} must be an integer from {least} on, got {value!r}.")
    return number


def real_number(rule: str, name: str, value: Any) -> float:
    """The argument as a float.

    Args:
      rule: as above.
      name: as above.
      value: as above.

    Returns:
      The float; its range is the caller's to check.

    Raises:
      TypeError: it is not a real number known before compilation.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{rule}: {name} must be a number, got {value!r}; pass a Python float.")
    return float(value)


def score_scale(rule: str, scale: Any, dim: int) -> float:
    """The factor on the scores, ``dim ** -0.5`` where none is given.

    Args:
      rule: as above.
      scale: what was given, or None.
      dim: head size.

    Returns:
      The factor.

    Raises:
      TypeError: it is not a real number known before compilation.
      ValueError: it is NaN, infinite, or beyond float32.
    """
    if scale is None:
        return dim**-0.5
    number = real_number(rule, "scale", scale)
    if not abs(number) <= _LARGEST_FLOAT32:
        raise ValueError(f"{rule}: scale must be finite in float32, got {scale!r}.")
    return number


def per_head(rule: str, name: str, value: Any, heads: int) -> np.ndarray:
    """An argument that is one number or one for each head, as float64 ``[]`` or ``[heads]``.

    Args:
      rule: as above.
      name: as above.
      value: as above, concrete.
      heads: number of heads.

    Returns:
      The array; its range is the caller's to check.

    Raises:
      TypeError: it is not made of numbers.
      ValueError: it has another shape.
    """
    wanted = f"{rule}: {name} must be one number or one for each of {heads} heads"
    try:
        found = np.asarray(value)
    except ValueError:
        raise TypeError(f"{wanted}, got {value!r}.") from None
    if found.dtype == bool or not jnp.issubdtype(found.dtype, jnp.number):
        raise TypeError(f"{wanted}, got {value!r}.")
    if found.shape not in ((), (heads,)):
        raise ValueError(f"{wanted}, got shape {found.shape}.")
    return found.astype(np.float64)


def along_axes(rule: str, name: str, value: Any, unit: str = "tokens") -> tuple[int, int, int]:
    """An argument ``(frames, height, width)`` as three positive ints.

    Args:
      rule: as above.
      name: as above.
      value: as above.
      unit: what it counts.

    Returns:
      The three ints.

    Raises:
      TypeError: it is not a sequence of integers.
      ValueError: it does not hold three, or one is not positive.
    """
    wanted = f"{rule}: {name} must be (frames, height, width) in {unit}, three positive integers"
    sizes = list(value) if isinstance(value, Iterable) else [None]
    numbers = [number for number in map(_index, sizes) if number is not None]
    if len(numbers) < len(sizes):
        raise TypeError(f"{wanted}, got {value!r}; convert each with `int`.")
    if len(numbers) != 3 or min(numbers) < 1:
        raise ValueError(f"{wanted}, got {value!r}.")
    return numbers[0], numbers[1], numbers[2]


def floating(rule: str, **arrays: Any) -> None:
    """Refuses what is not a floating-point array.

    Args:
      rule: as above.
      **arrays: the arguments by name.

    Raises:
      TypeError: one is no array, or not of floating point.
    """
    for name, array in arrays.items():
        if not isinstance(array, jax.Array | np.ndarray):
            raise TypeError(
                f"{rule}: {name} must be an array, got {type(array).__name__}; convert it, for "
                f"example `jnp.asarray({name})`."
            )
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(
                f"{rule}: {name} must be floating point, got {array.dtype}; cast it, for example "
                f"`{name}.astype('float32')`."
            )


def random_key(rule: str, key: Any) -> None:
    """Refuses what is not one typed random key.

    Args:
      rule: as above.
      key: the argument.

    Raises:
      TypeError: it is something else.
    """
    if not (
        isinstance(key, jax.Array)
        and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        and key.shape == ()
    ):
        raise TypeError(
            f"{rule}: key must be one random key, got {key!r}; pass `jax.random.key(0)`."
        )


def finite(rule: str, **arrays: Any) -> None:
    """Refuses arrays that hold NaN or infinity, where they are concrete.

    Args:
      rule: as above.
      **arrays: the arguments by name; a traced one is left unchecked.

    Raises:
      ValueError: a value is not finite.
    """
    for name, array in arrays.items():
        if not isinstance(array, jax.core.Tracer) and not bool(_all_finite(array)):
            raise ValueError(
                f"{rule}: {name} holds NaN or infinity, and no block can be judged by them; mend "
                f"what made {name}, or put zeros there, for example with `jnp.nan_to_num({name})`."
            )


def _index(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


@jax.jit
def _all_finite(array: Any) -> Any:
    return jnp.isfinite(array).all()
