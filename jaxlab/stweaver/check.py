"""Whether a plan is one: an independent sweep over time that shares nothing with the planners."""

import bisect
from typing import Protocol, runtime_checkable

import numpy as np

from jaxlab.stweaver.trace import Trace


@runtime_checkable
class Placed(Protocol):
    """What ``check`` needs of a plan."""

    @property
    def offsets(self) -> np.ndarray:
        """Bytes, one a request."""
        ...

    @property
    def height(self) -> int:
        """Bytes that the plan needs."""
        ...


def check(trace: Trace, plan: Placed) -> None:
    """Makes sure that no two requests share a byte while both are live.

    Args:
      trace: the requests.
      plan: their offsets and the height they claim.

    Raises:
      ValueError: an offset is negative or missing, a request ends above the height, or two
        requests collide; names them.

    Example:
      >>> import types
      >>> trace = Trace.of(size=[4, 4], start=[0, 1], end=[2, 3])
      >>> check(trace, types.SimpleNamespace(offsets=np.array([0, 4]), height=8))
      >>> check(trace, types.SimpleNamespace(offsets=np.array([0, 3]), height=8))
      Traceback (most recent call last):
        ...
      ValueError: plan: requests '0' at [0, 4) and '1' at [3, 7) collide at time 1.
    """
    offsets = np.asarray(plan.offsets)
    if offsets.shape != (len(trace),):
        raise ValueError(f"plan: {offsets.shape} offsets for {len(trace)} requests.")
    above = (offsets > plan.height - trace.size) & (trace.end > trace.start)  # cannot overflow
    tops = np.minimum(offsets, np.iinfo(np.int64).max - trace.size) + trace.size
    for bad, why in ((offsets < 0, "starts below address 0"), (above, "ends above")):
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"plan: request {str(trace.id[row])!r} at [{offsets[row]}, {tops[row]}) {why} "
                f"(height {plan.height})."
            )
    alive: list[tuple[int, int]] = []
    for time, starts, row in _events(trace):
        entry = (int(offsets[row]), row)
        place = bisect.bisect_left(alive, entry)
        if not starts:
            del alive[place]
            continue
        for other in alive[max(place - 1, 0) : place + 1]:
            a, b = sorted((entry[1], other[1]))
            if offsets[a] < tops[b] and offsets[b] < tops[a]:
                raise ValueError(
                    f"plan: requests {str(trace.id[a])!r} at [{offsets[a]}, {tops[a]}) and "
                    f"{str(trace.id[b])!r} at [{offsets[b]}, {tops[b]}) collide at time {time}."
                )
        alive.insert(place, entry)


def _events(trace: Trace) -> list[tuple[int, int, int]]:
    """``(time, 0 for an end or 1 for a start, row)``, ends first, of all that occupies bytes."""
    events: list[tuple[int, int, int]] = []
    occupied = np.flatnonzero((trace.size > 0) & (trace.end > trace.start)).tolist()
    starts, ends = trace.start.tolist(), trace.end.tolist()
    for row in occupied:
        start, end = starts[row], ends[row]
        pieces = [(start, end)]
        if trace.period is not None and end > trace.period:
            pieces = [(start, trace.period), (0, end - trace.period)]
        for begin, stop in pieces:
            if begin < stop:
                events += [(begin, 1, row), (stop, 0, row)]
    events.sort()
    return events
