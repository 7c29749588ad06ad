"""Hard instances of packing: published ones, ones of known optimum, and very large ones."""

import dataclasses
import importlib.util
import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from experiments.workloads.stweaver_training import Training, planned
from jaxlab.stweaver import (
    Trace,
    check,
    cut_rectangle,
    lower_bound,
    plan,
    read_minimalloc,
    schedule_trace,
)

CAPACITY = 1_048_576
MINIMALLOC = Path(__file__).parents[2] / "tests" / "data" / "minimalloc"


def minimalloc(name: str, seconds: float, seed: int) -> dict:
    """Asks for one of MiniMalloc's challenging instances within its capacity.

    Args:
      name: a letter from A to K.
      seconds: limit.
      seed: of the search.

    Returns:
      Whether it was solved, in what time; height and the height that is proved to be needed.
    """
    _compile_kernels()
    trace = read_minimalloc(MINIMALLOC / f"{name}.{CAPACITY}.csv")
    started = time.perf_counter()
    made = plan(trace, planner="exact", time_limit=seconds, capacity=CAPACITY, seed=seed)
    took = time.perf_counter() - started
    check(trace, made)
    best = made
    if made.height > lower_bound(trace):
        lower = plan(trace, planner="exact", time_limit=seconds, seed=seed)
        check(trace, lower)
        best = min(made, lower, key=lambda one: one.height)
        best = dataclasses.replace(best, lower_bound=max(made.lower_bound, lower.lower_bound))
    return {
        "name": name,
        "buffers": len(trace),
        "load": lower_bound(trace),
        "solved": made.height <= CAPACITY,
        "seconds": took,
        "height": best.height,
        "bound": best.lower_bound,
    }


def peer_here() -> bool:
    """Whether omnimalloc is installed."""
    return importlib.util.find_spec("omnimalloc") is not None


def supermalloc(name: str, seconds: float) -> int:
    """Height that omnimalloc's supermalloc reaches on the same instance."""
    import omnimalloc
    from omnimalloc.allocators.supermalloc import SupermallocAllocator

    trace = read_minimalloc(MINIMALLOC / f"{name}.{CAPACITY}.csv")
    columns = (trace.id, trace.size, trace.start, trace.end)
    buffers = tuple(
        omnimalloc.Allocation(id=str(key), size=int(size), start=int(start), end=int(end))
        for key, size, start, end in zip(*columns, strict=True)
    )
    placed = SupermallocAllocator(timeout=seconds).allocate(buffers)
    return max(one.offset + one.size for one in placed)


def known_optima(sizes: tuple[int, ...], seconds: float, total: float, seed: int) -> list[dict]:
    """Samples instances of known optimum, sizes in turns, until the time is used up."""
    rows: list[dict] = []
    started = time.perf_counter()
    while sizes and (left := total - (time.perf_counter() - started)) > 0:
        if rows and left < seconds:
            break  # every instance gets the whole limit, or is not counted
        rows.append(known_optimum(sizes[len(rows) % len(sizes)], seconds, seed + len(rows)))
    return rows


def known_optimum(requests: int, seconds: float, seed: int) -> dict:
    """Packs an instance that was cut out of a full rectangle."""
    _compile_kernels()
    unit, rows = 1024, 1024
    trace = cut_rectangle(requests, height=unit * rows, unit=unit, seed=seed)
    made = plan(trace, time_limit=seconds, capacity=unit * rows, seed=seed)
    check(trace, made)
    return {
        "requests": requests,
        "solved": made.height == unit * rows,
        "seconds": made.seconds,
        "gap": made.height / (unit * rows) - 1,
    }


@dataclasses.dataclass(frozen=True)
class Published:
    """A row of the paper's Table 2.

    Attributes:
      training: our job of the same model.
      schedule: the paper's letter.
      requests: how many the paper planned.
      seconds: how long that took there.
    """

    training: Training
    schedule: str
    requests: int
    seconds: float


def steady(training: Training, schedule: str, requests: int) -> Trace:
    """One steady iteration of at least so many requests, by adding microbatches."""
    group = training.parallelism.pipeline

    def of(groups: int) -> Trace:
        how = training.how(schedule, microbatches=groups * group)
        return schedule_trace(training.shapes, how, iterations=3, periodic=True)

    few, more = len(of(2)), len(of(4))
    return of(max(1, 2 + -(-2 * (requests - few) // (more - few))))


def plan_time(training: Training, schedule: str, requests: int) -> dict:
    """Plans one iteration of about as many requests as the paper has."""
    trace = steady(training, schedule, requests)
    made = planned(trace)
    check(trace, made)
    return {
        "model": training.model,
        "schedule": schedule,
        "requests": len(trace),
        "sizes": int(np.unique(trace.size).size),
        "phases": int(np.unique(trace.phase_start).size),
        "wraps": int((trace.end > trace.period).sum()),
        "seconds": made.seconds,
        "gap": made.gap,
    }


def in_fresh_process(training: Training, schedule: str, requests: int) -> dict:
    """``plan_time`` in a process of its own, and the most memory that it ever held.

    The kernels are compiled before, on a smaller trace.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(_measured, training, schedule, requests).result()


def _measured(training: Training, schedule: str, requests: int) -> dict:
    planned(steady(training, schedule, 1))
    result = plan_time(training, schedule, requests)
    return {**result, "peak": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def _compile_kernels() -> None:
    """Five arcs on a ring need height 3 where their load is 2: every planner has to be asked."""
    ring = Trace.of([1] * 5, [0, 1, 2, 3, 4], [2, 3, 4, 5, 6], period=5)
    plan(ring, planner="search", time_limit=0.1)
    if plan(ring, planner="exact", time_limit=60).lower_bound != 3:
        raise RuntimeError("the exact planner did not refute five arcs in two units of height.")
