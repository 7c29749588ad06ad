"""An instance of the packing question and the state of the search for its answer."""

import typing

import numpy as np
from jaxtyping import Int64, UInt64

from jaxlab.stweaver.kernel import kernel_part

OPEN, BLOCKED, PLACED = 0, 1, 2  # status of a request
TRAIL, WORK, CAPACITY, STRATEGY = 0, 1, 2, 3  # counters


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


@kernel_part
@typing.no_type_check
def extent(st, lo, hi):
    """The sections from the first start to the last end of a subproblem."""
    begin, end = st.reach.size, 0
    for position in range(lo, hi):
        request = st.pool[position]
        begin = min(begin, st.first[request])
        end = max(end, st.last[request])
        if st.wrap[request] > 0:
            begin = 0
    return begin, end
