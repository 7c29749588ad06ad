"""The free byte ranges of an arena, for compiled code: claim, release and fit in O(log n)."""

import typing

import numpy as np
from jaxtyping import Int64

from jaxlab.stweaver import ordered
from jaxlab.stweaver.kernel import kernel, kernel_part
from jaxlab.stweaver.ordered import NONE

_FRESH, _RECYCLED, FREE_BYTES = 0, 1, 2


class Intervals(typing.NamedTuple):
    """Disjoint ranges ``[start, end)`` that never touch, ordered by address."""

    start: Int64[np.ndarray, " ranges"]
    end: Int64[np.ndarray, " ranges"]
    rank: Int64[np.ndarray, " ranges"]  # all zero: the order is by address alone
    recycled: Int64[np.ndarray, " ranges"]
    child: Int64[np.ndarray, " slots"]
    totals: Int64[np.ndarray, " totals"]


def whole(height: int, claims: int) -> Intervals:
    """The free ranges of an empty arena.

    Args:
      height: bytes of the arena.
      claims: largest number of claims that are held at once.

    Returns:
      One range, or none if the arena is empty.
    """
    ranges = claims + 2
    child = np.full(2 * ranges + 1, NONE, np.int64)
    start, end, rank, recycled = np.zeros((4, ranges), np.int64)
    free = Intervals(start, end, rank, recycled, child, np.zeros(3, np.int64))
    if height:
        release(free, 0, height)
    return free


@kernel_part
@typing.no_type_check
def _root(free):
    return 2 * free.start.size


@kernel_part
@typing.no_type_check
def _add(free, low, high):
    if free.totals[_RECYCLED] > 0:
        free.totals[_RECYCLED] -= 1
        node = free.recycled[free.totals[_RECYCLED]]
    else:
        node = free.totals[_FRESH]
        free.totals[_FRESH] += 1
    free.start[node] = low
    free.end[node] = high
    ordered.insert(free.child, free.rank, free.start, _root(free), node)


@kernel_part
@typing.no_type_check
def _drop(free, node):
    ordered.remove(free.child, free.rank, free.start, _root(free), node)
    free.recycled[free.totals[_RECYCLED]] = node
    free.totals[_RECYCLED] += 1


@kernel_part
@typing.no_type_check
def _holding(free, address):
    """The last range that starts at or below an address, or NONE."""
    return ordered.last_before(free.child, free.rank, free.start, _root(free), 0, address + 1)


@kernel
@typing.no_type_check
def claim(free, low, high):
    """Takes ``[low, high)`` if all of it is free; whether it was."""
    node = _holding(free, low)
    if node == NONE or free.end[node] < high:
        return False
    start, end = free.start[node], free.end[node]
    _drop(free, node)
    if start < low:
        _add(free, start, low)
    if high < end:
        _add(free, high, end)
    free.totals[FREE_BYTES] -= high - low
    return True


@kernel
@typing.no_type_check
def release(free, low, high):
    """Returns a claimed range and joins it with free neighbors."""
    free.totals[FREE_BYTES] += high - low
    before = _holding(free, low)
    if before != NONE and free.end[before] == low:
        low = free.start[before]
        _drop(free, before)
    behind = _holding(free, high)
    if behind != NONE and free.start[behind] == high:
        high = free.end[behind]
        _drop(free, behind)
    _add(free, low, high)


@kernel
@typing.no_type_check
def tightest(free, lows, highs, size):
    """Lowest address of the smallest free range inside one of the windows that holds ``size``.

    The windows ``[lows[i], highs[i])`` are disjoint and ascending. Returns NONE if nothing fits.
    """
    best, best_size = NONE, np.int64(1) << 62
    for window in range(lows.size):
        low, high = lows[window], highs[window]
        if high - low < size:
            continue
        node = _holding(free, low)
        if node == NONE or free.end[node] <= low:
            node = ordered.first_from(free.child, free.rank, free.start, _root(free), 0, low)
        while node != NONE and free.start[node] < high:
            start, end = max(free.start[node], low), min(free.end[node], high)
            if size <= end - start < best_size:
                best, best_size = start, end - start
            node = ordered.after(free.child, free.rank, free.start, _root(free), node)
    return best
