"""Lifetimes in sections: the elementary intervals of time in which nothing starts or ends."""

import dataclasses
import typing

import numpy as np
from jaxtyping import Int64

from jaxlab.stweaver.trace import Trace


@typing.no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class Lifetimes:
    """The requests of a trace that occupy anything, with times counted in sections.

    Request ``i`` is live in the sections ``[first[i], last[i])`` and ``[0, wrap[i])``.

    Attributes:
      rows: int64 ``[live]``, row of the trace.
      size: int64 ``[live]``, bytes, rounded up to the alignment.
      first: int64 ``[live]``.
      last: int64 ``[live]``.
      wrap: int64 ``[live]``, 0 where the request does not wrap around.
      duration: int64 ``[live]``, in the trace's own time.
      sections: number of sections.
      periodic: whether the last section is followed by the first.
    """

    rows: Int64[np.ndarray, " live"]
    size: Int64[np.ndarray, " live"]
    first: Int64[np.ndarray, " live"]
    last: Int64[np.ndarray, " live"]
    wrap: Int64[np.ndarray, " live"]
    duration: Int64[np.ndarray, " live"]
    sections: int
    periodic: bool

    @classmethod
    def of(cls, trace: Trace, alignment: int = 1) -> "Lifetimes":
        """The lifetimes of a trace, without requests of no size or no duration.

        Raises:
          ValueError: ``alignment`` is not positive.
        """
        if alignment < 1:
            raise ValueError(f"plan: alignment={alignment} must be a positive number of bytes.")
        rows = np.flatnonzero((trace.size > 0) & (trace.end > trace.start))
        size = -(-trace.size[rows] // alignment) * alignment
        start, end = trace.start[rows], trace.end[rows]
        duration = end - start
        wrapped = np.zeros_like(end)
        if trace.period is not None:
            late = start == trace.period
            start, end = np.where(late, 0, start), np.where(late, end - trace.period, end)
            wrapped = np.maximum(end - trace.period, 0)
            end = np.minimum(end, trace.period)
            cuts = np.unique(np.concatenate([start, end, wrapped, [0, trace.period]]))
        else:
            cuts = np.unique(np.concatenate([start, end]))
        first, last, wrap = (np.searchsorted(cuts, times) for times in (start, end, wrapped))
        if trace.period is None:
            wrap = np.zeros_like(first)
        sections, periodic = max(cuts.size - 1, 0), trace.period is not None
        return cls(rows, size, first, last, wrap, duration, sections, periodic)

    @property
    def load(self) -> Int64[np.ndarray, " sections"]:
        """int64 ``[sections]``: bytes live in every section."""
        change = np.zeros(self.sections + 1, np.int64)
        np.add.at(change, self.first, self.size)
        np.subtract.at(change, self.last, self.size)
        change[0] += self.size[self.wrap > 0].sum()
        np.subtract.at(change, self.wrap[self.wrap > 0], self.size[self.wrap > 0])
        return np.cumsum(change)[: self.sections]

    @property
    def length(self) -> Int64[np.ndarray, " live"]:
        """int64 ``[live]``: number of sections in which a request is live."""
        return self.last - self.first + self.wrap
