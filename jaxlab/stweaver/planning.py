"""``plan``: one door to all planners."""

import time

import numpy as np

from jaxlab.stweaver.bound import lower_bound
from jaxlab.stweaver.lifetimes import Lifetimes
from jaxlab.stweaver.orders import ORDERS
from jaxlab.stweaver.plan import Plan
from jaxlab.stweaver.trace import Trace

PLANNERS = (
    "portfolio",
    "stweaver",
    "stweaver_official",
    "greedy",
    *(f"greedy:{order}" for order in ORDERS),
    "search",
    "exact",
)
_SECONDS = 10.0


def plan(
    trace: Trace,
    *,
    planner: str = "portfolio",
    time_limit: int | float | None = None,
    capacity: int | None = None,
    alignment: int = 1,
    seed: int = 0,
) -> Plan:
    """Gives every request of a trace an address such that live requests never overlap.

    Args:
      trace: the requests, dynamic ones included (leave them out with ``Trace.select``).
      planner: one of

        - ``"portfolio"``: all of the below while time lasts, the lowest plan wins;
        - ``"stweaver"``: the paper's: phase groups, fusion, size classes;
        - ``"stweaver_official"``: the official code's default, a baseline; no periodic traces;
        - ``"greedy"``: best-gap placement, best of the orders ``"greedy:size"``, ``":area"``,
          ``":duration"``, ``":conflict"``, ``":start"``, ``":load"``;
        - ``"search"``: iterated local search over the order of placement;
        - ``"exact"``: branch and bound, proves optima and refutes capacities (small traces).
      time_limit: seconds for search, exact and portfolio, 10 by default; the others ignore it.
        What compiling takes, the first time after an installation, comes on top.
      capacity: be content with a plan of at most this many bytes. A lower bound above it in the
        result proves that there is none.
      alignment: bytes; sizes are rounded up to, and offsets are, multiples of it.
      seed: of the random choices of search, exact and portfolio.

    Returns:
      The plan. Its height may exceed the capacity. The same trace with its rows in another order
      gets the same height from every planner that is not stopped by the clock.

    Raises:
      ValueError: an argument is out of range, or the trace is too large for ``"exact"``.

    Example:
      >>> trace = Trace.of(size=[3, 4, 5], start=[0, 2, 4], end=[3, 5, 6])
      >>> best = plan(trace)
      >>> best.height, best.proven_optimal
      (9, True)
    """
    from jaxlab.stweaver.portfolio import compiled, offsets_and_bound  # numba loads slowly

    if planner not in PLANNERS:
        raise ValueError(f"plan: planner={planner!r} is not one of {', '.join(PLANNERS)}.")
    if time_limit is not None and not time_limit > 0:
        raise ValueError(f"plan: time_limit={time_limit} must be positive seconds, or None.")
    if capacity is not None and capacity < 0:
        raise ValueError(f"plan: capacity={capacity} must not be negative.")
    compiled(planner)
    begin = time.perf_counter()
    lives = Lifetimes.of(trace, alignment)
    lower = lower_bound(trace, alignment=alignment)
    deadline = begin + (_SECONDS if time_limit is None else time_limit)
    offsets, lower = offsets_and_bound(
        trace, lives, planner, lower=lower, capacity=capacity, deadline=deadline, seed=seed
    )
    out = np.zeros(len(trace), np.int64)
    out[lives.rows] = offsets
    height = int((offsets + lives.size).max(initial=0))
    return Plan(out, height, lower, planner, time.perf_counter() - begin)
