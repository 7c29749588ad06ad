"""Compiled functions that only compiled functions call."""

import typing
from collections.abc import Callable

import numba


def kernel_part(function: Callable[..., typing.Any]) -> typing.Any:
    """Compiles a function without an entry for Python.

    Such an entry unpacks every array of the arguments. For a state of twenty arrays it is more code
    than the function, and it makes up a third of the time that compiling takes.

    Args:
      function: what to compile; it cannot be called from Python.

    Returns:
      The compiled function.
    """
    options: dict[str, typing.Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return numba.njit(cache=True, **options)(function)
