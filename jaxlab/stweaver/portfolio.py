"""Which planners run for how long, and the lowest of their plans."""

import functools
import time

import numpy as np
from jaxtyping import Int64

from jaxlab.stweaver.exact import exact, suits
from jaxlab.stweaver.greedy import greedy
from jaxlab.stweaver.improve import improve
from jaxlab.stweaver.lifetimes import Lifetimes
from jaxlab.stweaver.official import official
from jaxlab.stweaver.orders import ORDERS
from jaxlab.stweaver.stweaver import stweaver
from jaxlab.stweaver.tiling import is_full, tile
from jaxlab.stweaver.trace import Trace

_TILE = 0.5  # share of the time for a plan without a gap, where nothing else can be optimal
_CLIMB = 0.1  # share of the portfolio's time before the exact planner takes over


def offsets_and_bound(
    trace: Trace,
    lives: Lifetimes,
    planner: str,
    *,
    lower: int,
    capacity: int | None,
    deadline: float,
    seed: int,
) -> tuple[Int64[np.ndarray, " live"], int]:
    """Runs one of the planners of ``plan``.

    Args:
      trace: the requests with their phases.
      lives: the same, as lifetimes.
      planner: a name that ``plan`` knows.
      lower: a height that no plan undercuts.
      capacity: a height that is low enough, or None.
      deadline: value of ``time.perf_counter()`` at which a search stops.
      seed: of the random choices.

    Returns:
      int64 ``[live]``, bytes; and the lower bound, raised if a capacity was refuted.

    Raises:
      ValueError: the trace is too large for "exact", or periodic for "stweaver_official".
    """
    goal = lower if capacity is None else max(lower, capacity)
    if planner == "exact" and not suits(lives):
        raise ValueError(
            f"plan: {len(trace)} requests are too many for planner='exact'; use 'portfolio'."
        )
    if planner == "stweaver":
        offsets = stweaver(trace, lives)
    elif planner == "stweaver_official":
        offsets = official(lives)
    elif planner.startswith("greedy:"):
        offsets = greedy(lives, planner.removeprefix("greedy:"))
    else:
        use_exact = planner == "exact" or (planner == "portfolio" and suits(lives))
        offsets, in_vain = _quick(trace, lives, planner, goal, deadline), False
        if use_exact and _height(lives, offsets) > goal and is_full(lives, goal):
            now = time.perf_counter()
            until = now + _TILE * max(deadline - now, 0.0)
            tiled = tile(lives, goal, deadline=until, seed=seed)
            offsets = offsets if tiled is None else tiled
            in_vain = tiled is None and time.perf_counter() >= until
        if planner in ("search", "portfolio"):
            share = _CLIMB if use_exact else 1.0
            until = time.perf_counter() + share * max(deadline - time.perf_counter(), 0.0)
            offsets = improve(lives, offsets, goal=goal, deadline=until, seed=seed)
        if use_exact:
            # where tiles were sought in vain the rest of the time is better spent on steps down
            aim = None if in_vain else capacity
            offsets, lower = exact(
                lives, lower=lower, offsets=offsets, capacity=aim, deadline=deadline, seed=seed
            )
    return offsets, lower


@functools.cache
def compiled(planner: str) -> None:
    """Compiles what a planner runs, or loads it, so that a time limit is one of planning alone.

    Five arcs around a ring need height 3 where their load is 2, so every planner has to search.

    Args:
      planner: a name that ``plan`` knows.
    """
    count, period = np.arange(5), None if planner == "stweaver_official" else 5
    ring = Trace.of(np.ones(5, np.int64), count, count + 2, period=period)
    lives = Lifetimes.of(ring)
    stacked, ages = np.arange(5), time.perf_counter() + 3600
    if planner in ("search", "portfolio"):
        improve(lives, stacked, goal=2, deadline=ages, rounds=1)
    if planner in ("exact", "portfolio"):
        exact(lives, lower=2, offsets=stacked, deadline=ages)
        pair = Lifetimes.of(Trace.of([1, 1], [0, 0], [1, 1]))
        tile(pair, 2, deadline=ages)
    if planner in ("stweaver", "portfolio"):  # two groups of phases that can be fused
        columns = {
            "phase_start": [0, 0, 1, 1],
            "phase_end": [1, 1, 2, 2],
            "phases": ("a", "b", "c"),
        }
        groups = Trace.of([2, 3, 2, 3], [0, 0, 3, 3], [4, 4, 6, 6], **columns)
        stweaver(groups, Lifetimes.of(groups))
    quick = "greedy" if planner in ("search", "exact") else planner
    offsets_and_bound(ring, lives, quick, lower=3, capacity=6, deadline=ages, seed=0)


def _quick(
    trace: Trace, lives: Lifetimes, planner: str, goal: int, deadline: float
) -> Int64[np.ndarray, " live"]:
    """The lowest of the plans that take no search: the paper's first, then the greedy ones."""
    best = stweaver(trace, lives) if planner == "portfolio" else greedy(lives, ORDERS[0])
    for order in ORDERS if planner == "portfolio" else ORDERS[1:]:
        limited = planner != "greedy" and time.perf_counter() > deadline
        if _height(lives, best) <= goal or limited:
            break
        best = min(best, greedy(lives, order), key=lambda offsets: _height(lives, offsets))
    return best


def _height(lives: Lifetimes, offsets: Int64[np.ndarray, " live"]) -> int:
    return int((offsets + lives.size).max(initial=0))
