"""64-bit mode for one step of an experiment."""

import functools

import jax


def in_double(function):
    """Runs a step in 64-bit mode."""

    @functools.wraps(function)
    def scoped(*arguments):
        with jax.enable_x64(True):
            return function(*arguments)

    return scoped
