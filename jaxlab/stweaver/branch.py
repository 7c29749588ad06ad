"""Branch and bound on one question: can all requests lie below a capacity?

The search looks for a lowest plan: one in which no request can slide down, so that each rests on
address 0 or on another. Every open request has a lower bound of its address. A step takes an open
request with no overlapping open request below it and decides whether it rests at its bound (it is
placed) or not (it is blocked until another open request pushes it up). Four rules cut the tree:

- a blocked request rests on an open one, and that one must start below the blocked one's top;
- in every section the open requests must fit above their bounds, released one after another like
  jobs on one machine;
- what has no section in common is searched apart;
- a set of open requests with bounds that has failed once is not searched again.

Equal requests (same size and lifetime) are placed in one order only.
"""

import typing

import numpy as np

from jaxlab.stweaver.choice import choose
from jaxlab.stweaver.kernel import kernel, kernel_part
from jaxlab.stweaver.refuted import fingerprint, has_failed, record_failure
from jaxlab.stweaver.search_state import (
    BLOCKED,
    CAPACITY,
    OPEN,
    PLACED,
    TRAIL,
    WORK,
    extent,
)

FOUND, REFUTED, UNDECIDED = 1, 0, -1
_LO, _HI, _STAGE, _MARK, _MIDDLE, _REQUEST, _BEFORE = range(7)
_FRESH, _ONE_PART, _BOTH_PARTS, _AFTER_PLACING = 0, 1, 2, 3
_CONTINUE, _DEEPER = 2, 3


@kernel
@typing.no_type_check
def decide(st):
    """Searches for a plan below the capacity.

    A frame of the stack is a subproblem: the open requests ``pool[lo:hi]``. It is left with all of
    them placed, or refuted with everything restored. (A stack of our own, as numba's cached
    functions must not call themselves.)

    Returns:
      FOUND (``st.rest`` holds the addresses), REFUTED (there is none), or UNDECIDED (the work
      allowed is used up).
    """
    frames = np.zeros((2 * st.size.size + 3, 7), np.int64)
    prints = np.zeros((2 * st.size.size + 3, 2), np.uint64)  # 0 until the frame has tried one
    depth, answer = 0, UNDECIDED
    _push(st, frames, prints, 0, 0, st.size.size)
    while depth >= 0:
        frame = frames[depth]
        lo, hi, stage = frame[_LO], frame[_HI], frame[_STAGE]
        if stage == _ONE_PART and answer == FOUND:
            frame[_STAGE] = _BOTH_PARTS
            depth += 1
            _push(st, frames, prints, depth, frame[_MIDDLE], hi)
            continue
        if stage == _AFTER_PLACING and answer == REFUTED:
            _undo(st, frame[_BEFORE])
            _block(st, frame[_REQUEST])
            stage = _FRESH
        if stage == _FRESH:
            answer = _CONTINUE
            while answer == _CONTINUE:
                answer = _expand(st, frame, prints[depth])
            if answer == UNDECIDED:
                return UNDECIDED
            if answer == _DEEPER:
                end = frame[_MIDDLE] if frame[_STAGE] == _ONE_PART else hi - 1
                depth += 1
                _push(st, frames, prints, depth, lo, end)
                continue
        if answer == REFUTED:
            _undo(st, frame[_MARK])
            if prints[depth, 0] != np.uint64(0):
                record_failure(st, prints[depth, 0], prints[depth, 1])
        depth -= 1
    return answer


@kernel_part
@typing.no_type_check
def _push(st, frames, prints, depth, lo, hi):
    frames[depth, _LO] = lo
    frames[depth, _HI] = hi
    frames[depth, _STAGE] = _FRESH
    frames[depth, _MARK] = st.counters[TRAIL]
    prints[depth] = 0


@kernel_part
@typing.no_type_check
def _expand(st, frame, prints):
    """One step in a subproblem: refute it, split it, or place one request and go deeper."""
    lo, hi = frame[_LO], frame[_HI]
    if hi == lo:
        return FOUND
    if not _propagate(st, lo, hi):
        return REFUTED
    if st.counters[WORK] <= 0:
        return UNDECIDED
    frame[_MIDDLE] = _split(st, lo, hi)
    if frame[_MIDDLE] < hi:
        frame[_STAGE] = _ONE_PART
        return _DEEPER
    print1, print2 = fingerprint(st, lo, hi)
    if has_failed(st, print1, print2):
        return REFUTED
    if prints[0] == np.uint64(0):
        prints[0], prints[1] = print1, print2
    request = choose(st, lo, hi)
    frame[_REQUEST], frame[_BEFORE] = request, st.counters[TRAIL]
    if _place(st, request):
        _move_last(st, lo, hi, request)
        frame[_STAGE] = _AFTER_PLACING
        return _DEEPER
    _undo(st, frame[_BEFORE])
    _block(st, request)
    return _CONTINUE


@kernel_part
@typing.no_type_check
def _block(st, request):
    _remember(st, request)
    st.status[request] = BLOCKED


@kernel_part
@typing.no_type_check
def _remember(st, request):
    step = st.counters[TRAIL]
    st.trail[step, 0] = request
    st.trail[step, 1] = st.rest[request]
    st.trail[step, 2] = st.bound[request]
    st.trail[step, 3] = st.status[request]
    st.counters[TRAIL] = step + 1


@kernel_part
@typing.no_type_check
def _undo(st, mark):
    for step in range(st.counters[TRAIL] - 1, mark - 1, -1):
        request = st.trail[step, 0]
        st.rest[request] = st.trail[step, 1]
        st.bound[request] = st.trail[step, 2]
        st.status[request] = st.trail[step, 3]
    st.counters[TRAIL] = mark


@kernel_part
@typing.no_type_check
def _place(st, request):
    """Places a request where it rests and pushes up what overlaps it; False if that is too high."""
    _remember(st, request)
    st.status[request] = PLACED
    top = st.rest[request] + st.size[request]
    for entry in range(st.begin[request], st.begin[request + 1]):
        other = st.meets[entry]
        if st.status[other] != PLACED and st.rest[other] < top:
            if top + st.size[other] > st.counters[CAPACITY]:
                return False
            _remember(st, other)
            st.rest[other] = top
            st.status[other] = OPEN
            st.bound[other] = max(st.bound[other], top)
    return True


@kernel_part
@typing.no_type_check
def _move_last(st, lo, hi, request):
    place = lo
    while st.pool[place] != request:
        place += 1
    for position in range(place, hi - 1):
        st.pool[position] = st.pool[position + 1]
    st.pool[hi - 1] = request


@kernel_part
@typing.no_type_check
def _propagate(st, lo, hi):
    """Raises bounds until nothing changes; False if a rule refutes the subproblem."""
    if st.counters[TRAIL] + 4 * st.size.size > st.trail.shape[0]:
        st.counters[WORK] = 0
        return True
    changed = True
    while changed:
        changed = False
        for position in range(lo, hi):
            request = st.pool[position]
            bound = st.bound[request]
            twin = st.twin[request]
            if twin >= 0 and st.status[twin] != PLACED:
                bound = max(bound, st.bound[twin] + st.size[twin])
            if st.status[request] == BLOCKED:
                lowest = rest = np.int64(1) << np.int64(62)
                for entry in range(st.begin[request], st.begin[request + 1]):
                    other = st.meets[entry]
                    if st.status[other] != PLACED:
                        lowest = min(lowest, st.bound[other])
                        rest = min(rest, st.bound[other] + st.size[other])
                if lowest >= st.rest[request] + st.size[request]:
                    return False
                bound = max(bound, rest)
            if bound > st.bound[request]:
                if bound + st.size[request] > st.counters[CAPACITY]:
                    return False
                if st.counters[TRAIL] + 4 * st.size.size > st.trail.shape[0]:
                    st.counters[WORK] = 0
                    return True
                _remember(st, request)
                st.bound[request] = bound
                changed = True
    _sort_by_bound(st, lo, hi)
    begin, end = extent(st, lo, hi)
    st.stacked[begin:end] = 0
    st.reach[begin:end] = 0
    work = hi - lo
    for position in range(hi - 1, lo - 1, -1):
        request = st.pool[position]
        bound, size = st.bound[request], st.size[request]
        for section in range(st.first[request], st.last[request]):
            st.stacked[section] += size
            st.reach[section] = max(st.reach[section], bound + st.stacked[section])
        for section in range(st.wrap[request]):
            st.stacked[section] += size
            st.reach[section] = max(st.reach[section], bound + st.stacked[section])
        work += st.last[request] - st.first[request] + st.wrap[request]
    st.counters[WORK] -= work
    return st.reach[begin:end].max() <= st.counters[CAPACITY]


@kernel_part
@typing.no_type_check
def _sort_by_bound(st, lo, hi):
    for position in range(lo + 1, hi):
        request = st.pool[position]
        place = position - 1
        while place >= lo and st.bound[st.pool[place]] > st.bound[request]:
            st.pool[place + 1] = st.pool[place]
            place -= 1
        st.pool[place + 1] = request


@kernel_part
@typing.no_type_check
def _split(st, lo, hi):
    """Moves the requests around the tightest section that share no section with the rest first.

    Returns the end of them, ``hi`` if the subproblem is in one piece. Subproblems with a request
    that wraps around stay in one piece.
    """
    begin, end = extent(st, lo, hi)
    starts, ends = st.starts, st.stacked
    starts[begin : end + 1] = 0
    ends[begin : end + 1] = 0
    for position in range(lo, hi):
        request = st.pool[position]
        if st.wrap[request] > 0:
            return hi
        starts[st.first[request]] += 1
        ends[st.last[request]] += 1
    alive, piece, tight = 0, begin, -1
    best, best_begin, best_end = -1, begin, end
    for section in range(begin, end):
        alive += starts[section]
        if alive > 0:
            tight = max(tight, st.reach[section])
        alive -= ends[section + 1]
        if alive == 0:
            if tight > best:
                best, best_begin, best_end = tight, piece, section + 1
            piece, tight = section + 1, -1
    inside, outside = lo, 0
    for position in range(lo, hi):
        request = st.pool[position]
        if best_begin <= st.first[request] and st.last[request] <= best_end:
            st.pool[inside] = request
            inside += 1
        else:
            st.spare[outside] = request
            outside += 1
    st.pool[inside : inside + outside] = st.spare[:outside]
    return inside
