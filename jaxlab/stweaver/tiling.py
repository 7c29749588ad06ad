"""Plans without a gap: requests whose load is the capacity all the time, like tiles of a rectangle.

Where nothing may stay empty, a hollow of the skyline (a stretch of sections of equal height between
higher ones) can be filled in few ways: at its left end by a request that begins exactly there and
ends within it, at its right end by one that ends exactly there. The search always decides on the
corner with the fewest such requests, of any hollow. A corner without one refutes what was placed.
The skyline follows from the set of placed requests, so a set that has failed is not tried again.
"""

import time
import typing

import numpy as np
from jaxtyping import Int64

from jaxlab.stweaver.kernel import kernel, kernel_part
from jaxlab.stweaver.lifetimes import Lifetimes

_WIDEST = 64  # requests listed for a corner; one that has more is decided last
_SLOTS = 1 << 20
_NODES = 20  # steps of the first search, for each request
_GROWTH = 1.3
_STEPS_A_SECOND = 100_000  # a low guess; each search corrects it
_FOUND, _REFUTED, _GAVE_UP = 1, 0, -1


def is_full(lives: Lifetimes, capacity: int) -> bool:
    """Whether a plan within the capacity can have no gap anywhere.

    Args:
      lives: the requests.
      capacity: bytes.

    Returns:
      True if the load of every section is the capacity; False for periodic traces.
    """
    return not lives.periodic and lives.size.size > 0 and bool((lives.load == capacity).all())


def tile(
    lives: Lifetimes, capacity: int, *, deadline: float, seed: int = 0
) -> Int64[np.ndarray, " live"] | None:
    """Searches a plan without a gap.

    Args:
      lives: the requests, of which ``is_full`` holds.
      capacity: bytes.
      deadline: value of ``time.perf_counter()`` at which to stop.
      seed: of the orders of restarts.

    Returns:
      int64 ``[live]``, offsets; None if there is no such plan or none was found in time.
    """
    count, first, last = lives.size.size, lives.first, lives.last
    sections = np.arange(lives.sections + 2)
    starts, ends = np.argsort(first, kind="stable"), np.argsort(last, kind="stable")
    start_of, end_of = (
        np.searchsorted(first[starts], sections),
        np.searchsorted(last[ends], sections),
    )
    random = np.random.default_rng(seed)
    salt = np.random.default_rng(1).integers(1, 1 << 62, count)
    failed, offsets = np.zeros(_SLOTS, np.int64), np.zeros(count, np.int64)
    length, size = np.log(lives.length), np.log(lives.size)
    steps, speed = _NODES * count, float(_STEPS_A_SECOND)
    preference = [length, size, length + size]
    answer = _GAVE_UP
    while answer == _GAVE_UP and (now := time.perf_counter()) < deadline:
        if preference:
            key = preference.pop(0)
        else:
            key = random.random() * length + random.random() * size
            key = key + 0.3 * random.normal(size=count)
        rank = np.empty(count, np.int64)
        rank[np.argsort(-key, kind="stable")] = np.arange(count)
        allowed = min(steps, int((deadline - now) * speed) + 1)
        answer, used = _search(
            lives.size, first, last, lives.sections, capacity, rank,
            starts, start_of, ends, end_of, salt, failed, allowed, offsets,
        )  # fmt: skip
        speed = max(used / (time.perf_counter() - now + 1e-9), 1000.0)
        steps = int(_GROWTH * steps)
    return offsets if answer == _FOUND else None


@kernel
@typing.no_type_check
def _search(
    size, first, last, sections, capacity, rank,
    starts, start_of, ends, end_of, salt, failed, allowed, offsets,
):  # fmt: skip
    """Depth first; returns the answer and the steps taken."""
    count = size.size
    height = np.zeros(sections, np.int64)
    placed = np.zeros(count, np.bool_)
    chosen = np.zeros(count + 1, np.int64)
    options = np.zeros((count + 1, _WIDEST), np.int64)
    left = np.zeros(count + 1, np.int64)  # options of a level not tried yet
    prints = np.zeros(count + 1, np.int64)
    listed = np.zeros(_WIDEST, np.int64)
    mask = failed.size - 1
    depth, steps, down = 0, 0, True
    while True:
        if down:
            if depth == count:
                return _FOUND, steps
            steps += 1
            if steps > allowed:
                return _GAVE_UP, steps
            left[depth] = 0
            if depth == 0 or failed[prints[depth] & mask] != prints[depth]:
                left[depth] = _tightest_corner(
                    size, first, last, capacity, starts, start_of, ends, end_of,
                    height, placed, listed, options[depth],
                )  # fmt: skip
                _sort(options[depth], left[depth], rank)
        if left[depth] == 0:
            failed[prints[depth] & mask] = prints[depth]
            if depth == 0:
                return _REFUTED, steps
            depth -= 1
            down = False
            request = chosen[depth]
            placed[request] = False
            height[first[request] : last[request]] -= size[request]
            continue
        left[depth] -= 1
        request = options[depth, left[depth]]
        chosen[depth] = request
        placed[request] = True
        offsets[request] = height[first[request]]
        height[first[request] : last[request]] += size[request]
        prints[depth + 1] = prints[depth] ^ salt[request]
        depth += 1
        down = True


@kernel_part
@typing.no_type_check
def _tightest_corner(
    size, first, last, capacity, starts, start_of, ends, end_of, height, placed, listed, best
):
    """Lists the requests for the corner that has the fewest in ``best``; returns how many."""
    fewest, lowest = _WIDEST + 1, capacity
    begin = 0
    while begin < height.size:
        level, end = height[begin], begin + 1
        while end < height.size and height[end] == level:
            end += 1
        walled = (begin == 0 or height[begin - 1] > level) and (
            end == height.size or height[end] > level
        )
        if level < capacity and walled:
            for side in range(2):
                edge, order, range_of = begin, starts, start_of
                if side == 1:
                    edge, order, range_of = end, ends, end_of
                found = 0
                for entry in range(range_of[edge], range_of[edge + 1]):
                    request = order[entry]
                    if (
                        not placed[request]
                        and begin <= first[request]
                        and last[request] <= end
                        and level + size[request] <= capacity
                        and found < _WIDEST
                        and not _has_twin(size, first, last, listed, found, request)
                    ):
                        listed[found] = request
                        found += 1
                if found < fewest or (found == fewest and level < lowest):
                    fewest, lowest = found, level
                    best[:found] = listed[:found]
                if found == 0:
                    return 0
        begin = end
    return fewest


@kernel_part
@typing.no_type_check
def _has_twin(size, first, last, listed, found, request):
    for place in range(found):
        other = listed[place]
        if (
            size[other] == size[request]
            and first[other] == first[request]
            and last[other] == last[request]
        ):
            return True
    return False


@kernel_part
@typing.no_type_check
def _sort(options, count, rank):
    """The preferred one last, as options are tried from the end."""
    for place in range(1, count):
        request, before = options[place], place - 1
        while before >= 0 and rank[options[before]] < rank[request]:
            options[before + 1] = options[before]
            before -= 1
        options[before + 1] = request
