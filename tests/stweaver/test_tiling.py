"""Plans without a gap: found where there are some, refuted where there are none."""

import time
import types

import numpy as np
import pytest

from jaxlab.stweaver import Trace, check, cut_rectangle, plan
from jaxlab.stweaver.branch import FOUND, UNDECIDED
from jaxlab.stweaver.exact import Solver
from jaxlab.stweaver.lifetimes import Lifetimes
from jaxlab.stweaver.tiling import is_full, tile


def tiled(trace: Trace, capacity: int, seconds: float = 60.0) -> bool:
    offsets = tile(Lifetimes.of(trace), capacity, deadline=time.perf_counter() + seconds)
    if offsets is not None:
        check(trace, types.SimpleNamespace(offsets=offsets, height=capacity))
    return offsets is not None


def full_trace(seed: int) -> tuple[Trace, int]:
    """At times some requests end and others of the same sum begin: not always a tiling."""
    random = np.random.default_rng(seed)
    capacity = int(random.integers(20, 60))
    live = [(size, 0) for size in parts(random, capacity)]
    rows: list[tuple[int, int, int]] = []
    for now in range(1, 12):
        leaving = random.random(len(live)) < 0.3
        rows += [(*one, now) for one, left in zip(live, leaving, strict=True) if left]
        live = [one for one, left in zip(live, leaving, strict=True) if not left]
        live += [(size, now) for size in parts(random, capacity - sum(s for s, _ in live))]
    rows += [(*one, 12) for one in live]
    return Trace.of(*(list(column) for column in zip(*rows, strict=True))), capacity


def parts(random: np.random.Generator, total: int) -> list[int]:
    found = []
    while total:
        found.append(int(random.integers(1, total + 1)))
        total -= found[-1]
    return found


def test_a_tiling_is_found_if_and_only_if_there_is_one() -> None:
    agreed = []
    for seed in range(40):
        trace, capacity = full_trace(seed)
        lives = Lifetimes.of(trace)
        assert is_full(lives, capacity)
        answer, _ = Solver(lives, seed=0).attempt(capacity, time.perf_counter() + 0.3)
        if answer != UNDECIDED:
            agreed.append(answer == FOUND)
            assert tiled(trace, capacity, seconds=5.0) == agreed[-1], seed
    assert agreed.count(True) > 5
    assert agreed.count(False) > 1


@pytest.mark.parametrize("pinwheels", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("requests", [500, 2000])
def test_cut_rectangles_are_put_together(requests: int, pinwheels: float) -> None:
    trace = cut_rectangle(requests, height=1 << 20, unit=1 << 10, pinwheels=pinwheels, seed=11)
    assert len(trace) == requests
    assert is_full(Lifetimes.of(trace), 1 << 20)
    assert tiled(trace, 1 << 20)


def test_the_portfolio_uses_it() -> None:
    trace = cut_rectangle(600, height=1 << 20, unit=1 << 10, pinwheels=0.3, seed=2)
    made = plan(trace, time_limit=30)
    check(trace, made)
    assert made.proven_optimal


def test_what_is_not_full_or_wraps_is_left_alone() -> None:
    assert not is_full(Lifetimes.of(Trace.of([1, 1], [0, 0], [2, 1])), 2)
    assert not is_full(Lifetimes.of(Trace.of([1], [0], [2], period=2)), 1)
    assert not is_full(Lifetimes.of(Trace.of([], [], [])), 0)


def test_pinwheels_are_shares() -> None:
    with pytest.raises(ValueError, match="pinwheels"):
        cut_rectangle(5, height=64, pinwheels=1.5)
