"""Tables of what the planner's experiment measured, and the averages that they share."""

import math

import numpy as np

from experiments.harness import Table
from experiments.workloads.stweaver_training import BASELINES, PEERS


def training_tables(
    dense: list, mixture: list, sweep: list, largest: list, full: list
) -> tuple[Table, ...]:
    """Efficiency by job, by routing, by microbatch, the largest microbatch and with that."""
    names, fits = (*PEERS, "stweaver"), (*BASELINES, "stweaver")
    kinds = (*PEERS, "static", "stweaver")
    columns = (*names, *(f"{name}, GiB" for name in names))
    return (
        Table(
            "Efficiency of dense jobs, and reserved GiB",
            ("model", "schedule", "requests", *columns, "gap", "fallback"),
            tuple(
                (
                    row["model"],
                    row["schedule"],
                    row["requests"],
                    *(row["allocators"][name]["efficiency"] for name in names),
                    *(row["allocators"][name]["reserved"] / 2**30 for name in names),
                    row["gap"],
                    row["fallback"],
                )
                for row in dense
            ),
            caption="gap: height of the plan over its lower bound, less one. fallback: requests "
            "that were not served where planned. gmlake 64: stitching from 64 MiB on.",
        ),
        Table(
            "Mixture of experts, planned on one routing, mean over others",
            (
                *("schedule", "requests", "dynamic", *(f"F {kind}" for kind in kinds)),
                *("fallback", "fallback, GiB", "reused"),
            ),
            tuple(
                (
                    row["schedule"],
                    row["requests"],
                    row["dynamic"],
                    *(mean([1 - one[kind]["efficiency"] for one in row["runs"]]) for kind in kinds),
                    fallback(row["runs"]),
                    mean([one["fallback_reuse"] / 2**30 for one in row["runs"]]),
                    mean([one["reused"] / (one["reused"] + one["no_room"]) for one in row["runs"]]),
                )
                for row in mixture
            ),
            caption="F: fragmentation ratio. static: without reuse of idle ranges. fallback: its "
            "reserved bytes with reuse over without. reused: share of dynamic requests.",
        ),
        Table(
            "Efficiency by microbatch, recompute",
            ("microbatch", *names),
            tuple(
                (size, *(row["allocators"][name]["efficiency"] for name in names))
                for size, row in sweep
            ),
        ),
        Table(
            "Largest microbatch that fits",
            ("job", *fits),
            tuple((row["case"], *(row[name] for name in fits)) for row in largest),
        ),
        Table(
            "Efficiency at the largest microbatch that the caching allocator fits",
            ("model", "schedule", "microbatch", *columns),
            tuple(
                (
                    *(row[name] for name in ("model", "schedule", "microbatch")),
                    *(row["allocators"][name]["efficiency"] for name in names),
                    *(row["allocators"][name]["reserved"] / 2**30 for name in names),
                )
                for row in full
            ),
            caption="Replayed without a limit, so that nothing is given back and asked for again.",
        ),
    )


def packing_tables(
    times: list, hard: list, peer: dict, known: list, patient: list
) -> tuple[Table, ...]:
    """Planning times, MiniMalloc's instances, and those of known optimum by kind."""
    columns = ("model", "schedule", "requests", "sizes", "phases", "wraps", "seconds", "paper")
    return (
        Table(
            "Planning one iteration, in one process each",
            (*columns, "gap", "peak GiB"),
            tuple(
                (*(row[name] for name in columns), row["gap"], row["peak"] / 2**30) for row in times
            ),
            caption="paper: its seconds, for its number of requests (Table 2).",
        ),
        Table(
            "MiniMalloc's challenging instances",
            ("instance", "buffers", "load", "proved", "height", "solved", "seconds", "supermalloc"),
            tuple(
                (
                    *(row[name] for name in ("name", "buffers", "load", "bound", "height")),
                    row["solved"],
                    row["seconds"],
                    peer.get(row["name"]),
                )
                for row in hard
            ),
            caption="proved: no plan is lower. seconds: until within the capacity of 1,048,576.",
        ),
        _rectangles("Rectangles cut into requests", known),
        *(
            [_rectangles("The first rectangle of each kind, with more time", patient)]
            * bool(patient)
        ),
    )


def _rectangles(title: str, found: list) -> Table:
    kinds = dict.fromkeys(_kind(row) for row in found)
    parts = [(kind, [row for row in found if _kind(row) == kind]) for kind in kinds]
    return Table(
        title,
        (*("requests", "duration", "pinwheels", "instances", "solved"), "seconds", "gap", "worst"),
        tuple(
            (
                *kind,
                len(rows),
                mean([row["solved"] for row in rows]),
                max((row["took"] for row in rows if row["solved"]), default=None),
                mean([row["gap"] for row in rows]),
                max((row["gap"] for row in rows), default=None),
            )
            for kind, rows in (*parts, (("all", None, None), found))
        ),
        caption="pinwheels: share of cuts that no straight line follows. seconds: the longest of "
        "those solved. gap, worst: mean and highest height over the optimum, less one.",
    )


def _kind(row: dict) -> tuple[int, int, float]:
    return row["requests"], row["duration"], row["pinwheels"]


def program_tables(orders: list, jaxprs: list, compiled: list) -> tuple[Table, ...]:
    """Orders, plans and temporaries of JAX programs."""
    order = ("model", "batch", "program", "ours", "bound", "saving", "room")
    trace = ("model", "remat", "requests", "height", "bound", "gap")
    xla = ("model", "remat", "values", "phi", "stated", "rebuilt")
    return (
        Table(
            "Peak of live bytes of a training step, by order of its equations",
            order,
            tuple(tuple(row[name] for name in order) for row in orders),
            caption="bound: no order is lower. room: 1 - bound / program.",
        ),
        Table(
            "Plans of jaxprs", trace, tuple(tuple(row[name] for name in trace) for row in jaxprs)
        ),
        Table(
            "XLA's temporaries", xla, tuple(tuple(row[name] for name in xla) for row in compiled)
        ),
    )


def surprise_table(rows: list) -> Table:
    """What one request more or less does to the later ones."""
    return Table(
        "After one request more or less: later requests at their planned address",
        ("change", "trials", "resynchronized, lowest", "counted, mean"),
        tuple(
            (
                change,
                len(part),
                min(row["resynchronized"] for row in part),
                mean([row["counted"] for row in part]),
            )
            for change in dict.fromkeys(row["change"] for row in rows)
            for part in [[row for row in rows if row["change"] == change]]
        ),
        caption="counted: a matcher that only counts requests, like the paper's.",
    )


def shortfalls(
    dense: list,
    mixture: list,
    times: list,
    hard: list,
    peer: dict,
    known: list,
    jaxprs: list,
    compiled: list,
) -> Table:
    """Every plan more than 1 % above its bound, every peer that is lower than we are."""
    gaps = [(f"{row['model']}, {row['schedule']}", row["gap"]) for row in (*dense, *times)]
    gaps += [(f"MiniMalloc {row['name']}", row["height"] / row["bound"] - 1) for row in hard]
    worst: dict[str, float] = {}
    for row in known:
        kind = "known optimum, requests {}, duration {}, pinwheels {}".format(*_kind(row))
        worst[kind] = max(worst.get(kind, 0.0), row["gap"])
    gaps += worst.items()
    gaps += [(f"jaxpr of {row['model']}", row["gap"]) for row in jaxprs]
    gaps += [
        (f"XLA's values of {row['model']}", row["planned"] / row["bound"] - 1)
        for row in compiled
        if row.get("bound")
    ]
    pairs = [
        (
            f"{row['model']}, {row['schedule']}",
            name,
            one[name]["reserved"],
            one["stweaver"]["reserved"],
        )
        for row in dense
        for one in [row["allocators"]]
        for name in PEERS
    ]
    pairs += [
        (f"mixture, {row['schedule']}, seed {seed}", name, *_reserved(one, name))
        for row in mixture
        for seed, one in enumerate(row["runs"], 1)
        for name in PEERS
    ]
    pairs += [
        (f"MiniMalloc {row['name']}", "supermalloc", peer[row["name"]], row["height"])
        for row in hard
        if row["name"] in peer
    ]
    pairs += [
        (f"temporaries of {row['model']}", "XLA", row["stated"], row["planned"])
        for row in compiled
        if "planned" in row
    ]
    return Table(
        "Where a plan is more than 1 % above its bound, or a peer is lower",
        ("case", "peer", "excess"),
        (
            *((case, None, gap) for case, gap in gaps if gap > 0.01),
            *(
                (case, name, ours / theirs - 1)
                for case, name, theirs, ours in pairs
                if theirs < ours
            ),
        ),
        caption="excess: of our bytes over the bound, or over the peer's. Of instances of known "
        "optimum the worst of each kind.",
    )


def _reserved(one: dict, peer: str) -> tuple[int, int]:
    return one[peer]["reserved"], one["stweaver"]["reserved"]


def fallback(runs: list) -> float:
    """Reserved bytes of the fallback with reuse over without."""
    return ratio(*(sum(one[f"fallback_{kind}"] for one in runs) for kind in ("reuse", "static")))


def lost(runs: list, kind: str) -> int:
    """Fragmented bytes, summed over runs."""
    return sum(one[kind]["reserved"] - one[kind]["allocated"] for one in runs)


def reduction(runs: list, peer: str) -> float:
    """The part of a peer's fragmented bytes that ours avoids, of all runs together."""
    return 1 - ratio(lost(runs, "stweaver"), lost(runs, peer))


def ratio(part: float, whole: float) -> float:
    """``part / whole``; not a number without a whole."""
    return part / whole if whole else math.nan


def mean(values: list) -> float:
    """Mean; not a number of nothing."""
    return float(np.mean(values)) if values else math.nan
