"""Draws and the cooling of simulated annealing, compiled by numba: imported only where it runs.

The searches are written in loops over numbers: whole-array expressions take seconds to compile.

The generator is written out so that a seed gives the same plan whatever numba's own generator does.
"""

import typing

import numba
import numpy as np

HOTTEST, COLDEST = 1e-2, 2e-5
STAGES = 256
COOLING = (COLDEST / HOTTEST) ** (1 / STAGES)


@numba.njit(cache=True)
@typing.no_type_check
def next_draw(state):
    """A step of xorshift64*: the same numbers on every machine."""
    x = state[0]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    state[0] = x
    return (x * np.uint64(2685821657736338717)) >> np.uint64(32)


@numba.njit(cache=True)
@typing.no_type_check
def below(state, bound):
    """A number in [0, bound)."""
    return np.int64((next_draw(state) * np.uint64(bound)) >> np.uint64(32))


@numba.njit(cache=True)
@typing.no_type_check
def seeded(seed):
    """A generator's state."""
    state = np.empty(1, np.uint64)
    state[0] = np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x123456789ABCDEF1)
    for _ in range(8):
        next_draw(state)
    return state


@numba.njit(cache=True)
@typing.no_type_check
def patience_table():
    """Exponential draws by quantile: a swap is taken when it costs less than draw x temperature."""
    draws = np.empty(1024)
    for i in range(1024):
        draws[i] = -np.log((i + 0.5) / 1024)
    return draws


@numba.njit(cache=True)
@typing.no_type_check
def copy_into(target, source):
    """Copies one row of numbers: much quicker to compile than an assignment of slices."""
    for i in range(source.size):
        target[i] = source[i]


@numba.njit(cache=True)
@typing.no_type_check
def by_shard(turned, shard, ring):
    """``[ring, blocks]``: work of every block with every shard of the other side's blocks.

    ``turned[k]`` is the work of block ``k`` of the other side with every block.
    """
    out = np.zeros((ring, turned.shape[1]), np.int32)
    for k in range(shard.size):
        into, row = out[shard[k]], turned[k]
        for i in range(row.size):
            into[i] += row[i]
    return out


@numba.njit(cache=True)
@typing.no_type_check
def dot(one, other):
    """The sum of products of two rows of numbers."""
    total = 0.0
    for i in range(one.size):
        total += one[i] * other[i]
    return total
