"""The numbers that the planner's claims are judged by, from what its steps measured."""

import math

from experiments.harness import Missing, Value
from experiments.workloads.stweaver_tables import fallback, lost, mean, reduction
from experiments.workloads.stweaver_training import BASELINES


def training_values(dense: list, mixture: list, sweep: list, largest: list, full: list) -> dict:
    """Efficiency, reductions, reuse and largest microbatches of training jobs."""
    caching = {
        (row["model"], row["schedule"]): row["allocators"]["caching"]["efficiency"] for row in dense
    }
    models = {model for model, _ in caching}
    runs = [one for row in mixture for one in row["runs"]]
    gain = lost(runs, "caching") - lost(runs, "stweaver")
    cases = [value for row in dense for value in row["reduction"].values()]
    spread = [row["allocators"]["stweaver"]["efficiency"] for _, row in sweep]
    more = [row["stweaver"] - max(row[name] for name in BASELINES) for row in largest]
    reuse = {row["schedule"]: fallback(row["runs"]) for row in mixture}
    return {
        "online-fragments": Value(
            min(value for (_, letters), value in caching.items() if letters in ("R", "VR"))
        ),
        **_full_values([row["allocators"] for row in full if row["schedule"] in ("R", "VR")]),
        **dict.fromkeys(
            ("recompute-fragments-more", "recompute-fragments-much"),
            Value(min(caching[model, "N"] - caching[model, "R"] for model in models)),
        ),
        "dense-efficiency": Value(
            min(row["allocators"]["stweaver"]["efficiency"] for row in dense)
        ),
        **{
            f"dense-reduction-{name}": Value(mean([row["reduction"][name] for row in dense]))
            for name in BASELINES
        },
        "dense-reduction-worst": Value(min(cases)),
        **{f"moe-reduction-{name}": Value(reduction(runs, name)) for name in BASELINES},
        "moe-fragmentation": Value(mean([1 - one["stweaver"]["efficiency"] for one in runs])),
        "moe-reuse-recompute": Value(reuse["R"]),
        "moe-reuse-none": Value(reuse["N"]),
        "static-share": Value(
            (lost(runs, "caching") - lost(runs, "static")) / gain if gain > 0 else math.nan
        ),
        "microbatch-spread": Value(max(spread) - min(spread)),
        "larger-microbatch-never-less": Value(min(more)),
        "larger-microbatch": Value(max(more)),
    }


def _full_values(cases: list) -> dict:
    """The lowest efficiencies on a full device, where it can be filled at all."""
    names = {"full-fragments": "caching", "full-efficiency": "stweaver"}
    return {
        claim: Value(min(case[name]["efficiency"] for case in cases))
        if cases
        else Missing("no microbatch fits the device")
        for claim, name in names.items()
    }


def packing_values(times: list, hard: list, peer: dict, known: list, patient: list) -> dict:
    """Planning times, hard instances and those of known optimum."""
    values: dict[str, Value | Missing] = {}
    if times:
        most = max(times, key=lambda row: row["requests"])
        values = {
            "plan-time": Value(max(row["seconds"] / row["paper"] for row in times), "timed"),
            "scale-seconds": Value(most["seconds"], "timed"),
            "scale-gap": Value(most["gap"]),
            "scale-memory": Value(most["peak"] / 2**30, "timed"),
        }
    lower = [row["name"] for row in hard if row["height"] < peer.get(row["name"], 0)]
    return values | {
        "minimalloc-solved": Value(sum(row["solved"] for row in hard), "timed"),
        "minimalloc-slowest": Value(max(row["seconds"] for row in hard), "timed"),
        "minimalloc-total": Value(sum(row["seconds"] for row in hard), "timed"),
        "minimalloc-peer": Value(len(lower), "timed")
        if peer
        else Missing("needs omnimalloc (extra bench)"),
        "known-optimum": Value(mean([row["solved"] for row in known]), "timed")
        if len(known) >= 200
        else Missing("needs at least 200 instances"),
        "known-optimum-minute": Value(mean([row["solved"] for row in patient]), "timed")
        if len(patient) >= 24
        else Missing("needs an instance of each of 24 kinds"),
    }


def program_values(orders: list, jaxprs: list, compiled: list) -> dict:
    """Orders, plans and temporaries of JAX programs."""
    identical = {
        f"{row['model']}, batch {row['batch']}": row["identical"]
        for row in orders
        if "identical" in row
    }
    roomy = [row["saving"] for row in orders if row["room"] >= 0.15]
    return {
        "order-never-worse": Value(
            max(row["ours"] / row["program"] for row in orders), "deterministic", tolerance=0.05
        ),
        "order-saves": Value(min(roomy), "deterministic", tolerance=0.05)
        if roomy
        else Missing("the bounds show room of 15 % in no case (see the table)"),
        "order-identical": Value(identical)
        if identical
        else Missing("no program was executed; see Config.execute"),
        "jax-plans": Value(
            min(row["bound"] / row["height"] for row in jaxprs), "deterministic", tolerance=0.01
        ),
        "xla-temporaries": Value(
            {
                f"{row['model']}{' remat' if row['remat'] else ''}": not row["error"]
                and row["stated"] == row["rebuilt"]
                for row in compiled
            }
        ),
    }
