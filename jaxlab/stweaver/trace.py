"""The memory requests of a program: which bytes are needed from when until when."""

import dataclasses
import operator
import typing
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int64, Integer, Shaped

_INTEGERS = (
    "size",
    "start",
    "end",
    "phase_start",
    "phase_end",
    "iteration",
    "layer_start",
    "layer_end",
    "stream",
)
_COLUMNS = ("id", *_INTEGERS, "dynamic")
_MAX_TOTAL = 1 << 62


@typing.no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class Trace:
    """Memory requests, one a row: ``size`` bytes, live during the half-open ``[start, end)``.

    Times are integers without a unit; only their order matters. A request with ``start == end``
    is never live. In a periodic trace (``period`` T) all times count modulo T: a request with
    ``end > T`` wraps around and is live in ``[start, T)`` and ``[0, end - T)``.

    Attributes:
      id: str ``[requests]``, unique names; for output only, no planner looks at them.
      size: int64 ``[requests]``, bytes.
      start: int64 ``[requests]``, first time at which the request is live.
      end: int64 ``[requests]``, first time at which it is no longer live.
      phase_start: int64 ``[requests]``, index into ``phases`` of the allocation; -1 if unknown.
      phase_end: int64 ``[requests]``, the same for the release.
      iteration: int64 ``[requests]``, the training iteration that allocates it.
      layer_start: int64 ``[requests]``, index into ``layers`` of the allocation; -1 if unknown.
      layer_end: int64 ``[requests]``, the same for the release.
      dynamic: bool ``[requests]``, whether size or number differ from iteration to iteration.
      stream: int64 ``[requests]``, the device stream.
      phases: names of the phases, such as ``"3F"``.
      layers: names of the layers.
      period: T, or None if the trace does not repeat.

    Example:
      >>> trace = Trace.of(size=[512, 1024], start=[0, 3], end=[4, 6], period=5)
      >>> len(trace), trace.select(trace.size > 600).id.tolist()
      (2, ['1'])
    """

    id: Shaped[np.ndarray, " requests"]
    size: Int64[np.ndarray, " requests"]
    start: Int64[np.ndarray, " requests"]
    end: Int64[np.ndarray, " requests"]
    phase_start: Int64[np.ndarray, " requests"]
    phase_end: Int64[np.ndarray, " requests"]
    iteration: Int64[np.ndarray, " requests"]
    layer_start: Int64[np.ndarray, " requests"]
    layer_end: Int64[np.ndarray, " requests"]
    dynamic: Bool[np.ndarray, " requests"]
    stream: Int64[np.ndarray, " requests"]
    phases: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    period: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", np.asarray(self.id, dtype=np.str_))
        for name in _INTEGERS:
            object.__setattr__(self, name, _integers(name, getattr(self, name)))
        dynamic = np.asarray(self.dynamic)
        if dynamic.size and dynamic.dtype != np.bool_:
            raise ValueError(f"Trace: dynamic must hold booleans, got {dynamic.dtype}.")
        object.__setattr__(self, "dynamic", dynamic.astype(np.bool_))
        object.__setattr__(self, "phases", tuple(self.phases))
        object.__setattr__(self, "layers", tuple(self.layers))
        if self.period is not None:
            try:
                object.__setattr__(self, "period", operator.index(self.period))
            except TypeError:
                raise ValueError(f"Trace: period={self.period!r} is not an integer.") from None
        self.validate()

    @classmethod
    def of(
        cls,
        size: Integer[np.ndarray, " requests"] | Sequence[int],
        start: Integer[np.ndarray, " requests"] | Sequence[int],
        end: Integer[np.ndarray, " requests"] | Sequence[int],
        **columns: object,
    ) -> "Trace":
        """A trace from sizes and lifetimes; every other column has a default.

        Args:
          size: integer ``[requests]``, bytes.
          start: integer ``[requests]``.
          end: integer ``[requests]``.
          **columns: any other attribute of the class. By default the ids count from "0", phases
            and layers are unknown (-1), iteration and stream are 0, and nothing is dynamic.

        Returns:
          The validated trace.

        Raises:
          ValueError: a column is malformed; names it and the entry.
        """
        count = len(size)
        defaults = {
            "id": np.arange(count).astype(np.str_),
            "iteration": np.zeros(count, np.int64),
            "dynamic": np.zeros(count, np.bool_),
            "stream": np.zeros(count, np.int64),
            **{
                name: np.full(count, -1)
                for name in ("phase_start", "phase_end", "layer_start", "layer_end")
            },
        }
        return cls(**{**defaults, "size": size, "start": start, "end": end, **columns})

    def validate(self) -> None:
        """Checks every column.

        Raises:
          ValueError: columns differ in length, an id occurs twice, a size is negative, a request
            ends before it starts or outlives the period, a code has no name, or the sizes add up
            to 2^62 bytes or more; names the entry.
        """
        count = self.size.size
        for name in _COLUMNS:
            if getattr(self, name).shape != (count,):
                raise ValueError(
                    f"Trace: {name} has shape {getattr(self, name).shape}, expected ({count},) "
                    "like size."
                )
        names, counts = np.unique(self.id, return_counts=True)
        if names.size < count:
            twice = int(np.argmax(counts > 1))
            raise ValueError(f"Trace: id {str(names[twice])!r} occurs {counts[twice]} times.")
        self._refuse(self.size < 0, "has a negative size")
        self._refuse(self.start > self.end, "starts after its end")
        if self.period is not None:
            if self.period < 1:
                raise ValueError(f"Trace: period={self.period} must be positive, or None.")
            outside = (self.start < 0) | (self.start > self.period)
            self._refuse(outside, f"starts outside the period [0, {self.period}]")
            self._refuse(
                self.end - self.start > self.period, f"lives longer than the period {self.period}"
            )
        for field, known in (("phase", self.phases), ("layer", self.layers)):
            for name in (f"{field}_start", f"{field}_end"):
                codes = getattr(self, name)
                self._refuse(
                    (codes < -1) | (codes >= len(known)),
                    f"has a {name} that is not in -1..{len(known) - 1} (the {field}s named)",
                )
        if self.size.astype(np.float64).sum() >= _MAX_TOTAL:
            raise ValueError("Trace: the sizes add up to 2^62 bytes or more.")

    def select(self, rows: Shaped[np.ndarray, " selected"] | slice) -> "Trace":
        """The trace of some rows, in their order.

        Args:
          rows: a boolean mask ``[requests]``, row numbers, or a slice.

        Returns:
          A trace with the same phases, layers and period.
        """
        return dataclasses.replace(self, **{name: getattr(self, name)[rows] for name in _COLUMNS})

    def __len__(self) -> int:
        return self.size.size

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Trace):
            return NotImplemented
        statics = ("phases", "layers", "period")
        return all(getattr(self, name) == getattr(other, name) for name in statics) and all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in _COLUMNS
        )

    def _refuse(self, bad: Bool[np.ndarray, " requests"], why: str) -> None:
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"Trace: request {str(self.id[row])!r} (row {row}, size {self.size[row]}, "
                f"[{self.start[row]}, {self.end[row]})) {why}."
            )


def _integers(name: str, values: object) -> Int64[np.ndarray, " requests"]:
    array = np.asarray(values)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"Trace: {name} must hold integers, got {array.dtype}.")
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"Trace: {name} holds {array.max()}, more than int64 can.")
    return array.astype(np.int64)
