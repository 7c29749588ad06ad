"""Light cone, entropy against ln t, entanglement spectrum, gap against U, brackets, environment."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from experiments.harness import Result


def draw(result: Result) -> dict[str, Figure]:
    """Draws the figures of one result.

    Args:
      result: of ``experiments.vne.run``.

    Returns:
      Figures by name.
    """
    facts = result.facts
    figures = {
        "cone": _cone(facts["cone"]),
        "opening": _opening(facts["opening"]),
        "spectrum": _spectrum(facts["cone"]),
        "series": _series(facts["series"]),
        "environment": _environment(facts["environment"]),
    }
    if "design" in facts:
        figures["design"] = _design(facts["design"])
    figures["gap"] = _gap(facts["sweep"])
    figures["quenches"] = _quenches(facts["quenches"])
    return figures


def _cone(cone: dict) -> Figure:
    figure, axis = plt.subplots()
    density, times = np.array(cone["density"]), np.array(cone["times"])
    half = density.shape[1] // 2
    picture = axis.imshow(
        density,
        origin="lower",
        aspect="auto",
        cmap="viridis",
        vmin=0,
        vmax=1,
        extent=(-half, half, times[0], times[-1]),
    )
    for sign in (-1, 1):
        axis.plot(sign * 2 * times, times, color="white", linestyle="--", linewidth=1)
    axis.set(xlabel="site from the contact", ylabel="time, 1/J", xlim=(-half, half))
    axis.grid(False)
    figure.colorbar(picture, label="occupation")
    return figure


def _opening(opening: dict) -> Figure:
    figure, axis = plt.subplots()
    times = np.array(opening["times"])
    for lead, curve in zip(opening["leads"], opening["entropy"], strict=True):
        axis.semilogx(times, curve, "o-", markersize=3, label=f"{lead} sites a lead")
    straight = np.log(times / times[0]) / 3 + opening["entropy"][-1][0]
    axis.semilogx(times, straight, "k--", linewidth=0.8, label="slope 1/3")
    axis.set(xlabel="time, 1/J", ylabel="entropy, nats")
    axis.legend()
    return figure


def _spectrum(cone: dict) -> Figure:
    figure, (upper, lower) = plt.subplots(2, 1, sharex=True, figsize=(6, 5))
    times, z = np.array(cone["times"]), np.clip(np.array(cone["occupations"]), 1e-15, 1 - 1e-15)
    upper.semilogx(times, cone["entropy"])
    upper.set_ylabel("entropy, nats")
    lower.semilogx(times, np.log((1 - z) / z), color="#555555", linewidth=0.7)
    lower.set(xlabel="time, 1/J", ylabel="entanglement energies", ylim=(-12, 12))
    return figure


def _series(series: dict) -> Figure:
    figure, (wide, close) = plt.subplots(2, 1, sharex=True, figsize=(6, 5))
    orders = [int(k) + 1 for k in series["song"]]
    for axis in (wide, close):
        axis.plot(np.arange(1, 7) * 2, series["naive"], "o-", label="naive series")
        axis.plot(orders, list(series["song"].values()), "s-", label="rearranged")
        axis.axhline(series["extrapolated"], linestyle=":", color="#888888", label="extrapolated")
        axis.axhline(series["entropy"], color="#000000", linewidth=1, label="exact")
        axis.set_ylabel("entropy, nats")
    wide.set_yscale("symlog")
    close.set(xlabel="highest cumulant", ylim=(1.5, 3))
    close.legend()
    return figure


def _environment(rows: list[dict]) -> Figure:
    figure, axis = plt.subplots()
    at = [row["coupling"] for row in rows]
    axis.plot(at, [2 * row["entropy"] for row in rows], "k-", label="2 S(A)")
    axis.plot(at, [row["shared"] for row in rows], "o-", label="I(A:B)")
    axis.plot(at, [row["lost"] for row in rows], "s-", label="I(A:E)")
    axis.set(xlabel="coupling to the environment", ylabel="nats", ylim=(0, None))
    axis.legend()
    return figure


def _design(design: dict) -> Figure:
    figure, (upper, lower) = plt.subplots(2, 1, sharex=True, figsize=(6, 5))
    upper.plot(design["times"], design["target"], "k-", label="wanted")
    upper.plot(design["times"], design["found"], "o", label="found")
    upper.set_ylabel("entropy, nats")
    upper.legend()
    at = [0, *design["times"]]
    lower.plot(at, np.abs(design["hidden"]), "k-", label="made the curve")
    lower.plot(at, np.abs(design["drive"]), "o", label="found")
    lower.set(xlabel="time, 1/J", ylabel="|J'(t)|")
    lower.legend()
    return figure


def _gap(sweep: dict) -> Figure:
    figure, axis = plt.subplots()
    for kind, marker, color in (("contact", "o", "C0"), ("all", "s", "C1")):
        times = list(dict.fromkeys(row["time"] for row in sweep[kind]))
        for shade, time in enumerate(times):
            rows = [row for row in sweep[kind] if row["time"] == time]
            axis.loglog(
                [row["strength"] for row in rows],
                [row["gap"] for row in rows],
                marker=marker,
                markersize=4,
                alpha=0.25 + 0.75 * (shade + 1) / len(times),
                color=color,
                label=f"{kind} bonds, t = {time:g}" if time in (times[0], times[-1]) else None,
            )
    strengths = np.array([row["strength"] for row in sweep["contact"]])
    last = sweep["contact"][-1]
    square = last["gap"] * (strengths / last["strength"]) ** 2
    axis.loglog(strengths, square, "k--", linewidth=0.8, label="U squared")
    axis.set(xlabel="interaction U", ylabel="S_G - S, nats")
    axis.legend(fontsize=8)
    return figure


def _quenches(rows: list[dict]) -> Figure:
    strengths = list(dict.fromkeys(row["strength"] for row in rows))
    figure, axes = plt.subplots(2, len(strengths), squeeze=False, sharex=True, figsize=(7, 5))
    for column, strength in zip(axes.T, strengths, strict=True):
        for quench, color in (("on", "C2"), ("none", "C1"), ("off", "C0")):
            chosen = [r for r in rows if (r["strength"], r["quench"]) == (strength, quench)]
            times = [row["time"] for row in chosen]
            column[0].plot(times, [r["gap"] for r in chosen], "o-", color=color, label=quench)
            column[1].fill_between(
                times,
                [r["low"] - r["exact"] for r in chosen],
                [r["high"] - r["exact"] for r in chosen],
                color=color,
                alpha=0.35,
                linewidth=1,
            )
        column[1].axhline(0, color="#000000", linewidth=0.8)
        column[0].set_title(f"V = {strength:g} in the leads")
        column[0].set_ylim(0, None)
        column[1].set_xlabel("time, 1/J")
    axes[0, 0].set_ylabel("S_G - S, nats")
    axes[1, 0].set_ylabel("bracket around S, nats")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3)
    return figure
