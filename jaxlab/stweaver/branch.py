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

import numba
import numpy as np
from jaxtyping import Int64, UInt64

FOUND, REFUTED, UNDECIDED = 1, 0, -1
LOWEST, TIGHTEST, REFINED = 0, 1, 2
_OPEN, _BLOCKED, _PLACED = 0, 1, 2
_TRAIL, _WORK, _CAPACITY, _STRATEGY = 0, 1, 2, 3
_PROBES = 4
_LO, _HI, _STAGE, _MARK, _MIDDLE, _REQUEST, _BEFORE = range(7)
_FRESH, _ONE_PART, _BOTH_PARTS, _AFTER_PLACING = 0, 1, 2, 3
_CONTINUE, _DEEPER = 2, 3


@typing.no_type_check
class Search(typing.NamedTuple):
    """An instance and the state of its search; all sizes and addresses in one unit.

    Attributes:
      size: int64 ``[live]``.
      first: int64 ``[live]``, first section.
      last: int64 ``[live]``, end of the sections.
      wrap: int64 ``[live]``, end of the second piece, or 0.
      rank: int64 ``[live]``, preference among requests with equal bounds, smallest first.
      begin: int64 ``[live + 1]``, ranges in ``meets``.
      meets: int32 ``[2 * pairs]``, the requests that overlap each request in time.
      twin: int64 ``[live]``, the equal request that goes before, or -1.
      rest: int64 ``[live]``, where a request would rest on what is placed so far.
      bound: int64 ``[live]``, lower bound of its address; equals ``rest`` while it is open.
      status: int64 ``[live]``, open, blocked or placed.
      pool: int64 ``[live]``, a permutation; every subproblem is a slice of it.
      spare: int64 ``[live]``, work space.
      stacked: int64 ``[sections + 1]``, work space.
      reach: int64 ``[sections]``, lower bound of the height of every section.
      starts: int64 ``[sections + 1]``, work space.
      trail: int64 ``[steps, 4]``, what to restore on the way back.
      counters: int64 ``[4]``, length of the trail, work left, capacity, strategy.
      failed: uint64 ``[slots, 2]``, fingerprints of refuted subproblems.
      salt: uint64 ``[live, 2]``, random numbers of the fingerprints.
    """

    size: Int64[np.ndarray, " live"]
    first: Int64[np.ndarray, " live"]
    last: Int64[np.ndarray, " live"]
    wrap: Int64[np.ndarray, " live"]
    rank: Int64[np.ndarray, " live"]
    begin: Int64[np.ndarray, " ranges"]
    meets: Int64[np.ndarray, " pairs"]
    twin: Int64[np.ndarray, " live"]
    rest: Int64[np.ndarray, " live"]
    bound: Int64[np.ndarray, " live"]
    status: Int64[np.ndarray, " live"]
    pool: Int64[np.ndarray, " live"]
    spare: Int64[np.ndarray, " live"]
    stacked: Int64[np.ndarray, " cuts"]
    reach: Int64[np.ndarray, " sections"]
    starts: Int64[np.ndarray, " cuts"]
    trail: Int64[np.ndarray, "steps four"]
    counters: Int64[np.ndarray, " four"]
    failed: UInt64[np.ndarray, "slots two"]
    salt: UInt64[np.ndarray, "live two"]


@numba.njit(cache=True)
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
                _record_failure(st, prints[depth, 0], prints[depth, 1])
        depth -= 1
    return answer


@numba.njit(cache=True)
@typing.no_type_check
def _push(st, frames, prints, depth, lo, hi):
    frames[depth, _LO] = lo
    frames[depth, _HI] = hi
    frames[depth, _STAGE] = _FRESH
    frames[depth, _MARK] = st.counters[_TRAIL]
    prints[depth] = 0


@numba.njit(cache=True)
@typing.no_type_check
def _expand(st, frame, prints):
    """One step in a subproblem: refute it, split it, or place one request and go deeper."""
    lo, hi = frame[_LO], frame[_HI]
    if hi == lo:
        return FOUND
    if not _propagate(st, lo, hi):
        return REFUTED
    if st.counters[_WORK] <= 0:
        return UNDECIDED
    frame[_MIDDLE] = _split(st, lo, hi)
    if frame[_MIDDLE] < hi:
        frame[_STAGE] = _ONE_PART
        return _DEEPER
    print1, print2 = _fingerprint(st, lo, hi)
    if _has_failed(st, print1, print2):
        return REFUTED
    if prints[0] == np.uint64(0):
        prints[0], prints[1] = print1, print2
    request = _choose(st, lo, hi)
    frame[_REQUEST], frame[_BEFORE] = request, st.counters[_TRAIL]
    if _place(st, request):
        _move_last(st, lo, hi, request)
        frame[_STAGE] = _AFTER_PLACING
        return _DEEPER
    _undo(st, frame[_BEFORE])
    _block(st, request)
    return _CONTINUE


@numba.njit(cache=True)
@typing.no_type_check
def _block(st, request):
    _remember(st, request)
    st.status[request] = _BLOCKED


@numba.njit(cache=True)
@typing.no_type_check
def _remember(st, request):
    step = st.counters[_TRAIL]
    st.trail[step, 0] = request
    st.trail[step, 1] = st.rest[request]
    st.trail[step, 2] = st.bound[request]
    st.trail[step, 3] = st.status[request]
    st.counters[_TRAIL] = step + 1


@numba.njit(cache=True)
@typing.no_type_check
def _undo(st, mark):
    for step in range(st.counters[_TRAIL] - 1, mark - 1, -1):
        request = st.trail[step, 0]
        st.rest[request] = st.trail[step, 1]
        st.bound[request] = st.trail[step, 2]
        st.status[request] = st.trail[step, 3]
    st.counters[_TRAIL] = mark


@numba.njit(cache=True)
@typing.no_type_check
def _place(st, request):
    """Places a request where it rests and pushes up what overlaps it; False if that is too high."""
    _remember(st, request)
    st.status[request] = _PLACED
    top = st.rest[request] + st.size[request]
    for entry in range(st.begin[request], st.begin[request + 1]):
        other = st.meets[entry]
        if st.status[other] != _PLACED and st.rest[other] < top:
            if top + st.size[other] > st.counters[_CAPACITY]:
                return False
            _remember(st, other)
            st.rest[other] = top
            st.status[other] = _OPEN
            st.bound[other] = max(st.bound[other], top)
    return True


@numba.njit(cache=True)
@typing.no_type_check
def _move_last(st, lo, hi, request):
    place = lo
    while st.pool[place] != request:
        place += 1
    for position in range(place, hi - 1):
        st.pool[position] = st.pool[position + 1]
    st.pool[hi - 1] = request


@numba.njit(cache=True)
@typing.no_type_check
def _propagate(st, lo, hi):
    """Raises bounds until nothing changes; False if a rule refutes the subproblem."""
    if st.counters[_TRAIL] + 4 * st.size.size > st.trail.shape[0]:
        st.counters[_WORK] = 0
        return True
    changed = True
    while changed:
        changed = False
        for position in range(lo, hi):
            request = st.pool[position]
            bound = st.bound[request]
            twin = st.twin[request]
            if twin >= 0 and st.status[twin] != _PLACED:
                bound = max(bound, st.bound[twin] + st.size[twin])
            if st.status[request] == _BLOCKED:
                lowest = rest = np.int64(1) << np.int64(62)
                for entry in range(st.begin[request], st.begin[request + 1]):
                    other = st.meets[entry]
                    if st.status[other] != _PLACED:
                        lowest = min(lowest, st.bound[other])
                        rest = min(rest, st.bound[other] + st.size[other])
                if lowest >= st.rest[request] + st.size[request]:
                    return False
                bound = max(bound, rest)
            if bound > st.bound[request]:
                if bound + st.size[request] > st.counters[_CAPACITY]:
                    return False
                if st.counters[_TRAIL] + 4 * st.size.size > st.trail.shape[0]:
                    st.counters[_WORK] = 0
                    return True
                _remember(st, request)
                st.bound[request] = bound
                changed = True
    _sort_by_bound(st, lo, hi)
    begin, end = _extent(st, lo, hi)
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
    st.counters[_WORK] -= work
    return st.reach[begin:end].max() <= st.counters[_CAPACITY]


@numba.njit(cache=True)
@typing.no_type_check
def _sort_by_bound(st, lo, hi):
    for position in range(lo + 1, hi):
        request = st.pool[position]
        place = position - 1
        while place >= lo and st.bound[st.pool[place]] > st.bound[request]:
            st.pool[place + 1] = st.pool[place]
            place -= 1
        st.pool[place + 1] = request


@numba.njit(cache=True)
@typing.no_type_check
def _extent(st, lo, hi):
    """The sections from the first start to the last end of a subproblem."""
    begin, end = st.reach.size, 0
    for position in range(lo, hi):
        request = st.pool[position]
        begin = min(begin, st.first[request])
        end = max(end, st.last[request])
        if st.wrap[request] > 0:
            begin = 0
    return begin, end


@numba.njit(cache=True)
@typing.no_type_check
def _split(st, lo, hi):
    """Moves the requests around the tightest section that share no section with the rest first.

    Returns the end of them, ``hi`` if the subproblem is in one piece. Subproblems with a request
    that wraps around stay in one piece.
    """
    begin, end = _extent(st, lo, hi)
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


@numba.njit(cache=True)
@typing.no_type_check
def _fingerprint(st, lo, hi):
    print1 = print2 = np.uint64(0)
    for position in range(lo, hi):
        request = st.pool[position]
        value = (
            np.uint64(st.rest[request]) * np.uint64(0x9E3779B97F4A7C15)
            + np.uint64(st.bound[request]) * np.uint64(0xD6E8FEB86659FD93)
            + np.uint64(st.status[request])
        )
        print1 ^= _mix(value + st.salt[request, 0])
        print2 ^= _mix(value ^ st.salt[request, 1])
    return print1, print2


@numba.njit(cache=True)
@typing.no_type_check
def _mix(value):
    value ^= value >> np.uint64(30)
    value *= np.uint64(0xBF58476D1CE4E5B9)
    value ^= value >> np.uint64(27)
    value *= np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@numba.njit(cache=True)
@typing.no_type_check
def _has_failed(st, print1, print2):
    mask = np.uint64(st.failed.shape[0] - 1)
    for probe in range(_PROBES):
        slot = (print1 + np.uint64(probe)) & mask
        if st.failed[slot, 0] == print1 and st.failed[slot, 1] == print2:
            return True
    return False


@numba.njit(cache=True)
@typing.no_type_check
def _record_failure(st, print1, print2):
    mask = np.uint64(st.failed.shape[0] - 1)
    slot = print1 & mask
    for probe in range(_PROBES):
        slot = (print1 + np.uint64(probe)) & mask
        if st.failed[slot, 0] == np.uint64(0):
            break
    else:
        slot = (print1 + (print2 % np.uint64(_PROBES))) & mask
    st.failed[slot, 0] = print1
    st.failed[slot, 1] = print2


@numba.njit(cache=True)
@typing.no_type_check
def _choose(st, lo, hi):
    """An open request below which no overlapping open request can lie."""
    request = st.pool[lo]
    if st.counters[_STRATEGY] & TIGHTEST:
        request = _descend(st, _lowest_in_tightest_section(st, lo, hi))
    else:
        for position in range(lo + 1, hi):
            other = st.pool[position]
            if st.bound[other] > st.bound[request]:
                break
            if st.rank[other] < st.rank[request]:
                request = other
    if st.counters[_STRATEGY] & REFINED:
        request = _tightest_beside(st, request)
    return request


@numba.njit(cache=True)
@typing.no_type_check
def _goes_before(st, a, b):
    return st.bound[a] < st.bound[b] or (st.bound[a] == st.bound[b] and st.rank[a] < st.rank[b])


@numba.njit(cache=True)
@typing.no_type_check
def _lowest_in_tightest_section(st, lo, hi):
    begin, end = _extent(st, lo, hi)
    section = begin + np.argmax(st.reach[begin:end])
    best = -1
    for position in range(lo, hi):
        request = st.pool[position]
        alive = st.first[request] <= section < st.last[request] or section < st.wrap[request]
        if alive and (best < 0 or _goes_before(st, request, best)):
            best = request
    return best


@numba.njit(cache=True)
@typing.no_type_check
def _descend(st, request):
    while True:
        best = request
        for entry in range(st.begin[request], st.begin[request + 1]):
            other = st.meets[entry]
            if st.status[other] != _PLACED and _goes_before(st, other, best):
                best = other
        if best == request:
            return request
        request = best


@numba.njit(cache=True)
@typing.no_type_check
def _tightest_beside(st, request):
    """Of the requests that could rest at the same address in its place, the one in most need."""
    bound, best, tightest = st.bound[request], request, _need(st, request)
    for entry in range(st.begin[request], st.begin[request + 1]):
        other = st.meets[entry]
        if st.status[other] != _OPEN or st.bound[other] != bound:
            continue
        need = _need(st, other)
        better = need > tightest or (need == tightest and st.rank[other] < st.rank[best])
        if better and _is_lowest(st, other):
            tightest, best = need, other
    return best


@numba.njit(cache=True)
@typing.no_type_check
def _is_lowest(st, request):
    for entry in range(st.begin[request], st.begin[request + 1]):
        other = st.meets[entry]
        if st.status[other] != _PLACED and st.bound[other] < st.bound[request]:
            return False
    return True


@numba.njit(cache=True)
@typing.no_type_check
def _need(st, request):
    need = 0
    for section in range(st.first[request], st.last[request]):
        need = max(need, st.reach[section])
    for section in range(st.wrap[request]):
        need = max(need, st.reach[section])
    return need
