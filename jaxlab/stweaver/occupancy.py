"""A picture of a plan: time to the right, addresses upward, a box for every request."""

import os
from pathlib import Path

import numpy as np

from jaxlab.stweaver.plan import Plan
from jaxlab.stweaver.trace import Trace

_VECTOR_BOXES = 20_000


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

    period = trace.period
    start, end = trace.start.astype(float), trace.end.astype(float)
    pieces = [(np.arange(len(trace)), start, end if period is None else np.minimum(end, period))]
    if period is not None:
        wraps = np.flatnonzero(trace.end > period)
        pieces.append((wraps, np.zeros(wraps.size), end[wraps] - period))
    rows, left, right = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    low, high = plan.offsets[rows], plan.offsets[rows] + trace.size[rows]
    corners = np.stack(
        [np.stack([x, y], -1) for x, y in ((left, low), (right, low), (right, high), (left, high))],
        1,
    )
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
    axes.set_xlim(left.min(initial=0), right.max(initial=1))
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
