"""What a plan is worth: efficiency beside today's allocators, ablations, and the largest batch."""

import dataclasses
from collections.abc import Callable, Iterable

from jaxlab.stweaver.models import Model
from jaxlab.stweaver.plan import Plan
from jaxlab.stweaver.replay import Replay, simulate
from jaxlab.stweaver.runtime import Runtime, static_part
from jaxlab.stweaver.schedule import Parallelism, schedule_trace
from jaxlab.stweaver.trace import Trace

Planner = Callable[[Trace], Plan]


def fragmentation_reduction(ours: Replay, baseline: Replay) -> float:
    """The part of a baseline's fragmented memory that another allocator avoids.

    Args:
      ours: replay of the better allocator.
      baseline: replay of the other one, on the same requests.

    Returns:
      ``1 - fragmented(ours) / fragmented(baseline)``, where fragmented memory is peak reserved less
      peak allocated bytes; 0 if neither has any, minus infinity if only ours has.
    """
    mine, theirs = (replay.peak_reserved - replay.peak_allocated for replay in (ours, baseline))
    if theirs == 0:
        return 0.0 if mine == 0 else -float("inf")
    return 1 - mine / theirs


def compare(
    run: Trace,
    planner: Planner,
    *,
    profile: Trace | None = None,
    allocators: Iterable[str] = ("caching", "expandable", "gmlake"),
) -> dict[str, Replay]:
    """Replays a run through online allocators and through the runtime of a plan.

    Args:
      run: the requests.
      planner: makes a plan of a trace.
      profile: the requests that the plan is made from; None is the run itself.
      allocators: names, as in ``simulate``.

    Returns:
      A replay for each allocator, and the runtime's as "stweaver".
    """
    profile = run if profile is None else profile
    runtime = Runtime.of(profile, planner(static_part(profile)))
    return {name: simulate(run, name) for name in allocators} | {"stweaver": runtime.replay(run)}


def ablation(run: Trace, planner: Planner, *, profile: Trace | None = None) -> dict[str, Replay]:
    """What each part of the runtime contributes.

    Args:
      run: the requests.
      planner: makes a plan of a trace.
      profile: the requests that the plan is made from; None is the run itself.

    Returns:
      Replays: "none" (the caching allocator alone), "static" (planned addresses, no reuse of holes)
      and "full".
    """
    profile = run if profile is None else profile
    runtime = Runtime.of(profile, planner(static_part(profile)))
    return {
        "none": simulate(run, "caching"),
        "static": runtime.replay(run, reuse=False),
        "full": runtime.replay(run),
    }


def largest_microbatch(
    model: Model | str,
    parallelism: Parallelism,
    capacity: int,
    *,
    allocator: str = "stweaver",
    planner: Planner | None = None,
    limit: int = 1024,
    iterations: int = 3,
) -> int:
    """The largest microbatch that trains on a device, by bisection.

    Args:
      model: a model or its name.
      parallelism: how it is trained; its ``microbatch`` is replaced.
      capacity: bytes of the device.
      allocator: as in ``simulate``, or "stweaver" for a plan of the same requests.
      planner: makes a plan of a trace; for "stweaver".
      limit: largest microbatch that is tried.
      iterations: iterations that must survive; a plan is made from the first two.

    Returns:
      Samples; 0 if not even one fits. It is assumed that what fits, fits with fewer samples too.

    Raises:
      ValueError: "stweaver" without a planner.
    """
    if allocator == "stweaver" and planner is None:
        raise ValueError("largest_microbatch: 'stweaver' needs a planner.")

    def fits(samples: int) -> bool:
        how = dataclasses.replace(parallelism, microbatch=samples)
        trace = schedule_trace(model, how, iterations=iterations)
        if allocator != "stweaver" or planner is None:
            return simulate(trace, allocator, capacity=capacity).survived
        profile = schedule_trace(model, how, iterations=2)
        plan = planner(static_part(profile))
        if plan.height > capacity:
            return False
        replay = Runtime.of(profile, plan).replay(trace, capacity=capacity)
        return replay.survived and replay.peak_reserved <= capacity

    fitting, failing = 0, limit + 1
    probe = 1
    while failing - fitting > 1:
        if fits(probe):
            fitting = probe
            probe = min(2 * probe, (fitting + failing) // 2) if failing > limit else 0
        else:
            failing = probe
            probe = 0
        probe = probe or (fitting + failing) // 2
    return fitting
