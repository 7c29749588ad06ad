"""Best-gap placement: put boxes one after another where they waste least.

A box is a request, or a group of requests that keep their relative addresses. Boxes live in a
section tree (sorted by start, with the latest end below every node), so the boxes that meet a
lifetime are found in output-sensitive time, without a matrix of overlaps.
"""

import typing

import numpy as np
from jaxtyping import Int64

from jaxlab.stweaver.kernel import kernel, kernel_part

FAR = np.int64(1) << np.int64(62)


@typing.no_type_check
class Boxes(typing.NamedTuple):
    """Boxes to place and the tree of those that lie already.

    Attributes:
      size: int64 ``[boxes]``, bytes.
      first: int64 ``[boxes]``, first section.
      last: int64 ``[boxes]``, end of the sections (half-open).
      wrap: int64 ``[boxes]``, end of the sections from 0 on that a wrapping box also fills.
      offset: int64 ``[boxes]``, -1 until placed.
      leaf: int64 ``[boxes, 2]``, tree leaves of the two pieces; -1 for a missing second one.
      owner: int64 ``[leaves]``, the box of every leaf, sorted by start.
      before: int64 ``[sections + 1]``, number of leaves that start before a section.
      tree: int64 ``[2 * leaves']``, latest end of the placed boxes below every node.
      seen: int64 ``[boxes]``, stamps of the last query.
      low: int64 ``[boxes]``, work space.
      high: int64 ``[boxes]``, work space.
      members: int64 ``[boxes + 1]``, ranges in ``cuts``; empty for a solid box.
      cuts: int64, times at which the filling of a hollow box changes.
      fill: int64 ``[2 * cuts]``, segment trees of its filled height between the cuts.
      sections: number of sections.
    """

    size: Int64[np.ndarray, " boxes"]
    first: Int64[np.ndarray, " boxes"]
    last: Int64[np.ndarray, " boxes"]
    wrap: Int64[np.ndarray, " boxes"]
    offset: Int64[np.ndarray, " boxes"]
    leaf: Int64[np.ndarray, "boxes 2"]
    owner: Int64[np.ndarray, " leaves"]
    before: Int64[np.ndarray, " cuts"]
    tree: Int64[np.ndarray, " nodes"]
    seen: Int64[np.ndarray, " boxes"]
    low: Int64[np.ndarray, " boxes"]
    high: Int64[np.ndarray, " boxes"]
    members: Int64[np.ndarray, " ranges"]
    cuts: Int64[np.ndarray, " changes"]
    fill: Int64[np.ndarray, " fills"]
    sections: int


def boxes(
    size: Int64[np.ndarray, " boxes"],
    first: Int64[np.ndarray, " boxes"],
    last: Int64[np.ndarray, " boxes"],
    wrap: Int64[np.ndarray, " boxes"],
    sections: int,
    hollow: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
) -> Boxes:
    """Boxes, none of them placed.

    Args:
      size: int64 ``[boxes]``, bytes.
      first: int64 ``[boxes]``, first section.
      last: int64 ``[boxes]``, end of the sections.
      wrap: int64 ``[boxes]``, end of the second piece, or 0.
      sections: number of sections.
      hollow: ``members``, ``cuts`` and ``fill`` of the class; None if every box is solid.

    Returns:
      The boxes with an empty tree.
    """
    count = size.size
    second = np.flatnonzero(wrap > 0)
    owner = np.concatenate([np.arange(count), second])
    start = np.concatenate([first, np.zeros(second.size, np.int64)])
    order = np.argsort(start, kind="stable")
    leaf = np.full((count, 2), -1, np.int64)
    position = np.empty(order.size, np.int64)
    position[order] = np.arange(order.size)
    leaf[:, 0], leaf[second, 1] = position[:count], position[count:]
    before = np.searchsorted(start[order], np.arange(sections + 1)).astype(np.int64)
    width = 1 << max(int(order.size - 1).bit_length(), 0) if order.size else 1
    if hollow is None:
        hollow = (np.zeros(count + 1, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64))
    return Boxes(
        size,
        first,
        last,
        wrap,
        np.full(count, -1, np.int64),
        leaf,
        owner[order],
        before,
        np.zeros(2 * width, np.int64),
        np.full(count, -1, np.int64),
        np.empty(count, np.int64),
        np.empty(count, np.int64),
        *hollow,
        sections,
    )


@kernel_part
@typing.no_type_check
def _filled(b, box, start, end):
    """Filled height of a hollow box during the sections [start, end)."""
    lo, hi = b.members[box], b.members[box + 1]
    cuts = b.cuts[lo:hi]
    count = hi - lo
    # the piece between cuts[i] and cuts[i + 1] is leaf i; times outside fill nothing
    left = np.searchsorted(cuts, start, side="right") - 1
    right = np.searchsorted(cuts, end, side="left")
    left, right = max(left, 0) + count, min(right, count) + count
    highest = 0
    while left < right:
        if left & 1:
            highest = max(highest, b.fill[2 * lo + left])
            left += 1
        if right & 1:
            right -= 1
            highest = max(highest, b.fill[2 * lo + right])
        left >>= 1
        right >>= 1
    return highest


@kernel_part
@typing.no_type_check
def _height_beside(b, other, box):
    """How much of the placed box ``other``, from its bottom on, is filled while ``box`` lives."""
    if b.members[other] == b.members[other + 1]:
        return b.size[other]
    highest = 0
    for shift in (0, b.sections):
        highest = max(highest, _filled(b, other, b.first[box] + shift, b.last[box] + shift))
        if b.wrap[box] > 0:
            highest = max(highest, _filled(b, other, shift, b.wrap[box] + shift))
    return highest


@kernel_part
@typing.no_type_check
def _meeting(b, box, stack):
    """Writes the filled ranges of all placed boxes that meet ``box`` in time; returns how many."""
    count = 0
    width = b.tree.size // 2
    for piece in range(2):
        if piece == 0:
            start, end = b.first[box], b.last[box]
        else:
            start, end = 0, b.wrap[box]
        if end <= start:
            continue
        leaves = b.before[end]
        top = 0
        stack[0] = 1
        stack[1] = width
        while top >= 0:
            node, span = stack[2 * top], stack[2 * top + 1]
            top -= 1
            if b.tree[node] <= start:
                continue
            if span > 1:
                span //= 2
                for child in range(2 * node, 2 * node + 2):
                    if child * span - width < leaves:
                        top += 1
                        stack[2 * top] = child
                        stack[2 * top + 1] = span
            else:
                other = b.owner[node - width]
                if b.seen[other] != box:
                    b.seen[other] = box
                    height = _height_beside(b, other, box)
                    if height > 0:
                        b.low[count] = b.offset[other]
                        b.high[count] = b.offset[other] + height
                        count += 1
    return count


@kernel_part
@typing.no_type_check
def best_gap(low, high, count, size, ceiling):
    """Lowest address in the smallest gap of at least ``size`` bytes below ``ceiling``.

    The first ``count`` entries of ``low`` and ``high`` are filled ranges, in any order. The space
    between the highest of them and the ceiling is a gap like the others if the ceiling is finite.

    Returns:
      The address; -1 if there is none.
    """
    order = np.argsort(low[:count])
    best, where, free = FAR, -1, 0
    for position in order:
        gap = low[position] - free
        if size <= gap < best and free + size <= ceiling:
            best, where = gap, free
        free = max(free, high[position])
    if free + size <= ceiling and (where < 0 or (ceiling < FAR and ceiling - free < best)):
        where = free
    return where


@kernel_part
@typing.no_type_check
def settle(b, box, offset):
    """Places a box."""
    b.offset[box] = offset
    width = b.tree.size // 2
    for piece in range(2):
        node = b.leaf[box, piece]
        if node >= 0:
            end = b.last[box] if piece == 0 else b.wrap[box]
            node += width
            while node > 0 and b.tree[node] < end:
                b.tree[node] = end
                node //= 2


@kernel_part
@typing.no_type_check
def find(b, box, ceiling, stack):
    """Address of the best gap for a box below a ceiling; -1 if there is none."""
    count = _meeting(b, box, stack)
    return best_gap(b.low, b.high, count, b.size[box], ceiling)


@kernel
@typing.no_type_check
def place_in_order(b, order):
    """Places the boxes in the given order, each into its best gap or on top of all it meets."""
    stack = np.empty(512, np.int64)
    for box in order:
        settle(b, box, find(b, box, FAR, stack))


@kernel_part
@typing.no_type_check
def clear(b):
    """Takes all boxes out again."""
    b.offset[:] = -1
    b.seen[:] = -1
    b.tree[:] = 0
