"""Where every request of a trace lies: the offsets that the planners make and the runtime uses."""

import csv
import dataclasses
import hashlib
import io
import json
import os
import typing

import numpy as np
from jaxtyping import Int64

from jaxlab.stweaver.check import check
from jaxlab.stweaver.csv_files import write_whole
from jaxlab.stweaver.trace import Trace

_FORMAT = "jaxlab.stweaver plan 1"
_COLUMNS = ["id", "size", "start", "end", "offset"]
_FACTS = ("height", "lower_bound", "planner", "seconds")
_MAX_HEADER = 4096


@typing.no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """One address for every request, and how far from the best possible the whole is.

    Attributes:
      offsets: int64 ``[requests]``, bytes, in the order of the trace's rows.
      height: bytes from address 0 to the highest end of a request.
      lower_bound: bytes that no plan can undercut: the trace's lower bound or a capacity that the
        planner proved too small.
      planner: the planner that made it.
      seconds: the time it took.
    """

    offsets: Int64[np.ndarray, " requests"]
    height: int
    lower_bound: int
    planner: str
    seconds: float

    def __post_init__(self) -> None:
        if not 0 <= self.lower_bound <= self.height:
            raise ValueError(
                f"Plan: lower_bound={self.lower_bound} and height={self.height} must not be "
                "negative, and no plan is lower than its bound."
            )

    @property
    def gap(self) -> float:
        """``height / lower_bound - 1``; 0 for a plan of nothing."""
        return self.height / self.lower_bound - 1 if self.lower_bound else 0.0

    @property
    def proven_optimal(self) -> bool:
        """Whether the height equals the proven lower bound."""
        return self.height == self.lower_bound

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Plan):
            return NotImplemented
        return np.array_equal(self.offsets, other.offsets) and all(
            getattr(self, field.name) == getattr(other, field.name)
            for field in dataclasses.fields(self)
            if field.name != "offsets"
        )

    def save(self, path: str | os.PathLike[str], trace: Trace) -> None:
        """Writes the plan as a CSV file: a header line, then one request a row.

        Args:
          path: the file; it appears complete or not at all.
          trace: the trace of the plan.

        Raises:
          ValueError: the plan does not fit the trace.
        """
        check(trace, self)
        body = io.StringIO()
        writer = csv.writer(body, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow(_COLUMNS)
        columns = (trace.id, trace.size, trace.start, trace.end, self.offsets)
        writer.writerows(zip(*(column.tolist() for column in columns), strict=True))
        text = body.getvalue()
        header = {
            "format": _FORMAT,
            "period": trace.period,
            "height": self.height,
            "lower_bound": self.lower_bound,
            "planner": self.planner,
            "seconds": self.seconds,
        }
        digest = _digest(header, text)
        write_whole(path, "# " + json.dumps({**header, "sha256": digest}) + "\n" + text)

    def _reach(self, trace: Trace) -> None:
        """Refuses a height that no alignment of these offsets explains."""
        live = (trace.size > 0) & (trace.end > trace.start)
        top = int((self.offsets + trace.size)[live].max(initial=0))
        step = int(np.gcd.reduce(self.offsets[live], initial=0))
        # where all lie at address 0 any alignment is possible, but then the height is the bound
        most = top + step - 1 if step else max(top, self.lower_bound)
        if self.height > most:
            raise ValueError(f"the height is {self.height}, but the highest request ends at {top}.")

    @classmethod
    def load(cls, path: str | os.PathLike[str], trace: Trace) -> "Plan":
        """Reads a plan and makes sure that it is one of this trace.

        Args:
          path: a file written by ``save``.
          trace: the trace of the plan.

        Returns:
          The plan.

        Raises:
          ValueError: the file is of another format or version, was changed, belongs to another
            trace, or claims a height that its requests do not reach.
        """
        limit = _MAX_HEADER + 256 * (len(trace) + 1) + int(trace.id.itemsize) * len(trace)
        if os.path.getsize(path) > limit:
            raise ValueError(f"{path}: larger than any plan of {len(trace)} requests; wrong file?")
        with open(path, encoding="utf-8", newline="") as file:
            first, text = file.readline(_MAX_HEADER), file.read()
        try:
            header = json.loads(first.removeprefix("# "))
            digest = header.pop("sha256")
            version = header["format"]
            period, facts = header["period"], [header[name] for name in _FACTS]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{path}: not a plan; save one with Plan.save.") from None
        if version != _FORMAT:
            raise ValueError(f"{path}: format {version!r}, expected {_FORMAT!r}; plan again.")
        if digest != _digest(header, text):
            raise ValueError(f"{path}: changed or truncated since it was saved; plan again.")
        try:
            rows = list(csv.reader(io.StringIO(text)))
        except csv.Error as error:
            raise ValueError(f"{path}: {error}.") from None
        expected = zip(
            *(c.tolist() for c in (trace.id, trace.size, trace.start, trace.end)), strict=True
        )
        if rows[:1] != [_COLUMNS] or period != trace.period or len(rows) != len(trace) + 1:
            raise ValueError(f"{path}: made for another trace (period or number of requests).")
        for row, request in zip(rows[1:], expected, strict=True):
            if row[:4] != [str(value) for value in request]:
                raise ValueError(f"{path}: made for another trace: {row[:4]} is not {request}.")
        if [type(fact) for fact in facts[:3]] != [int, int, str] or not isinstance(
            facts[3], int | float
        ):
            raise ValueError(f"{path}: {dict(zip(_FACTS, facts, strict=True))} in its header.")
        try:
            offsets = np.array([int(row[4]) for row in rows[1:]], np.int64)
            plan = cls(offsets, *facts)
            check(trace, plan)
            plan._reach(trace)
        except (ValueError, OverflowError, IndexError) as error:
            raise ValueError(f"{path}: not a plan of this trace: {error}") from None
        return plan


def _digest(header: dict[str, object], text: str) -> str:
    return hashlib.sha256((json.dumps(header, sort_keys=True) + text).encode()).hexdigest()
