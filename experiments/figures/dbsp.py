"""Who computes which blocks, what ranks wait for, what moving buys, and re-planning over steps."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.harness import Result

NAMES = {"none U1R8": "no plan", "db-SP U1R8": "db-SP", "refined U1R8": "refined"}
UNMOVED = ("none", "striped", "fitted home")
KINDS = (
    ("greedy", "s-", "greedy, reward 0 to 10"),
    ("refined, contiguous", "o-", "refined from contiguous"),
    ("refined, fitted home", "^-", "refined from fitted home"),
)


def draw(result: Result) -> dict[str, Figure]:
    """Draws the figures of one result.

    Args:
      result: of ``experiments.dbsp.run``.

    Returns:
      Figures by name.
    """
    facts = result.facts
    figures = {"owners": _owners(facts["layers"][0]), "steps": _steps(facts["layers"][0])}
    if "blocks" not in facts:
        return figures
    return {
        **figures,
        **{f"fronts-{n}": _fronts(of_size) for n, of_size in facts["blocks"].items()},
        "replanning": _replanning(facts["replanning"]["by_step"]),
        "policies": _policies(facts["replanning"]),
    }


def _owners(layer: dict) -> Figure:
    """The mask in the order of the shards: a row of tiles is a rank, a diagonal a ring step."""
    figure, axes = plt.subplots(1, 3, figsize=(7.5, 3.3), sharey=True)
    for axis, (name, title) in zip(axes, NAMES.items(), strict=True):
        plan = layer["plans"][name]
        placed, ring = np.array(plan["placed"]), len(plan["work"][0])
        axis.imshow(placed, cmap="viridis", interpolation="nearest", extent=(0, ring, ring, 0))
        for edge in range(1, ring):
            axis.axhline(edge, color="#8a7a22", linewidth=0.7)
            axis.axvline(edge, color="#8a7a22", linewidth=0.7)
        ranks = np.arange(ring)
        axis.set_xticks(ranks + 0.5, ranks)
        axis.set_yticks(ranks + 0.5, ranks)
        axis.grid(visible=False)
        axis.set(title=title, xlabel="shard of keys")
    axes[0].set_ylabel("rank")
    return figure


def _steps(layer: dict) -> Figure:
    figure, axes = plt.subplots(1, 3, figsize=(7.5, 3), sharey=True)
    for axis, (name, title) in zip(axes, NAMES.items(), strict=True):
        work = np.array(layer["plans"][name]["work"])[0]
        ring = len(work)
        rank = np.arange(ring)
        begin = 0
        for step in range(ring):
            blocks = work[rank, (rank + step) % ring]
            axis.bar(rank, blocks, bottom=begin, width=0.8)
            begin += blocks.max()  # the next step waits for the slowest
        axis.axhline(work.sum() / ring, linestyle="--", linewidth=1, color="#8a7a22")
        axis.set(title=f"{title}: {begin * ring / work.sum():.3f}", xlabel="rank", xticks=rank)
    axes[0].set_ylabel("blocks, step upon step")
    return figure


def _fronts(blocks: dict) -> Figure:
    """A panel for every family and ring degree; gaps in the bars are time spent waiting."""
    rows = -(-len(blocks) // 4)
    columns = min(len(blocks), 4)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.4 * columns + 0.6, 2.1 * rows + 0.8), squeeze=False
    )
    for axis, (family, plans) in zip(axes.flat, blocks.items(), strict=False):
        _front(axis, plans)
        axis.set_title(family, fontsize=10)
    for axis in axes.flat[len(blocks) :]:
        axis.set_axis_off()
    for axis in axes[-1]:
        axis.set_xlabel("moved, %")
    for axis in axes[:, 0]:
        axis.set_ylabel("excess, %")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9)
    return figure


def _front(axis: Axes, plans: dict) -> None:
    def at(row: list[float]) -> tuple[float, float]:
        return 50 * (row[2] + row[3]), max(100 * (row[0] - 1), 0.01)

    for kind, marker, label in KINDS:
        name, _, home = kind.partition(", ")
        names = [one for one in plans if one.startswith(name) and one.endswith(home)]
        points = sorted(at(plans[one]) for one in names)
        if home == "fitted home":
            points = [at(plans[home]), *points]
        axis.plot(*np.transpose(points), marker, markersize=4, linewidth=1, label=label)
    for name, marker in zip(UNMOVED, ("x", "+", "*"), strict=True):
        axis.plot(*at(plans[name]), marker, color="#b8568c", label=name)
    bound = [at(row) for name, row in plans.items() if name.startswith("lower bound")]
    if bound:
        axis.plot(*np.transpose(bound), "v:", color="#8a7a22", markersize=4, label="lower bound")
    axis.set_yscale("log")


def _replanning(by_step: dict) -> Figure:
    figure, axis = plt.subplots()
    for name, ratios in by_step.items():
        axis.plot(ratios, label=name)
    axis.set(xlabel="denoising step", ylabel="imbalance ratio, mean over layers")
    axis.legend()
    return figure


def _policies(facts: dict) -> Figure:
    figure, axis = plt.subplots()
    fixed = np.array([np.mean(scores, axis=0) for scores in facts["fixed"].values()])
    axis.plot(*fixed.T, "s-", label="threshold, whole model")
    for scope in ("model", "layer"):
        points = np.array(
            [
                np.mean(one["scores"], axis=0)
                for name, one in facts["drift"].items()
                if name.startswith(scope)
            ]
        )
        axis.plot(*points.T, "o-", label=f"drift-aware, by {scope}")
    axis.set(xlabel="plans a layer in 30 steps", ylabel="mean imbalance ratio")
    axis.legend()
    return figure
