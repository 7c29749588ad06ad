"""A picture of a plan: time to the right, addresses upward, a box for every request."""

import os
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from jaxlab.stweaver.plan import Plan
from jaxlab.stweaver.trace import Trace

_VECTOR_BOXES = 20_000


def occupancy_boxes(
    start: Int64[np.ndarray, " requests"],
    end: Int64[np.ndarray, " requests"],
    low: Int64[np.ndarray, " requests"],
    high: Int64[np.ndarray, " requests"],
    period: int | None,
) -> tuple[Int64[np.ndarray, " boxes"], Float64[np.ndarray, "boxes 4 2"]]:
    """The corners of every request over time and address, of those that wrap around twice.

    Args:
      start: int64 ``[requests]``.
      end: int64 ``[requests]``.
      low: int64 ``[requests]``, bytes, the first address.
      high: int64 ``[requests]``, bytes, the first address above.
      period: of the trace, or None.

    Returns:
      int64 ``[boxes]``, the requests; and float64 ``[boxes, 4, 2]``, time and address of the
      corners.
    """
    pieces = [(np.arange(start.size), start, end if period is None else np.minimum(end, period))]
    if period is not None:
        wraps = np.flatnonzero(end > period)
        pieces.append((wraps, np.zeros(wraps.size, np.int64), end[wraps] - period))
    rows, left, right = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    times, addresses = [left, right, right, left], [low[rows], low[rows], high[rows], high[rows]]
    return rows, np.stack([np.stack(times, 1), np.stack(addresses, 1)], 2).astype(np.float64)


def draw_occupancy(trace: Trace, plan: Plan, path: str | os.PathLike[str]) -> None:
    """Draws every request of a plan as a box over time and address, with the lower bound.

    Args:
      trace: the requests.
      plan: where they lie.
      path: the picture; its ending (.svg, .png, .pdf) names the format.

    Raises:
      ImportError: matplotlib is not installed.
      ValueError: a format that matplotlib does not write.
    """
    try:
        from matplotlib.collections import PolyCollection
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("A picture needs matplotlib: pip install jaxlab[experiments].") from error

    rows, corners = occupancy_boxes(
        trace.start, trace.end, plan.offsets, plan.offsets + trace.size, trace.period
    )
    times = corners[..., 0]
    group = trace.phase_start[rows] if trace.phases else trace.layer_start[rows]
    scale = 1 << 20 if plan.height >= 1 << 20 else 1
    corners[..., 1] /= scale
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    boxes = PolyCollection(list(corners), array=group % 20, cmap="tab20", linewidths=0)
    boxes.set_clim(0, 20)
    boxes.set_rasterized(rows.size > _VECTOR_BOXES)
    axes.add_collection(boxes)
    bound = plan.lower_bound / scale
    axes.axhline(bound, color="black", linestyle="--", linewidth=1, label="lower bound")
    axes.set_xlim(times.min(initial=0), times.max(initial=1))
    axes.set_ylim(0, max(plan.height, plan.lower_bound, 1) / scale * 1.03)
    axes.set_xlabel("time")
    axes.set_ylabel("address, MiB" if scale > 1 else "address, bytes")
    axes.set_title(f"{plan.planner}: {len(trace)} requests, {plan.gap:.2%} above the bound")
    axes.legend(loc="lower right")
    target = Path(path)
    kind = target.suffix.removeprefix(".")
    if kind not in figure.canvas.get_supported_filetypes():
        raise ValueError(f"draw_occupancy: cannot write {kind!r}; name a .svg, .png or .pdf.")
    partial = target.with_name(f".{target.name}.partial")
    figure.savefig(partial, format=kind, dpi=150)
    os.replace(partial, target)
