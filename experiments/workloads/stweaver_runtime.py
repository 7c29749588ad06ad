"""The runtime of a plan: its price a request, how it recovers, and that it never overlaps."""

import dataclasses
import statistics
import time
import types

import numpy as np

from experiments.workloads.stweaver_training import Training, planned
from jaxlab.stweaver import Runtime, Trace, check, schedule_trace, simulate, static_part


def price(training: Training, schedule: str, rounds: int) -> dict:
    """Nanoseconds a request: the runtime and the caching simulator in turns on the same trace.

    Small and dynamic requests are left out: every one that is served follows the plan.
    """
    trace = static_part(training.trace(schedule))
    runtime = Runtime.of(trace, planned(trace))
    contenders = {
        "runtime": lambda: runtime.replay(trace),
        "caching": lambda: simulate(trace, "caching"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for contender in contenders.values():
        contender()
    for _ in range(rounds):
        for name, contender in contenders.items():
            started = time.perf_counter()
            contender()
            seconds[name].append(time.perf_counter() - started)
    middle = {name: statistics.median(times) / len(trace) for name, times in seconds.items()}
    return {
        "requests": len(trace),
        "planned": runtime.replay(trace).counters["planned"],
        "runtime_ns": 1e9 * middle["runtime"],
        "caching_ns": 1e9 * middle["caching"],
    }


def surprises(training: Training, schedule: str, trials: int, seed: int) -> list[dict]:
    """Inserts or deletes one request at random places and counts the later ones that still hit.

    Returns:
      For every trial the share of later requests at their planned addresses, with the matcher that
      finds its place again and with one that only counts, as the paper's does.
    """
    profile = static_part(training.trace(schedule))
    runtime = Runtime.of(profile, planned(profile))
    random = np.random.default_rng(seed)
    rows = []
    for trial in range(trials):
        place = int(random.integers(len(profile) // 20, len(profile) * 9 // 10))
        inserted = trial % 2 == 0
        run = _with_extra(profile, place, random) if inserted else _without(profile, place)
        after = place + 1 if inserted else place
        expected = runtime.offsets[place if inserted else place + 1 :]
        hit = {
            again: np.mean(runtime.replay(run, resynchronize=again).address[after:] == expected)
            for again in (True, False)
        }
        rows.append(
            {
                "change": "inserted" if inserted else "deleted",
                "place": place,
                "resynchronized": hit[True],
                "counted": hit[False],
            }
        )
    return rows


def dynamic_overlaps(training: Training, schedule: str, requests: int) -> dict:
    """Replays many dynamic requests and looks for two live ones that share a byte.

    Returns:
      How many dynamic requests, how many found idle ranges, whether an independent sweep of all
      addresses finds an overlap.
    """
    how = training.how(schedule)
    profile = schedule_trace(training.shapes, how, iterations=2)
    each = int(profile.dynamic.sum()) // 2
    run = schedule_trace(training.shapes, how, iterations=max(2, -(-requests // each)), seed=1)
    replay = Runtime.of(profile, planned(static_part(profile))).replay(run)
    served = replay.address >= 0
    part = run.select(served)
    top = int((replay.address + run.size).max())
    try:
        check(part, types.SimpleNamespace(offsets=replay.address[served], height=top))
        collision = ""
    except ValueError as error:
        collision = str(error)
    return {
        "dynamic": int(run.dynamic.sum()),
        "requests": len(run),
        "static": int((~run.dynamic & (run.size > 512)).sum()),
        "unserved": int((~served & (run.size > 0)).sum()),
        "counters": replay.counters,
        "collision": collision,
    }


def _without(trace: Trace, row: int) -> Trace:
    return trace.select(np.arange(len(trace)) != row)


def _with_extra(trace: Trace, row: int, random: np.random.Generator) -> Trace:
    """One more request right before a row, of a size that is in the trace, for a short while."""
    columns = {
        field.name: np.insert(getattr(trace, field.name), row, getattr(trace, field.name)[row])
        for field in dataclasses.fields(trace)
        if isinstance(getattr(trace, field.name), np.ndarray)
    }
    columns["id"] = np.arange(len(trace) + 1).astype(str)
    columns["size"][row] = random.choice(trace.size)
    for name in ("start", "end"):
        columns[name] = 2 * columns[name]  # room between the events; only their order matters
    columns["start"][row] -= 1
    columns["end"][row] = columns["start"][row] + 2 * int(random.integers(1, 50))
    return dataclasses.replace(trace, **columns)
