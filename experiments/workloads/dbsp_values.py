"""What the claims of db-SP are about, summed up from what was measured."""

import numpy as np

from experiments.claims.dbsp_bars import BARS
from experiments.harness import Missing, Value
from experiments.workloads.block_balance import BOUNDED, CONTIGUOUS, LATER, NEAR
from experiments.workloads.parallel_attention import end_to_end
from experiments.workloads.planning_cost import LAYER_SECONDS
from experiments.workloads.replanning import THRESHOLDS, gain
from experiments.workloads.timed_layers import DEGREES, Judged


def exact_values(sharded: dict) -> dict[str, Value | Missing]:
    """Errors and bytes of the layer, and of the transformer, from ``on_eight_devices``."""
    layers, dit = sharded["layers"], sharded["dit"]
    values = dict.fromkeys(("dit-exact", "dit-replans"), Missing("no transformer was asked for"))
    if dit:
        values = {
            "dit-exact": Value(max(row["difference"] for row in dit), "deterministic", 5e-5),
            "dit-replans": Value(min(row["replans"] for row in dit)),
        }
    worst = {way: max(row[way] for row in layers) for way in ("forward", "backward")}
    return {
        **values,
        "layer-exact": Value(worst, "deterministic", tolerance=5e-6),
        "bytes-account": Value(
            {
                "sent as accounted": all(
                    row["sent"] == row["accounted"] >= row["needed"] for row in layers
                ),
                "no all-gather": sum(row["gathers"] for row in layers) == 0,
            }
        ),
    }


def head_values(
    heads: list[dict], replanning: dict[str, dict], clips: dict[str, dict], gone: str
) -> dict[str, Value | Missing]:
    """Balance of heads, and how long plans serve.

    Args:
      heads: from ``head_balance``, by trace.
      replanning: from every policy.
      clips: from ``clip_balance``, by name.
      gone: why clips are missing.

    Returns:
      By name of the claim.
    """

    def ratio(groups: int, method: str) -> float:
        return float(np.mean([one["ratios"][str(groups)][method] for one in heads]))

    def of_clips(method: str) -> dict[str, float]:
        return {name: one["heads"][method] for name, one in clips.items()}

    fixed, drift = replanning["fixed"], replanning["drift"]
    timing = {
        f"{threshold:g}": gain(replanning["fixed, moved on"], drift, threshold)
        for threshold in THRESHOLDS
        if drift[f"model {threshold}"]["cost"] > 0
    }
    plans, ratios = np.mean(fixed["1.1"], axis=0)
    refined = {"synthetic trace": ratio(8, "refined"), **of_clips("refined")}
    return {
        "trace-faithful": Value(all(one["faithful"] for one in heads)),
        **{
            f"heads-greedy-{groups}": Value(ratio(groups, "greedy"), "deterministic", 1e-3)
            for groups in (2, 4)
        },
        "clip-heads": (
            Value(of_clips("greedy"), "deterministic", 0.01) if clips else Missing(gone)
        ),
        "heads-refined": Value(refined, "deterministic", 1e-3),
        "replans": Value(plans, "deterministic", tolerance=0.5),
        "replans-ratio": Value(ratios, "deterministic", tolerance=2e-3),
        "drift-better": Value(
            min(gain(fixed, drift, threshold) for threshold in THRESHOLDS),
            "deterministic",
            tolerance=2e-3,
        ),
        "drift-timing": (
            Value(timing, "deterministic", tolerance=2e-3)
            if timing
            else Missing("no threshold needs a cost above 0")
        ),
    }


PLANS = {"home": "fitted home", "near": NEAR, "later": LATER, "moved": CONTIGUOUS}


def block_values(
    by_size: dict[str, dict[str, dict]], clips: dict[str, dict]
) -> dict[str, Value | Missing]:
    """The bars, the greedy of the first size, and how plans stand to their lower bounds.

    Args:
      by_size: plans by number of blocks, family and degrees.
      clips: from ``clip_balance``, by name.

    Returns:
      By name of the claim.
    """
    values = {}
    for name, bar in BARS.items():
        found = {}
        for n, blocks in by_size.items():
            for degrees in bar.degrees:
                rows = [
                    plans[PLANS[bar.plan]]
                    for family, plans in blocks.items()
                    if family.endswith(f" {degrees}")
                    and (
                        degrees == "U2R4" or bar.reordered in (None, family.startswith("svg-reord"))
                    )
                ]
                if rows:
                    least, most = min(row[-1] for row in rows), max(row[-1] for row in rows)
                    seeds = f"{least}" if least == most else f"{least} to {most}"
                    found[f"{degrees}, n = {n}, {seeds} seeds"] = max(row[0] for row in rows)
        if not bar.reordered:
            found |= {
                f"{degrees}, {clip}": one[degrees][PLANS[bar.plan]][0]
                for degrees in bar.degrees
                for clip, one in clips.items()
            }
        values[name] = (
            Value(found, "deterministic", 0.01)
            if found
            else Missing("no such masks were asked for")
        )
    every = [plans for blocks in by_size.values() for plans in blocks.values()]
    greedy = [plans["greedy, reward 0"][0] for plans in next(iter(by_size.values())).values()]
    least = {
        f"{cap:.0%}": 1
        / max(plans[f"bound over plan, {cap:.0%} from contiguous"][1] for plans in every)
        for cap in BOUNDED
    }
    return {
        **values,
        "blocks-greedy": Value(np.mean(greedy), "deterministic", tolerance=0.01),
        "bound-valid": Value(least, "deterministic", tolerance=0.02),
    }


def planning_values(planning: dict) -> dict[str, Value]:
    """What planning takes on the host, beside what it saves."""
    greedy, search = planning["greedy"], planning["search"]
    shares = {name: search[name]["seconds"] / search[name]["saved"] for name in ("short", "home")}
    return {
        "planning": Value(
            1e3 * greedy["plans"], "timed", spread=tuple(1e3 * x for x in greedy["spread"])
        ),
        "search-share": Value(shares, "timed"),
        "search-hidden": Value(search["hidden"]["seconds"] / LAYER_SECONDS, "timed"),
    }


def speedups(layers: list[dict], judged: Judged, rest: float) -> dict[str, Value | Missing]:
    """What balanced plans save, by the modelled times of held-out layers.

    Args:
      layers: from ``timed_layer``.
      judged: their times.
      rest: seconds of a layer of the transformer outside attention, on one device.

    Returns:
      By name of the claim.
    """
    held_out = judged.held_out
    paper, ours = judged.chosen["db-SP"], judged.chosen["refined"]
    count = f"{held_out.size} layers"
    uneven = np.array([layers[number]["plans"]["none U8R1"]["ratio"] > 1.25 for number in held_out])
    found = {
        "attention-speedup-refined": paper.sum() / ours.sum(),
        "attention-speedup-refined-fixed": judged.fixed["db-SP"].sum()
        / judged.fixed["refined"].sum(),
        "attention-speedup-degrees": {
            f"U{u}R{r}, {count}": (
                judged.seconds[f"none U{u}R{r}"][held_out].sum()
                / judged.seconds[f"db-SP U{u}R{r}"][held_out].sum()
            )
            for u, r in DEGREES
        },
        "attention-speedup-striped": judged.chosen["striped"].sum() / ours.sum(),
        "degrees-regret": ours.sum() / judged.least["refined"].sum() - 1,
        "degrees-gain": judged.fixed["refined"].sum() / ours.sum() - 1,
    }
    over = dict.fromkeys(
        ("attention-speedup", "attention-speedup-best", "end-to-end", "end-to-end-dit"),
        Missing("no layer that was not fitted to has an imbalance above 1.25 at U8R1"),
    )
    if uneven.any():
        baselines = [judged.seconds[f"none U{u}R{r}"][held_out] for u, r in DEGREES]
        by_layer = np.mean([(one / paper)[uneven] for one in baselines], axis=0)
        attention = float(by_layer.mean())
        judged_on = f"{uneven.sum()} of {held_out.size} held-out layers"
        whole = np.mean([((one + rest) / (paper + rest))[uneven].mean() for one in baselines])
        found |= {
            "attention-speedup": {judged_on: attention},
            "attention-speedup-best": {judged_on: (judged.fixed["none"] / paper)[uneven].mean()},
            "end-to-end": {
                f"half outside attention, {judged_on}": end_to_end(attention, 0.5),
                f"0.3 outside attention, {judged_on}": end_to_end(attention, 0.3),
            },
            "end-to-end-dit": {judged_on: float(whole)},
        }
    return over | {name: Value(speed, "timed") for name, speed in found.items()}
