"""What is alive at the peak, who allocated it, and what a perfect packing would save."""

import dataclasses
import typing

import numpy as np
from jaxtyping import Int64

from jaxlab.stweaver.bound import lower_bound
from jaxlab.stweaver.lifetimes import Lifetimes
from jaxlab.stweaver.plan import Plan
from jaxlab.stweaver.trace import Trace

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclasses.dataclass(frozen=True)
class Holder:
    """Requests of one origin that are live at the peak.

    Attributes:
      origin: the layer that allocated them, or the request itself where none is known.
      phase: the phase that allocated them, "" if unknown.
      requests: how many.
      size: bytes.
      largest: id of the largest.
    """

    origin: str
    phase: str
    requests: int
    size: int
    largest: str


@typing.no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class MemoryReport:
    """The peak of a trace.

    Attributes:
      requests: how many requests the trace has.
      total: bytes if nothing were ever reused.
      peak: largest number of live bytes.
      time: the first time at which that many are live.
      live: int64 ``[live]``, rows of the trace that are live then, the largest first.
      holders: the same by origin and phase, the largest first.
      lower_bound: bytes that no placement can undercut.
      height: bytes of the plan, or None.
      current: bytes that are used today, or None.
    """

    requests: int
    total: int
    peak: int
    time: int
    live: Int64[np.ndarray, " live"]
    holders: tuple[Holder, ...]
    lower_bound: int
    height: int | None
    current: int | None

    @property
    def saving(self) -> int | None:
        """Bytes that a perfect packing would save of those used today."""
        return None if self.current is None else self.current - self.lower_bound

    def lines(self, top: int = 12) -> list[str]:
        """The report as text.

        Args:
          top: how many holders to list.

        Returns:
          Lines without ends.
        """
        facts = [
            ("requests", f"{self.requests}"),
            ("without reuse", _bytes(self.total)),
            ("peak of live bytes", f"{_bytes(self.peak)} at time {self.time}"),
            ("no packing below", _bytes(self.lower_bound)),
        ]
        if self.height is not None:
            facts.append(("this plan", f"{_bytes(self.height)}, {self._above(self.height)}"))
        if self.current is not None:
            facts.append(("used today", f"{_bytes(self.current)}, {self._above(self.current)}"))
            facts.append(("a perfect packing saves", _bytes(self.current - self.lower_bound)))
        lines = [f"{name:<24}{value}" for name, value in facts]
        lines += ["", f"{'alive at the peak':>18} {'share':>6} {'count':>6}  allocated by"]
        for holder in self.holders[:top]:
            origin = ", ".join(filter(None, (holder.phase, holder.origin)))
            lines.append(
                f"{_bytes(holder.size):>18} {holder.size / max(self.peak, 1):>6.1%} "
                f"{holder.requests:>6}  {origin} (largest: {holder.largest})"
            )
        if rest := self.holders[top:]:
            size = sum(holder.size for holder in rest)
            lines.append(
                f"{_bytes(size):>18} {size / max(self.peak, 1):>6.1%} "
                f"{sum(holder.requests for holder in rest):>6}  {len(rest)} others"
            )
        return lines

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def _above(self, size: int) -> str:
        return f"{size / self.lower_bound - 1:.2%} above that" if self.lower_bound else "nothing"


def memory_report(
    trace: Trace, *, plan: Plan | None = None, current: int | None = None
) -> MemoryReport:
    """Finds the peak of a trace, what is live there, and what better placement could gain.

    Args:
      trace: the requests.
      plan: a plan of the trace, to be set against the bound.
      current: bytes that the program needs today: XLA's ``temp_size``, an allocator's
        ``peak_reserved``.

    Returns:
      The report; ``print`` it.

    Raises:
      ValueError: the plan is of another trace, or ``current`` is negative.

    Example:
      >>> trace = Trace.of(size=[100, 300, 50], start=[0, 1, 4], end=[2, 3, 5], id=["a", "b", "c"])
      >>> report = memory_report(trace, current=450)
      >>> report.peak, report.time, trace.id[report.live].tolist(), report.saving
      (400, 1, ['b', 'a'], 50)
    """
    if plan is not None and plan.offsets.size != len(trace):
        raise ValueError(
            f"memory_report: the plan places {plan.offsets.size} requests, the trace has "
            f"{len(trace)}."
        )
    if current is not None and current < 0:
        raise ValueError(f"memory_report: current={current} must not be negative.")
    peak, time, live = _peak(trace)
    return MemoryReport(
        requests=len(trace),
        total=int(trace.size.sum()),
        peak=peak,
        time=time,
        live=live,
        holders=_holders(trace, live),
        lower_bound=lower_bound(trace),
        height=None if plan is None else plan.height,
        current=current,
    )


def _peak(trace: Trace) -> tuple[int, int, Int64[np.ndarray, " live"]]:
    lives = Lifetimes.of(trace)
    if not lives.rows.size:
        return 0, 0, np.zeros(0, np.int64)
    change = np.zeros(lives.sections + 1, np.int64)
    np.add.at(change, lives.first, lives.size)
    np.add.at(change, lives.last, -lives.size)
    wraps = lives.wrap > 0
    change[0] += lives.size[wraps].sum()
    np.add.at(change, lives.wrap[wraps], -lives.size[wraps])
    load = change.cumsum()
    section = int(load.argmax())
    here = ((lives.first <= section) & (section < lives.last)) | (section < lives.wrap)
    rows = lives.rows[here]
    begins = trace.start[rows] % trace.period if trace.period else trace.start[rows]
    # the section begins when the last of them is born, or with the period
    wrapped = (section < lives.wrap)[here]
    time = int(np.where(wrapped, 0, begins).max())
    order = np.lexsort((rows, -trace.size[rows]))
    return int(load[section]), time, rows[order]


def _holders(trace: Trace, live: Int64[np.ndarray, " live"]) -> tuple[Holder, ...]:
    groups: dict[tuple[str, str], list[int]] = {}
    for row in live.tolist():
        layer, phase = int(trace.layer_start[row]), int(trace.phase_start[row])
        origin = trace.layers[layer] if layer >= 0 else ""
        name = trace.phases[phase] if phase >= 0 else ""
        groups.setdefault((origin or str(trace.id[row]), name), []).append(row)
    holders = [
        Holder(origin, phase, len(rows), int(trace.size[rows].sum()), str(trace.id[rows[0]]))
        for (origin, phase), rows in groups.items()
    ]
    return tuple(sorted(holders, key=lambda holder: (-holder.size, holder.origin, holder.phase)))


def _bytes(count: int) -> str:
    """Bytes for people: three digits and a unit."""
    value, unit = float(count), 0
    while abs(value) >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{count} B" if not unit else f"{value:.2f} {_UNITS[unit]}"
