"""Masks of the clip, work of the devices before and after, time against active blocks."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from experiments.harness import Result
from jaxlab.dbsp import head_groups


def draw(result: Result) -> dict[str, Figure]:
    """Draws the figures of one result.

    Args:
      result: of ``experiments.blocksparse.run``.

    Returns:
      Figures by name.
    """
    windows = result.facts["windows"]
    figures = {"time": _time(result.facts["speed"])}
    if windows:
        figures = {
            "masks": _masks(windows),
            "devices": _devices(windows[0], result.facts["devices"]),
            **figures,
        }
    return figures


def _masks(windows: list[dict]) -> Figure:
    firsts = [window for window in windows if window["pictures"]]
    figure, axes = plt.subplots(
        len(firsts), 3, figsize=(6.5, 2.3 * len(firsts)), squeeze=False, sharex="row", sharey="row"
    )
    for line, window in zip(axes, firsts, strict=True):
        for axis, picture, label in zip(
            line, window["pictures"], ("sparsest", "median", "densest"), strict=True
        ):
            axis.imshow(picture, cmap="viridis", vmin=0, vmax=100, aspect="auto")
            axis.set(title=f"{label} head", xticks=[], yticks=[])
            axis.grid(False)
        line[0].set_ylabel(f"{window['clip']}\nquery blocks")
    for axis in axes[-1]:
        axis.set_xlabel("key blocks")
    return figure


def _devices(window: dict, devices: int) -> Figure:
    work = np.array(window["head_work"])
    before = work.reshape(devices, -1).sum(1)
    after = work[head_groups(work, devices)].sum(1)
    figure, axis = plt.subplots()
    place = np.arange(devices)
    axis.bar(place - 0.2, before / before.mean(), 0.4, label="heads in original order")
    axis.bar(place + 0.2, after / before.mean(), 0.4, label="heads regrouped greedily")
    axis.axhline(1, color="#888888", linewidth=1)
    axis.set(xlabel="device", ylabel="work / mean work", xticks=place)
    axis.set_title(f"{window['clip']}, layer {window['layer'] + 1}, step {window['step'] + 1}")
    axis.set_ylim(0, 1.25 * before.max() / before.mean())
    axis.legend(loc="upper right", ncols=1)
    return figure


def _time(speeds: list[dict]) -> Figure:
    figure, axis = plt.subplots()
    for speed in speeds:
        for part, marker in (("forward", "o"), ("backward", "s")):
            axis.plot(
                [row["density"] for row in speed["rows"]],
                [1e3 * row[f"{part}_seconds"] for row in speed["rows"]],
                marker=marker,
                label=f"{part}, {speed['blocks']}",
            )
    dense = np.median([1e3 * speed["dense_seconds"] for speed in speeds])
    axis.axhline(dense, color="#888888", linestyle="--", label="dense forward")
    axis.set(xlabel="share of active blocks", ylabel="time, ms", xlim=(0, None), ylim=(0, None))
    axis.legend()
    return figure
