"""Who computes which blocks, what ranks wait for, what moving buys, and re-planning over steps."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from experiments.harness import Result


def draw(result: Result) -> dict[str, Figure]:
    """Draws the figures of one result.

    Args:
      result: of ``experiments.dbsp.run``.

    Returns:
      Figures by name.
    """
    facts = result.facts
    return {
        "steps": _steps(facts["layers"][0]),
        "fronts": _fronts(facts["blocks"]),
        "replanning": _replanning(facts["replanning"]["by_step"]),
        "policies": _policies(facts["replanning"]),
    }


def _steps(layer: dict) -> Figure:
    names = ("none U1R8", "db-SP U1R8", "refined U1R8")
    figure, axes = plt.subplots(1, 3, figsize=(7.5, 2.6), sharey=True)
    for axis, name in zip(axes, names, strict=True):
        work = np.array(layer["plans"][name]["work"])[0]
        ring = len(work)
        rank = np.arange(ring)
        bottom = np.zeros(ring)
        for step in range(ring):
            blocks = work[rank, (rank + step) % ring]
            axis.bar(rank, blocks, bottom=bottom, width=0.8)
            bottom += blocks.max()  # the next step waits for the slowest
        axis.set(title=name, xlabel="rank", xticks=rank)
    axes[0].set_ylabel("blocks, step upon step")
    return figure


def _fronts(blocks: dict) -> Figure:
    figure, axes = plt.subplots(
        2, -(-len(blocks) // 2), figsize=(1.7 * len(blocks) / 2 + 1.5, 5), squeeze=False
    )
    for axis, (family, rows) in zip(axes.flat, blocks.items(), strict=False):
        for kind, marker in (("greedy", "s"), ("refined", "o"), ("", "x")):
            points = [
                (100 * (row[2] + row[3]) / 2, row[0])
                for name, row in rows.items()
                if name.startswith(kind) and (kind or name in ("none", "striped", "fitted home"))
            ]
            axis.plot(*np.transpose(points), marker, label=kind or "nothing moved")
        axis.set(title=family, xlabel="blocks moved, %")
    axes[0, 0].set_ylabel("imbalance ratio")
    axes[0, 0].legend()
    return figure


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
