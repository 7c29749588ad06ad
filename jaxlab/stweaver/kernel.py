"""Compiled functions, kept on disk until any of their sources changes.

Numba looks at the file of a cached function only, not at those of the functions that it calls, and
would run yesterday's machine code after an edit to one of them. Here the stamp of a cached function
covers every file of the package that holds kernels or constants of kernels.
"""

import functools
import hashlib
import pathlib
import typing
from collections.abc import Callable

import numba


@functools.cache
def sources() -> str:
    """A digest of all files of this package that have to do with kernels."""
    digest = hashlib.sha256()
    for path in sorted(pathlib.Path(__file__).parent.glob("*.py")):
        text = path.read_bytes()
        if b"kernel" in text:
            digest.update(path.name.encode() + b"\0" + text + b"\0")
    return digest.hexdigest()


def kernel(function: Callable[..., typing.Any]) -> typing.Any:
    """Compiles a function that Python calls.

    Args:
      function: what to compile.

    Returns:
      The compiled function.
    """
    return _stamped(numba.njit(cache=True)(function))


def kernel_part(function: Callable[..., typing.Any]) -> typing.Any:
    """Compiles a function that only kernels call, without an entry for Python.

    Such an entry unpacks every array of the arguments. For a state of twenty arrays it is more code
    than the function, and it makes up a third of the time that compiling takes.

    Args:
      function: what to compile; it cannot be called from Python.

    Returns:
      The compiled function.
    """
    options: dict[str, typing.Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return _stamped(numba.njit(cache=True, **options)(function))


def _stamped(compiled: typing.Any) -> typing.Any:
    file = compiled._cache._cache_file
    file._source_stamp = (file._source_stamp, sources())
    return compiled
