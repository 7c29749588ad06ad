"""Training runs from shapes: what allocators, plans and the runtime make of their memory."""

import dataclasses

from jaxlab.stweaver import (
    MODELS,
    Model,
    Parallelism,
    Plan,
    Replay,
    Runtime,
    Trace,
    fragmentation_reduction,
    largest_microbatch,
    plan,
    schedule_trace,
    simulate,
    static_part,
)

BASELINES = ("caching", "expandable", "gmlake")
PEERS = (*BASELINES, "gmlake 64")


@dataclasses.dataclass(frozen=True)
class Training:
    """One rank of a training job.

    Attributes:
      model: one of ``jaxlab.stweaver.MODELS``.
      parallelism: how it is trained; its schedule is replaced.
      layers: blocks of the model; 0 keeps the published number.
    """

    model: str
    parallelism: Parallelism
    layers: int = 0

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise ValueError(f"model={self.model!r} is unknown; choose from {', '.join(MODELS)}.")
        if self.layers < 0:
            raise ValueError(f"layers={self.layers} is negative; 0 keeps the published number.")

    @property
    def shapes(self) -> Model:
        """The model, with fewer blocks if so asked."""
        model = MODELS[self.model]
        return dataclasses.replace(model, layers=self.layers) if self.layers else model

    def how(self, schedule: str, **changes: int) -> Parallelism:
        """The parallelism under a schedule."""
        return dataclasses.replace(self.parallelism, schedule=schedule, **changes)

    def trace(self, schedule: str, *, iterations: int = 2, seed: int = 0, **changes: int) -> Trace:
        """Iterations: the first, which differs, and others that are alike but for the routing."""
        how = self.how(schedule, **changes)
        return schedule_trace(self.shapes, how, iterations=iterations, seed=seed)


def planned(trace: Trace) -> Plan:
    """A plan by the paper's planner, in which the clock plays no part."""
    return plan(trace, planner="stweaver")


def efficiency(training: Training, schedule: str, iterations: int, **changes: int) -> dict:
    """Replays a job through the baselines and through the runtime of a plan of two iterations.

    Args:
      training: the job.
      schedule: letters, as in ``Parallelism``.
      iterations: how many are replayed.
      **changes: of the parallelism.

    Returns:
      Gap of the plan, peaks and efficiencies by allocator, the fragmentation that ours avoids.
    """
    profile = training.trace(schedule, **changes)
    made = planned(static_part(profile))
    run = training.trace(schedule, iterations=iterations, **changes)
    replays = {name: _simulated(run, name) for name in PEERS}
    ours = Runtime.of(profile, made).replay(run)
    return {
        "model": training.model,
        "schedule": schedule,
        "requests": len(profile),
        "gap": made.gap,
        "fallback": ours.counters["fallback"],
        "allocators": {name: _peaks(one) for name, one in {**replays, "stweaver": ours}.items()},
        "reduction": {name: fragmentation_reduction(ours, replays[name]) for name in BASELINES},
    }


def other_seeds(training: Training, schedule: str, seeds: int, iterations: int) -> dict:
    """Plans a mixture of experts once, on seed 0, and replays other routings.

    Args:
      training: the job.
      schedule: letters, as in ``Parallelism``.
      seeds: how many; 1, 2, ...
      iterations: how many are replayed.

    Returns:
      Peaks by allocator and seed, without reuse of idle ranges ("static") too; bytes of the
      fallback with and without.
    """
    profile = training.trace(schedule)
    runtime = Runtime.of(profile, planned(static_part(profile)))
    runs = []
    for seed in range(1, seeds + 1):
        run = training.trace(schedule, iterations=iterations, seed=seed)
        full, static = runtime.replay(run), runtime.replay(run, reuse=False)
        replays = {name: _simulated(run, name) for name in PEERS}
        runs.append(
            {
                name: _peaks(one)
                for name, one in {**replays, "static": static, "stweaver": full}.items()
            }
            | {
                "fallback_reuse": full.counters["fallback_reserved"],
                "fallback_static": static.counters["fallback_reserved"],
                "reused": full.counters["reused"],
                "no_room": full.counters["no_room"],
            }
        )
    return {
        "schedule": schedule,
        "requests": len(profile),
        "dynamic": int(profile.dynamic.sum()),
        "runs": runs,
    }


def largest(training: Training, schedule: str, capacity: int, limit: int) -> dict[str, int]:
    """The largest microbatch that each allocator trains within a capacity."""
    names = (*BASELINES, "stweaver")
    return {
        name: largest_microbatch(
            training.shapes,
            training.how(schedule),
            capacity,
            allocator=name,
            planner=planned,
            limit=limit,
        )
        for name in names
    }


def curves(training: Training, schedule: str, points: int = 400) -> dict:
    """Reserved and allocated bytes over time, as the peaks of equal stretches of events."""
    trace = training.trace(schedule)
    runtime = Runtime.of(trace, planned(static_part(trace)))
    replays = [*(simulate(trace, name) for name in BASELINES), runtime.replay(trace)]
    return {
        "title": f"{training.model}, {schedule}",
        "curves": {
            replay.allocator: {
                "reserved": _thinned(replay.reserved, points),
                "allocated": _thinned(replay.allocated, points),
            }
            for replay in replays
        },
    }


def occupancy(training: Training, schedule: str) -> dict:
    """One steady iteration and where its plan puts every request."""
    how = training.how(schedule)
    trace = schedule_trace(training.shapes, how, iterations=3, periodic=True)
    made = planned(trace)
    return {
        "title": f"{training.model}, {schedule}: one iteration on one rank",
        "period": trace.period,
        "start": trace.start,
        "end": trace.end,
        "size": trace.size,
        "offset": made.offsets,
        "phase": trace.phase_start,
        "height": made.height,
        "bound": made.lower_bound,
    }


def _simulated(trace: Trace, name: str) -> Replay:
    """A baseline's replay; "gmlake 64" stitches from 64 MiB on, the paper's other setting."""
    if name == "gmlake 64":
        return simulate(trace, "gmlake", stitch_above=64 << 20)
    return simulate(trace, name)


def _peaks(replay: Replay) -> dict[str, float]:
    return {
        "efficiency": replay.efficiency,
        "reserved": replay.peak_reserved,
        "allocated": replay.peak_allocated,
    }


def _thinned(curve, points: int) -> list[int]:
    step = max(1, -(-len(curve) // points))
    return [int(curve[at : at + step].max()) for at in range(0, len(curve), step)]
