"""HomoPhase groups: requests born in one phase and freed in another, packed and fused."""

import dataclasses
import typing

import numpy as np
from jaxtyping import Int64

from jaxlab.stweaver.gaps import Boxes, boxes
from jaxlab.stweaver.kernel import kernel
from jaxlab.stweaver.lifetimes import Lifetimes
from jaxlab.stweaver.trace import Trace

_WORTHWHILE = 0.7  # least time-memory product of a group


@typing.no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Requests that are placed together.

    Attributes:
      rows: int64 ``[members]``, rows of the lifetimes, all different.
      offsets: int64 ``[members]``, bytes from the group's own lowest address.
      size: int64 ``[members]``, bytes.
      start: int64 ``[members]``, times that do not wrap: an end may lie beyond the period.
      end: int64 ``[members]``.
    """

    rows: Int64[np.ndarray, " members"]
    offsets: Int64[np.ndarray, " members"]
    size: Int64[np.ndarray, " members"]
    start: Int64[np.ndarray, " members"]
    end: Int64[np.ndarray, " members"]

    @property
    def height(self) -> int:
        """Bytes from the lowest to the highest address."""
        return int((self.offsets + self.size).max())

    @property
    def duration(self) -> int:
        """Time from the first allocation to the last release."""
        return int(self.end.max() - self.start.min())

    @property
    def area(self) -> int:
        """Bytes times time that the group reserves."""
        return self.height * self.duration

    @property
    def tmp(self) -> float:
        """Time-memory product: the part of the reserved area that is used, in (0, 1]."""
        return float(self.size @ (self.end - self.start).astype(np.float64)) / self.area


def homophase(trace: Trace, lives: Lifetimes) -> list[Group]:
    """Groups of equal (birth phase, release phase), neighbors fused where that saves area.

    A group is kept if all of its members are live at one instant, so that stacking them wastes
    nothing at its peak, and if they use at least 70 % of the area it reserves (the official code's
    threshold). Every group is fused at most once.

    Args:
      trace: the requests with their phases.
      lives: the same, as lifetimes.

    Returns:
      Groups of two or more requests; every other request stays single.

    Source: section 2.3-2.4 of the notes; the acceptance test is reconstructed, see
    docs/sources/stweaver.md.
    """
    born, freed = trace.phase_start[lives.rows], trace.phase_end[lives.rows]
    start, end = trace.start[lives.rows], trace.end[lives.rows]
    scoped = np.flatnonzero((born >= 0) & (freed >= 0) & (born != freed))
    order = scoped[np.lexsort((freed[scoped], born[scoped]))]
    change = (np.diff(born[order]) != 0) | (np.diff(freed[order]) != 0)
    groups: dict[tuple[int, int], Group] = {}
    for rows in np.split(order, np.flatnonzero(change) + 1):
        if rows.size > 1 and start[rows].max() < end[rows].min():
            key = int(born[rows[0]]), int(freed[rows[0]])
            group = _stacked(rows, lives.size[rows], start[rows], end[rows])
            if group.tmp >= _WORTHWHILE:
                groups[key] = group
    return _fused(groups, trace.period)


def _stacked(rows: np.ndarray, size: np.ndarray, start: np.ndarray, end: np.ndarray) -> Group:
    """Latest release lowest, so that the free space after the peak is a staircase."""
    order = np.lexsort((size, start, -end))
    offsets = np.cumsum(size[order]) - size[order]
    return Group(rows[order], offsets, size[order], start[order], end[order])


def _fused(groups: dict[tuple[int, int], Group], period: int | None) -> list[Group]:
    by_birth: dict[int, list[tuple[int, int]]] = {}
    by_release: dict[int, list[tuple[int, int]]] = {}
    for key in groups:
        by_birth.setdefault(key[0], []).append(key)
        by_release.setdefault(key[1], []).append(key)
    done: set[tuple[int, int]] = set()
    out = []
    for key in sorted(groups, key=lambda key: (-groups[key].height, key)):
        if key in done:
            continue
        done.add(key)
        base, best, partner = groups[key], None, None
        saved = 0
        for other in by_birth.get(key[1], []) + by_release.get(key[0], []):
            if other in done:
                continue
            together = fuse(base, groups[other])
            gain = base.area + groups[other].area - together.area
            if gain > saved and (period is None or together.duration <= period):
                best, partner, saved = together, other, gain
        if best is not None and partner is not None:
            done.add(partner)
            base = best
        out.append(base)
    return out


def fuse(base: Group, guest: Group) -> Group:
    """Puts the members of ``guest`` into the space that ``base`` leaves free beside its peak.

    Args:
      base: the higher group; all of its members are live at one instant.
      guest: the other group, likewise.

    Returns:
      One group; the base's members are restacked so that the free space beside the guest is a
      staircase, and the guest's rest lies on top.

    Source: section 2.4 of the notes.
    """
    later = guest.start.min() + guest.end.max() >= base.start.min() + base.end.max()
    # a guest that comes first is the mirror image of one that comes later
    a, b = (base, guest) if later else (_mirrored(base), _mirrored(guest))
    under = np.lexsort((a.size, a.start, -a.end))
    top = np.cumsum(a.size[under])
    order = np.lexsort((b.size, b.end, b.start))
    offsets = _stairs(top, a.end[under], b.start[order], b.size[order])
    rows = np.concatenate([a.rows[under], b.rows[order]])
    size, start, end = (
        np.concatenate([getattr(a, name)[under], getattr(b, name)[order]])
        for name in ("size", "start", "end")
    )
    joined = Group(rows, np.concatenate([top - a.size[under], offsets]), size, start, end)
    return joined if later else _mirrored(joined)


def _mirrored(group: Group) -> Group:
    return dataclasses.replace(group, start=-group.end, end=-group.start)


@kernel
@typing.no_type_check
def _stairs(top, release, start, size):
    """Offsets of guests on a staircase.

    ``top`` and ``release`` are the ends in address and in time of the base's members, lowest
    first, latest release first; ``start`` and ``size`` are the guests', earliest first.
    """
    guests = start.size
    following = np.arange(guests + 1)
    offsets = np.empty(guests, np.int64)
    address, step, left = 0, 0, guests
    while left > 0:
        while step < top.size and top[step] <= address:
            step += 1
        guest = 0 if step == top.size else np.searchsorted(start, release[step])
        root = guest
        while following[root] != root:
            root = following[root]
        while following[guest] != root:
            following[guest], guest = root, following[guest]
        if root < guests:
            offsets[root] = address
            address += size[root]
            following[root] = root + 1
            left -= 1
        else:
            address = top[step]
    return offsets


def grouped_boxes(lives: Lifetimes, groups: list[Group]) -> tuple[Boxes, np.ndarray, np.ndarray]:
    """Boxes of the groups and of all other requests.

    Args:
      lives: the requests.
      groups: disjoint groups of them.

    Returns:
      The boxes; int64 ``[live]``, the box of every request; int64 ``[live]``, its offset there.
    """
    box = np.full(lives.size.size, -1, np.int64)
    inside = np.zeros(lives.size.size, np.int64)
    stop = np.where(lives.wrap > 0, lives.sections + lives.wrap, lives.last)
    size, first, last, cuts, fill, members = [], [], [], [], [], [0]
    for number, group in enumerate(groups):
        box[group.rows], inside[group.rows] = number, group.offsets
        begin, end = lives.first[group.rows], stop[group.rows]
        times = np.unique(np.concatenate([begin, end]))
        tree = _filling(
            np.searchsorted(times, begin),
            np.searchsorted(times, end),
            group.offsets + group.size,
            times.size,
        )
        size.append(group.height)
        first.append(times[0])
        last.append(times[-1])
        cuts.append(times)
        fill.append(tree)
        members.append(members[-1] + times.size)
    single = np.flatnonzero(box < 0)
    box[single] = len(groups) + np.arange(single.size)
    last = np.concatenate([np.array(last, np.int64), stop[single]])
    wrap = np.where(last > lives.sections, last - lives.sections, 0)
    hollow = (
        np.concatenate([np.array(members, np.int64), np.full(single.size, members[-1])]),
        np.concatenate([*cuts, np.zeros(0, np.int64)]),
        np.concatenate([*fill, np.zeros(0, np.int64)]),
    )
    state = boxes(
        np.concatenate([np.array(size, np.int64), lives.size[single]]),
        np.concatenate([np.array(first, np.int64), lives.first[single]]),
        np.minimum(last, lives.sections),
        wrap,
        lives.sections,
        hollow,
    )
    return state, box, inside


@kernel
@typing.no_type_check
def _filling(begin, end, top, count):
    """Segment tree of the highest top among the members live between consecutive cuts."""
    fill = np.zeros(2 * count, np.int64)
    for member in range(begin.size):
        left, right = begin[member] + count, end[member] + count
        while left < right:
            if left & 1:
                fill[left] = max(fill[left], top[member])
                left += 1
            if right & 1:
                right -= 1
                fill[right] = max(fill[right], top[member])
            left >>= 1
            right >>= 1
    for node in range(1, count):
        for child in (2 * node, 2 * node + 1):
            fill[child] = max(fill[child], fill[node])
    for node in range(count - 1, 0, -1):
        fill[node] = max(fill[2 * node], fill[2 * node + 1])
    return fill
