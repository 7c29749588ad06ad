"""Timing with a clock that the test moves, and once with the real one."""

import collections
import gc
import inspect
import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.measure import time_ratio


class Clock:
    """Time that passes only when a function says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def task(self, name: str, *durations: float):
        """A function whose calls take the durations in turn, the last one for ever after."""
        waiting = list(durations)

        def run() -> None:
            self.now += waiting.pop(0) if len(waiting) > 1 else waiting[0]
            self.log.append(name)

        return run


def test_warm_up_is_left_out_and_ratios_are_exact() -> None:
    clock = Clock()
    slow, fast = clock.task("slow", 100.0, 0.75), clock.task("fast", 50.0, 0.25)
    timed = time_ratio(slow, fast, names=("slow", "fast"), rounds=4, min_seconds=0.0, clock=clock)
    assert timed.seconds.tolist() == [[0.75, 0.25]] * 4
    assert timed.median.tolist() == [0.75, 0.25]
    np.testing.assert_allclose(timed.ratio, [1.0, 1 / 3])
    assert timed.interquartile.tolist() == [0.0, 0.0]
    assert timed.rounds == 4
    assert "fast" in str(timed)
    assert "x0.333" in str(timed)


def test_ratios_are_taken_inside_each_round() -> None:
    clock = Clock()
    # Warm-up, calibration, then three rounds in which the machine slows down.
    a = clock.task("a", 9.0, 9.0, 1.0, 2.0, 4.0)
    b = clock.task("b", 9.0, 9.0, 4.0, 2.0, 4.0)
    timed = time_ratio(a, b, rounds=3, min_seconds=0.0, warmup=1, clock=clock)
    assert timed.ratios[:, 1].tolist() == [4.0, 1.0, 1.0]
    assert timed.ratio[1] == 1.0  # the ratio of the medians is 2
    assert timed.ratio_spread[:, 1].tolist() == [1.0, 2.5]
    assert timed.interquartile.tolist() == [1.5, 1.0]


@pytest.mark.parametrize("count", [2, 3, 4, 5, 10])
def test_each_one_follows_every_other_equally_often(count: int) -> None:
    clock = Clock()
    names = "abcdefghij"[:count]
    cycle = count if count % 2 == 0 else 2 * count
    tasks = [clock.task(name, 1.0) for name in names]
    time_ratio(*tasks, rounds=2 * cycle, min_seconds=0.0, warmup=1, clock=clock)
    taken = clock.log[2 * count :]
    rounds = [taken[start : start + count] for start in range(0, len(taken), count)]
    assert rounds[:cycle] == rounds[cycle:]
    assert all(sorted(one) == list(names) for one in rounds)
    places = collections.Counter((name, at) for one in rounds for at, name in enumerate(one))
    assert set(places.values()) == {2 * cycle // count}
    pairs = collections.Counter(pair for one in rounds for pair in itertools.pairwise(one))
    assert set(pairs.values()) == {2 * cycle // count}
    assert len(pairs) == count * (count - 1)
    assert pairs.total() == 2 * cycle * (count - 1)


def test_short_functions_are_called_often_enough() -> None:
    clock = Clock()
    short, long = clock.task("s", 0.25), clock.task("l", 8.0)
    timed = time_ratio(short, long, rounds=2, min_seconds=1.0, warmup=1, clock=clock)
    assert timed.calls == (4, 1)
    assert timed.seconds.tolist() == [[0.25, 8.0]] * 2


def test_waits_for_every_leaf_of_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[object] = []
    monkeypatch.setattr(jax, "block_until_ready", waited.append)
    clock = Clock()
    tick = clock.task("t", 1.0)
    results = [{"x": (1, [2])}, {"y": 3}]
    time_ratio(
        lambda: (tick(), results[0])[1],
        lambda: (tick(), results[1])[1],
        rounds=3, min_seconds=0.0, warmup=2, clock=clock,
    )  # fmt: skip
    assert all(waited.count(result) == 2 + 1 + 3 for result in results)


def test_collector_rests_and_returns_even_after_an_error() -> None:
    seen: list[bool] = []

    def fails() -> None:
        seen.append(gc.isenabled())
        time.sleep(1e-4)
        if not gc.isenabled():
            raise RuntimeError("in a round")

    with pytest.raises(RuntimeError, match="in a round"):
        time_ratio(fails, fails, min_seconds=0.0)
    assert seen[-1] is False
    assert gc.isenabled()


def test_real_clock_sees_more_work_and_excludes_compilation() -> None:
    x = jnp.ones((96, 96))
    once = jax.jit(lambda x: x @ x)
    often = jax.jit(lambda x: jax.lax.fori_loop(0, 1000, lambda _, y: jnp.tanh(y @ x), x))
    timed = time_ratio(lambda: once(x), lambda: {"y": often(x)}, rounds=5, min_seconds=2e-3)
    assert timed.ratio[1] > 5
    # Compiling takes tens of milliseconds, a call some microseconds.
    assert timed.median[0] < 0.02


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (1, {}, "needs two functions or more, got 1"),
        (2, {"names": ("a",)}, r"names=\('a',\) must be 2 different"),
        (2, {"names": ("a", "a")}, "must be 2 different"),
        (2, {"rounds": 0}, "rounds=0 must be at least 1"),
        (2, {"warmup": 0}, "warmup=0 must be at least 1"),
        (2, {"min_seconds": -1.0}, "min_seconds=-1.0 must be finite"),
        (2, {"min_seconds": float("nan")}, "min_seconds=nan must be finite"),
        (2, {"clock": lambda: 1.0}, "the clock did not advance during 0"),
    ],
)
def test_bad_values(arguments: int, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        time_ratio(*[lambda: None] * arguments, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 2.5}, "rounds=2.5 must be an integer"),
        ({"rounds": "3"}, "rounds='3' must be an integer"),
        ({"warmup": True}, "warmup=True must be an integer"),
        ({"min_seconds": "x"}, "min_seconds='x' must be a number"),
    ],
)
def test_options_of_the_wrong_kind_are_refused_before_anything_runs(options, message) -> None:
    calls: list[int] = []
    with pytest.raises(TypeError, match=message):
        inspect.unwrap(time_ratio)(*[lambda: calls.append(1)] * 2, **options)
    assert not calls


def test_function_that_needs_arguments() -> None:
    with pytest.raises(TypeError, match=r"function 1 needs arguments .*lambda: f\(x\)"):
        time_ratio(lambda: None, lambda x: x)
    with pytest.raises(TypeError):
        time_ratio(lambda: None, 3)
