"""HomoSize: equal sizes, largest first; into idle space if they fit, else in layers on top."""

import heapq
import typing

import numpy as np
from jaxtyping import Int64

from jaxlab.stweaver.gaps import Boxes, find, settle
from jaxlab.stweaver.kernel import kernel


def homosize(state: Boxes, grade: Int64[np.ndarray, " boxes"] | None = None) -> None:
    """Places all boxes, class by class of equal size, in descending size.

    A class first goes into the gaps below the present height, each box into the smallest one that
    is idle throughout its life. The rest forms memory-layers (Algorithm 1) on top: of the layers
    idle at a box's start, the one whose last release is latest takes it.

    Args:
      state: boxes, none placed; changed in place.
      grade: int64 ``[boxes]``, the size class of every box: bytes, not less than its size, and the
        height of the class's layers. None takes the sizes themselves.

    Source: section 2.3, steps 4-6, and 2.5 of the notes. The paper searches idle intervals layer
    by layer; here any gap below the present height counts, whatever layers it crosses.
    """
    grade = state.size if grade is None else grade
    order = np.lexsort((-state.size, state.wrap, state.last, state.first, -grade))
    _homosize(state, order, grade)


def grades(size: Int64[np.ndarray, " boxes"], tolerance: float) -> Int64[np.ndarray, " boxes"]:
    """Size classes that each span at most a given share of their largest size.

    Args:
      size: int64 ``[boxes]``, bytes.
      tolerance: the share; 0 keeps different sizes apart.

    Returns:
      int64 ``[boxes]``, the largest size of each box's class.
    """
    grade = np.empty_like(size)
    largest = 0
    for box in np.argsort(-size, kind="stable"):
        if size[box] < (1 - tolerance) * largest or largest == 0:
            largest = size[box]
        grade[box] = largest
    return grade


def layers(
    first: Int64[np.ndarray, " boxes"],
    last: Int64[np.ndarray, " boxes"],
    wrap: Int64[np.ndarray, " boxes"],
) -> Int64[np.ndarray, " boxes"]:
    """Algorithm 1: the memory-layer of each of several boxes of one size.

    Args:
      first: int64 ``[boxes]``, first section, ascending.
      last: int64 ``[boxes]``, end of the sections.
      wrap: int64 ``[boxes]``, end of a second piece that starts at section 0; 0 if there is none.

    Returns:
      int64 ``[boxes]``, layers from 0 on. Without second pieces as many as are live at once.

    Source: Algorithm 1 of the paper, with ``<=`` for half-open lifetimes.
    """
    return _layers(first, last, wrap)


@kernel
@typing.no_type_check
def _homosize(b, order, grade):
    stack = np.empty(512, np.int64)
    ceiling, position = np.int64(0), 0
    while position < order.size:
        size = grade[order[position]]
        behind = position
        while behind < order.size and grade[order[behind]] == size:
            behind += 1
        left = 0
        rest = np.empty(behind - position, np.int64)
        for place in range(position, behind):
            box = order[place]
            offset = find(b, box, ceiling, stack)
            if offset >= 0:
                settle(b, box, offset)
            else:
                rest[left] = box
                left += 1
        rest = rest[:left]
        layer = _layers(b.first[rest], b.last[rest], b.wrap[rest])
        for place in range(left):
            settle(b, rest[place], ceiling + layer[place] * size)
        if left > 0:
            ceiling += (layer.max() + 1) * size
        position = behind


@kernel
@typing.no_type_check
def _layers(first, last, wrap):
    count = first.size
    layer = np.empty(count, np.int64)
    opened = np.empty(count, np.int64)  # start of the first box of every layer
    busy = [(np.int64(0), np.int64(0)) for _ in range(0)]  # heap of (release, layer)
    idle = [np.int64(0) for _ in range(0)]  # stack of idle layers, latest release on top
    used = 0
    for box in range(count):
        while busy and busy[0][0] <= first[box]:
            idle.append(heapq.heappop(busy)[1])
        chosen = -1
        for place in range(len(idle) - 1, -1, -1):
            if wrap[box] <= opened[idle[place]]:
                chosen = idle.pop(place)
                break
        if chosen < 0:
            chosen = used
            opened[used] = first[box]
            used += 1
        layer[box] = chosen
        heapq.heappush(busy, (last[box], chosen))
    return layer
