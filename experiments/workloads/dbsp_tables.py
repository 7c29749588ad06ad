"""Tables of the db-SP experiment."""

import numpy as np

from experiments.harness import Table
from experiments.workloads.parallel_attention import Setting
from experiments.workloads.planning_cost import HIDDEN, LAYER_SECONDS, SHORT
from experiments.workloads.timed_layers import DEGREES, Judged, Layers, judge, rebuilt
from jaxlab.dbsp.heads import HEAD_METHODS


def heads_table(heads: list[dict], clips: dict[str, dict]) -> Table:
    """Every way to group heads, on traces and clips."""
    return Table(
        "Mean imbalance ratio of heads",
        ("masks", "groups", *HEAD_METHODS),
        (
            *(
                (
                    "synthetic traces",
                    int(groups),
                    *(
                        np.mean([one["ratios"][groups][method] for one in heads])
                        for method in HEAD_METHODS
                    ),
                )
                for groups in heads[0]["ratios"]
            ),
            *((name, 8, *(one["heads"][x] for x in HEAD_METHODS)) for name, one in clips.items()),
        ),
    )


def policies_table(replanning: dict[str, dict]) -> Table:
    """Plans made and ratios kept by every policy, with and without moving counts on."""
    fixed = {"": replanning["fixed"], ", counts moved on": replanning["fixed, moved on"]}
    drift = {"": replanning["drift"], ", counts as seen": replanning["drift, as seen"]}
    return Table(
        "Plans made in 30 steps and mean imbalance ratio at 8 groups, one step of lag",
        ("policy", "threshold", "cost", "plans a layer", "ratio"),
        (
            *(
                (f"fixed, whole model{how}", float(threshold), None, *np.mean(scores, axis=0))
                for how, of_thresholds in fixed.items()
                for threshold, scores in of_thresholds.items()
            ),
            *(
                (
                    f"drift-aware, by {name.split()[0]}{how}",
                    float(name.split()[1]),
                    one["cost"],
                    *np.mean(one["scores"], axis=0),
                )
                for how, of_costs in drift.items()
                for name, one in of_costs.items()
            ),
        ),
        caption="Each drift-aware row makes at most as many plans as the threshold beside it, on "
        "other seeds. The first step always runs unplanned. Counts are moved on by half of their "
        "last change before heads are planned: by the drift-aware policy unless it says as seen.",
    )


def fronts_table(blocks: dict[str, dict], clips: dict[str, dict]) -> Table:
    """Every block plan with what it moves."""
    rows = [
        (int(n), name, plan, *row)
        for n, of_size in blocks.items()
        for name, plans in of_size.items()
        for plan, row in plans.items()
    ] + [
        (None, f"{name} {degrees}", plan, *row)
        for name, one in clips.items()
        for degrees in ("U2R4", "U1R8")
        for plan, row in one[degrees].items()
    ]
    return Table(
        "Imbalance ratio of block plans and what they move",
        ("n", "masks", "plan", "mean", "worst", "queries moved", "keys moved", "layers"),
        tuple(rows),
        caption="Moved from the home that the plan names, else from contiguous shards; striped "
        "and fitted homes are folded into the token order once. A lower bound holds for every plan "
        "that moves no more, but need not be reached; bound over plan: by layer, 1 is the best "
        "possible.",
    )


def layers_table(rows: list[dict], judged: Judged) -> Table:
    """The timed layers."""
    return Table(
        "Timed layers",
        ("masks", "seed", "density", "ratio at U8R1 without a plan", "refined plans that move",
         "striped / db-SP at U8R1", "the cost model is"),
        tuple(
            (
                row["family"],
                row["seed"],
                row["density"],
                row["plans"]["none U8R1"]["ratio"],
                sum(_moves(row["plans"][f"refined U{u}R{r}"]["plan"]) for u, r in DEGREES),
                judged.seconds["striped U8R1"][number] / judged.seconds["db-SP U8R1"][number],
                "judged on it" if number in judged.held_out else "fitted to it",
            )
            for number, row in enumerate(rows)
        ),
        caption="Four refined plans a layer, one for each pair of degrees: a plan stays at its "
        "fitted home where moving blocks would take longer than it saves. Striped and db-SP have "
        "the same kernels at U8R1: by as much as their times differ a layer's times are uncertain.",
    )  # fmt: skip


def lines_table(lines: dict[str, dict[str, float]]) -> Table:
    """What a kernel takes."""
    return Table(
        "A kernel's time over its active blocks",
        ("degrees", "ms without blocks", "ns a block", "R^2"),
        tuple(
            (degrees, 1e3 * line["constant"], 1e9 * line["block"], line["r_squared"])
            for degrees, line in lines.items()
        ),
        caption="Least-squares lines over the kernels of all layers, without plans, by db-SP and "
        "refined.",
    )


def _moves(record: dict) -> bool:
    plan = rebuilt(record)
    return plan.q_moved + plan.kv_moved > 0


def times_table(layers: Layers, rows: list[dict]) -> Table:
    """Modelled times of every plan over several links."""
    return Table(
        "Modelled time of a layer, U8R1 without a plan = 1",
        ("bandwidth, GB/s", "latency, us", "plan", "time"),
        tuple(
            (setting.bandwidth / 1e9, setting.latency * 1e6, name, seconds.mean() / unplanned)
            for setting in (
                Setting(),
                Setting(bandwidth=40e9),
                Setting(bandwidth=640e9),
                Setting(latency=200e-6),
            )
            for judged in [judge(layers, rows, setting)]
            for unplanned in [judged.seconds["none U8R1"].mean()]
            for name, seconds in judged.seconds.items()
        ),
        caption="Kernels measured, links modelled.",
    )


def model_table(judged: Judged, rest: float) -> Table:
    """A layer of the small transformer, attention and the rest."""
    names = [f"none U{ulysses}R{ring}" for ulysses, ring in DEGREES]
    fixed = {name: judged.seconds[name][judged.held_out] for name in names}
    chosen = {f"{kind}, degrees chosen": judged.chosen[kind] for kind in ("db-SP", "refined")}
    return Table(
        "A layer of the small transformer, layers not fitted to",
        ("plan", "attention, ms", "rest, ms", "part outside attention"),
        tuple(
            (name, 1e3 * seconds.mean(), 1e3 * rest, rest / (rest + seconds.mean()))
            for name, seconds in {**fixed, **chosen}.items()
        ),
        caption="Rest: projections, norms and feed-forward of an eighth of the tokens, timed on "
        "one device. Attention: kernels measured, links modelled.",
    )


def costs_table(costs: dict[str, float]) -> Table:
    """What balancing costs, part by part."""
    return Table("Cost of balancing, part of attention", ("part", "share"), tuple(costs.items()))


def planning_table(planning: dict, interval: float) -> Table:
    """What planning a layer takes and saves."""
    greedy, search = planning["greedy"], planning["search"]
    names = {
        "short": f"refined from contiguous, {SHORT} evaluations",
        "hidden": f"refined from contiguous, {HIDDEN} evaluations",
        "long": f"refined from contiguous, {planning['long']} evaluations",
        "home": "fitting a home once, no plan after",
    }
    return Table(
        "Planning one layer, mask of {} heads and {} blocks".format(*planning["mask"]),
        ("what", "milliseconds", "ratio reached", "milliseconds saved"),
        (
            ("greedy, four pairs of degrees", 1e3 * greedy["plans"], greedy["ratio"], None),
            ("reading the mask once, nothing else", 1e3 * greedy["reading"], None, None),
            ("choosing among them", 1e3 * greedy["prediction"], None, None),
            ("judging one plan on a mask", 1e3 * greedy["judging"], None, None),
            ("copy of the mask from a device", 1e3 * greedy["copy"], None, None),
            *(
                (name, 1e3 * one["seconds"], one["ratio"], 1e3 * one["saved"])
                for key, name in names.items()
                for one in [search[key]]
            ),
        ),
        caption=f"Saved at U1R8 of {1e3 * LAYER_SECONDS:g} ms a layer without a plan, until the "
        f"next plan {interval:.1f} steps later; by a home in a run of 40 layers and 30 steps.",
    )


def sharded_table(sharded: dict) -> Table:
    """Errors and bytes of the layer for every pair of degrees."""
    return Table(
        "The sharded layer on virtual devices",
        ("degrees", "error forward", "error backward", "bytes needed", "bytes accounted, padded",
         "bytes sent"),
        tuple(
            (
                "U{}R{}".format(*row["degrees"]),
                *(row[x] for x in ("forward", "backward", "needed", "accounted", "sent")),
            )
            for row in sharded["layers"]
        ),
        caption="All devices together, one forward pass; sent is read from the compiled program. "
        "Padding: heads, tokens and slots of the exchange.",
    )  # fmt: skip
