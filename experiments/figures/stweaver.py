"""Occupancy of a plan, reserved against allocated bytes, fragmentation by allocator."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from experiments.harness import Result
from experiments.harness.figures import PALETTE
from jaxlab.stweaver.occupancy import occupancy_boxes

NAMES = {
    "caching": "PyTorch caching",
    "expandable": "expandable segments",
    "gmlake": "GMLake",
    "stweaver": "plan and runtime",
}


def draw(result: Result) -> dict[str, Figure]:
    """Draws the figures of one result.

    Args:
      result: of ``experiments.stweaver.run``.

    Returns:
      Figures by name.
    """
    return {
        "occupancy": _occupancy(result.facts["occupancy"]),
        "reserved": _reserved(result.facts["curves"]),
        "fragmentation": _fragmentation(result.facts["efficiency"]),
    }


def _occupancy(facts: dict) -> Figure:
    columns = ("start", "end", "size", "offset", "phase")
    start, end, size, offset, phase = (np.array(facts[name]) for name in columns)
    period = facts["period"]
    rows, corners = occupancy_boxes(start, end, offset, offset + size, period)
    corners[..., 1] /= 2**20
    figure, axis = plt.subplots(figsize=(6.5, 3.8))
    colors = np.array(PALETTE)[phase[rows] % len(PALETTE)]
    axis.add_collection(PolyCollection(list(corners), facecolors=colors, linewidths=0))
    axis.axhline(facts["bound"] / 2**20, linestyle="--", color="#888888", label="lower bound")
    lasting = (end - start == period) | (size == 0)
    bottom = offset[~lasting].min(initial=facts["height"]) / 2**20
    top = facts["height"] / 2**20
    note = f"below {bottom:.0f} MiB: only what lasts"
    axis.set(
        title=facts["title"],
        xlabel=f"time, allocations and frees ({note})",
        ylabel="address, MiB",
        xlim=(0, period),
        ylim=(bottom, top + 0.05 * (top - bottom)),
    )
    axis.grid(False)
    figure.legend(loc="outside upper right")
    return figure


def _reserved(facts: dict) -> Figure:
    curves = facts["curves"]
    figure, axes = plt.subplots(
        1, len(curves), figsize=(2.2 * len(curves), 2.8), sharex=True, sharey=True
    )
    for axis, (name, curve) in zip(axes, curves.items(), strict=True):
        time = np.linspace(0, 1, len(curve["reserved"]))
        reserved, allocated = (np.array(curve[part]) / 2**30 for part in ("reserved", "allocated"))
        axis.fill_between(time, allocated, reserved, color=PALETTE[1], alpha=0.5, linewidth=0)
        axis.plot(time, reserved, color=PALETTE[1], label="reserved")
        axis.plot(time, allocated, color=PALETTE[0], label="allocated", linewidth=1)
        axis.set_title(NAMES[name], fontsize=10)
        axis.set(xlim=(0, 1), ylim=(0, None))
        axis.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes[0].set_ylabel("GiB")
    axes[0].legend(loc="lower right", fontsize=9)
    figure.supxlabel(f"{facts['title']}: share of two iterations", fontsize=10)
    return figure


def _fragmentation(rows: list[dict]) -> Figure:
    figure, axis = plt.subplots(figsize=(6.5, 3.2))
    place = np.arange(len(rows))
    width = 0.8 / len(NAMES)
    for turn, (name, label) in enumerate(NAMES.items()):
        values = [100 * (1 - row["allocators"][name]["efficiency"]) for row in rows]
        axis.bar(place + (turn - 1.5) * width, values, width, label=label, color=PALETTE[turn])
    labels = [f"{row['model'].split('-')[0]}\n{row['schedule']}" for row in rows]
    axis.set_xticks(place, labels)
    axis.set(ylabel="fragmentation, %")
    figure.legend(loc="outside lower center", ncols=2)
    return figure
