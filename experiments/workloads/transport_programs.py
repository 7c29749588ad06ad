"""How transport programs are made: in 64-bit mode, and quickly where nothing is timed."""

import contextlib
import functools

import jax


def in_double(function):
    """Runs a step in 64-bit mode."""

    @functools.wraps(function)
    def scoped(*arguments):
        with jax.enable_x64(True):
            return function(*arguments)

    return scoped


@contextlib.contextmanager
def compiled_quickly():
    """Leaves out most of XLA's optimizations: they cost more than small programs gain."""
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
