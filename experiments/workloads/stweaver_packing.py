"""Hard instances of packing: published ones, ones of known optimum, and very large ones."""

import dataclasses
import importlib.util
import itertools
import multiprocessing
import resource
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
      Whether it was solved, in what time (compilation excluded); height and the height that is
      proved to be needed.
    """
    trace = read_minimalloc(MINIMALLOC / f"{name}.{CAPACITY}.csv")
    made = plan(trace, planner="exact", time_limit=seconds, capacity=CAPACITY, seed=seed)
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
        "seconds": made.seconds,
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


@dataclasses.dataclass(frozen=True)
class Cut:
    """A rectangle of known optimum, cut into requests.

    Attributes:
      requests: how many.
      duration: length in time; a short one makes many begin and end together.
      pinwheels: the share of cuts that no straight line follows.
      seed: of the cuts.
    """

    requests: int
    duration: int
    pinwheels: float
    seed: int


def known_optimum(cut: Cut, seconds: float, seed: int) -> dict:
    """Packs an instance that was cut out of a full rectangle."""
    unit, rows = 1024, 1024
    trace = cut_rectangle(
        cut.requests,
        height=unit * rows,
        unit=unit,
        duration=cut.duration,
        pinwheels=cut.pinwheels,
        seed=cut.seed,
    )
    made = plan(trace, time_limit=seconds, capacity=unit * rows, seed=seed)
    check(trace, made)
    return {
        **dataclasses.asdict(cut),
        "solved": made.height == unit * rows,
        "took": made.seconds,
        "gap": made.height / (unit * rows) - 1,
    }


def patiently(cuts: tuple[Cut, ...], seconds: float) -> list[dict]:
    """``known_optimum`` of several instances, two at a time in processes of their own.

    A planner uses one core; what compiling takes is outside its limit.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=2, mp_context=context) as pool:
        return list(pool.map(known_optimum, cuts, itertools.repeat(seconds), itertools.repeat(0)))


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
