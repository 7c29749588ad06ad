"""The order in which an allocator sees the requests of a trace."""

import dataclasses
import typing

import numpy as np
from jaxtyping import Bool, Int64

from jaxlab.stweaver.trace import Trace


@typing.no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class Events:
    """Mallocs and frees in time order.

    At equal times frees come first, then mallocs in the order of the rows; a request that is never
    live (``start == end``) is freed right after its malloc.

    Attributes:
      request: int64 ``[events]``, row of the trace.
      malloc: bool ``[events]``, malloc or free.
      time: int64 ``[events]``.
    """

    request: Int64[np.ndarray, " events"]
    malloc: Bool[np.ndarray, " events"]
    time: Int64[np.ndarray, " events"]

    @classmethod
    def of(cls, trace: Trace) -> "Events":
        """The events of a trace.

        Args:
          trace: the requests; a period is ignored.

        Returns:
          Two events a request.
        """
        rows = np.arange(len(trace))
        request = np.concatenate([rows, rows])
        malloc = np.arange(2 * len(trace)) < len(trace)
        time = np.concatenate([trace.start, trace.end])
        live = (trace.end > trace.start)[request]
        order = np.lexsort((~malloc, request, malloc | ~live, time))
        return cls(request[order], malloc[order], time[order])

    def before(self, time: int) -> "Events":
        """The events before a time.

        Args:
          time: the first time left out.

        Returns:
          A prefix.
        """
        count = int(np.searchsorted(self.time, time))
        return Events(self.request[:count], self.malloc[:count], self.time[:count])


def unroll(trace: Trace, periods: int) -> Trace:
    """The requests of several periods of a periodic trace, one after the other.

    Args:
      trace: a trace with a period; one without is returned as it is.
      periods: how often it runs.

    Returns:
      A trace without a period. Ids carry the number of the period; ``iteration`` counts on.

    Raises:
      ValueError: ``periods`` is not positive.

    Example:
      >>> unroll(Trace.of(size=[8], start=[3], end=[6], period=5), 2).start.tolist()
      [3, 8]
    """
    if periods < 1:
        raise ValueError(f"unroll: periods={periods} must be positive.")
    if trace.period is None:
        return trace
    repeat = np.repeat(np.arange(periods), len(trace))
    every = np.tile(np.arange(len(trace)), periods)
    copies = dataclasses.replace(trace, period=None)
    columns = {
        field.name: getattr(copies, field.name)[every]
        for field in dataclasses.fields(copies)
        if isinstance(getattr(copies, field.name), np.ndarray)
    }
    columns["id"] = np.char.add(np.char.add(columns["id"], "#"), repeat.astype(np.str_))
    shift = repeat * trace.period
    columns["start"] = columns["start"] + shift
    columns["end"] = columns["end"] + shift
    columns["iteration"] = columns["iteration"] + repeat
    return dataclasses.replace(copies, **columns)
