"""The runtime: planned requests hit the plan, surprises are survived, bytes are never shared."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlab.stweaver import Plan, Replay, Runtime, Trace, simulate, static_part, unroll
from jaxlab.stweaver import intervals as free_ranges
from jaxlab.stweaver.reuse import layer_spans, reusable
from tests.oracles.overlaps import collision
from tests.stweaver.scripts import script

KIB = 1 << 10


def runtime_of(profile: Trace) -> Runtime:
    """A runtime on a simple valid plan: best fit, or first fit for periodic traces."""
    static = static_part(profile)
    if profile.period is None:
        packed = simulate(static, "best_fit")
        return Runtime(profile, np.maximum(packed.address, 0), packed.peak_reserved)
    offsets = np.zeros(len(static), np.int64)
    for row in range(len(static)):
        address = 0
        for other in sorted(range(row), key=lambda i: offsets[i]):
            meet = any(
                max(static.start[row], static.start[other] + shift)
                < min(static.end[row], static.end[other] + shift)
                for shift in (-static.period, 0, static.period)
            )
            if meet and offsets[other] < address + static.size[row]:
                address = max(address, offsets[other] + static.size[other])
        offsets[row] = address
    return Runtime(profile, offsets, int((offsets + static.size).max(initial=0)))


def training_like(count: int, seed: int, *, phases: bool = False, distinct: int = 30) -> Trace:
    """A long trace of few distinct sizes, in layers that repeat, with frees like a stack."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 4000, distinct) * KIB
    block = rng.integers(0, distinct, 37)
    size = sizes[np.resize(block, count)]
    size[rng.random(count) < 0.05] = 300
    start = np.arange(count) * 3
    life = np.where(
        rng.random(count) < 0.3, rng.integers(1, 900, count), rng.integers(1, 30, count)
    )
    codes = np.arange(count) // 100 if phases else np.full(count, -1)
    return Trace.of(
        size=size,
        start=start,
        end=start + life,
        phase_start=codes,
        phase_end=codes,
        phases=[f"{i}F" for i in range(count // 100 + 1)] if phases else (),
    )


def without(trace: Trace, row: int) -> Trace:
    return trace.select(np.arange(len(trace)) != row)


def with_extra(trace: Trace, row: int, size: int) -> Trace:
    """One more request right before a row."""
    columns = {
        field.name: np.insert(getattr(trace, field.name), row, getattr(trace, field.name)[row])
        for field in dataclasses.fields(trace)
        if isinstance(getattr(trace, field.name), np.ndarray)
    }
    columns["id"] = np.arange(len(trace) + 1).astype(str)
    columns["size"][row] = size
    columns["start"][row] -= 1
    columns["end"][row] = columns["start"][row] + 40
    return dataclasses.replace(trace, **columns)


def served(replay: Replay) -> int:
    return sum(replay.counters[name] for name in ("planned", "reused", "slots", "fallback"))


# The profiled program itself.


@given(
    rows=st.lists(
        st.tuples(st.integers(0, 5000), st.integers(0, 40), st.integers(0, 20)), max_size=40
    )
)
def test_the_profiled_trace_never_falls_back(rows: list[tuple[int, int, int]]) -> None:
    size, start, life = ([row[i] for row in rows] for i in range(3))
    trace = Trace.of(size=size, start=start, end=[a + b for a, b in zip(start, life, strict=True)])
    runtime = runtime_of(trace)
    replay = runtime.replay(trace)
    assert replay.counters["fallback"] == 0
    assert served(replay) == (trace.size > 0).sum()
    assert collision(trace, replay) is None
    large = static_part(trace)
    assert replay.counters["planned"] == len(large)
    in_arena = replay.address[trace.size > 512]
    assert in_arena.tolist() == runtime.offsets.tolist()


def test_reserved_is_arena_and_slots() -> None:
    trace = script("a+1K b+100 c+512 b- a- d+2K")
    runtime = runtime_of(trace)
    assert runtime.height == 2048
    replay = runtime.replay(trace)
    assert set(replay.reserved.tolist()) == {2048 + 2 * 2 * 512}
    assert replay.peak_allocated == 512 + 2048
    assert replay.counters["slots"] == 2
    more = script("a+1K b+1 c+1 d+1 e+1 f+1 g+1 h+1 i+1 j+1")
    grown = runtime.replay(more)
    assert grown.counters["slot_growths"] == 2
    assert grown.reserved[-1] == 2048 + 16 * 512


def test_periods_repeat_the_planned_sequence() -> None:
    trace = Trace.of(size=[1024, 4096, 2048, 700], start=[0, 1, 6, 8], end=[3, 5, 12, 9], period=10)
    runtime = runtime_of(trace)
    run = unroll(trace, 5)
    replay = runtime.replay(run)
    assert replay.counters["planned"] == 20
    assert replay.counters["fallback"] == 0
    assert collision(run, replay) is None
    once = Runtime(
        dataclasses.replace(trace, period=None, end=np.array([3, 5, 12, 9])),
        runtime.offsets,
        runtime.height,
    )
    assert once.replay(run).counters["unmatched"] == 16


# Surprises.


@pytest.mark.parametrize("phases", [False, True])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("change", ["delete", "insert", "resize"])
def test_one_surprise_costs_less_than_a_hundredth(change: str, seed: int, phases: bool) -> None:
    trace = training_like(3000, seed, phases=phases)
    runtime = runtime_of(trace)
    rng = np.random.default_rng(seed)
    row = int(rng.choice(np.flatnonzero(trace.size[:2000] > 512)))
    if change == "delete":
        run = without(trace, row)
    elif change == "insert":
        run = with_extra(trace, row, int(trace.size[rng.integers(0, 100)]) + 600)
    else:
        size = trace.size.copy()
        size[row] += 5000
        run = dataclasses.replace(trace, size=size)
    replay = runtime.replay(run)
    later = np.arange(len(run)) > row
    planned = (replay.address >= 0) & (replay.address < runtime.height)
    large = run.size > 512
    assert planned[later & large].mean() >= 0.99
    assert planned[~later & large].all() or (~later & large & ~planned).sum() <= 1
    assert collision(run, replay) is None
    assert replay.counters["fallback"] == (~planned & large).sum()
    assert served(replay) == len(run)
    if change != "resize":  # a counter alone meets the wrong entry ever after
        counted = runtime.replay(run, resynchronize=False)
        assert counted.counters["fallback"] > 20 * replay.counters["fallback"] + 100
        assert collision(run, counted) is None


@pytest.mark.parametrize("names", [(), ("x", "y", "z")])
def test_a_run_without_the_phases_of_the_profile_is_matched_by_size(names: tuple[str, ...]) -> None:
    trace = training_like(300, 0, phases=True)
    codes = trace.phase_start if names else np.full(len(trace), -1)
    run = dataclasses.replace(trace, phases=names, phase_start=codes, phase_end=codes)
    assert runtime_of(trace).replay(run).counters["fallback"] == 0


def test_requests_in_another_phase_are_not_the_planned_ones() -> None:
    trace = training_like(300, 0, phases=True)
    assert trace.phases == ("0F", "1F", "2F", "3F")
    run = dataclasses.replace(trace, phases=("0F", "2F", "1F", "3F"))
    counters = runtime_of(trace).replay(run).counters
    assert counters["unmatched"] >= (static_part(trace).phase_start == 1).sum() / 2


def test_equal_sizes_in_another_layer_are_not_the_planned_ones() -> None:
    profile = Trace.of([1024] * 3, [0, 1, 2], [9] * 3, layer_start=[0, 1, 1], layers=["a", "b"])
    run = dataclasses.replace(profile, layer_start=np.array([0, 0, 1]))
    assert runtime_of(profile).replay(run).counters["unmatched"] == 1


def test_many_surprises_cost_a_few_requests_each() -> None:
    trace = training_like(6000, 3)
    runtime = runtime_of(trace)
    rng = np.random.default_rng(1)
    run = trace
    for row in sorted(rng.choice(5900, 20, replace=False), reverse=True):
        run = without(run, int(row)) if row % 2 else with_extra(run, int(row), 10 * KIB)
    replay = runtime.replay(run)
    assert collision(run, replay) is None
    assert replay.counters["fallback"] <= 20 * 15
    assert replay.counters["searches"] <= 25


def test_a_long_foreign_stretch_is_left_to_the_fallback() -> None:
    trace = training_like(2000, 4)
    runtime = runtime_of(trace)
    count, foreign = 1000, 500  # an evaluation in the middle
    middle = Trace.of(
        size=np.full(foreign, 123 * KIB),
        start=trace.start[count] + np.arange(foreign) * 2,
        end=trace.start[count] + np.arange(foreign) * 2 + 1,
    )
    shift = 2 * foreign * (np.arange(len(trace)) >= count)
    late = 2 * foreign * (trace.end > trace.start[count])
    run = Trace.of(
        size=np.concatenate([trace.size, middle.size]),
        start=np.concatenate([trace.start + shift, middle.start]),
        end=np.concatenate([trace.end + late, middle.end]),
    )
    replay = runtime.replay(run)
    assert collision(run, replay) is None
    assert foreign <= replay.counters["fallback"] <= foreign + 20


@settings(max_examples=40)
@given(data=st.data())
def test_whatever_happens_no_byte_is_shared(data: st.DataObject) -> None:
    def draw_trace(layers: int) -> Trace:
        rows = data.draw(
            st.lists(
                st.tuples(
                    st.integers(0, 4000),
                    st.integers(0, 40),
                    st.integers(0, 20),
                    st.booleans(),
                    st.integers(-1, layers - 1),
                    st.integers(-1, layers - 1),
                ),
                max_size=30,
            )
        )
        columns = [list(column) for column in zip(*rows, strict=True)] or [[]] * 6
        size, start, life, dynamic, first, last = columns
        return Trace.of(
            size=size,
            start=start,
            end=[a + b for a, b in zip(start, life, strict=True)],
            dynamic=np.asarray(dynamic, bool),
            layer_start=np.asarray(first, np.int64),
            layer_end=np.asarray(last, np.int64),
            layers=[f"layer{i}" for i in range(layers)],
        )

    profile, run = draw_trace(3), draw_trace(4)
    runtime = runtime_of(profile)
    for options in ({}, {"resynchronize": False}, {"reuse": False}):
        replay = runtime.replay(run, **options)
        assert collision(run, replay) is None
        assert served(replay) == (run.size > 0).sum()
        assert replay.counters["fallback"] == sum(
            replay.counters[name] for name in ("unmatched", "occupied", "no_room")
        )
        assert (replay.reserved >= replay.allocated).all()
        assert (replay.allocated >= replay.requested).all()
        assert not replay.allocated.size or replay.allocated[-1] == 0


def test_the_fallback_shares_the_capacity() -> None:
    trace = script("a+4M a-")
    runtime = runtime_of(trace)
    run = script("a+4M b+30M")
    assert runtime.replay(run, capacity=34 << 20).survived
    assert not runtime.replay(run, capacity=33 << 20).survived
    with pytest.raises(ValueError, match="less than the arena"):
        runtime.replay(run, capacity=1 << 20)


# Dynamic requests.


def dynamic_profile() -> Trace:
    """Static rows 0-3, then dynamic ones in layers "a" (times 10-30) and "b" (40-60)."""
    return Trace.of(
        size=[4096, 8192, 4096, 8192, 2048, 3072],
        start=[0, 5, 35, 10, 12, 42],
        end=[70, 34, 68, 29, 28, 59],
        dynamic=np.array([False, False, False, False, True, True]),
        layer_start=[-1, -1, -1, 0, 0, 1],
        layer_end=[-1, -1, -1, 0, 0, 1],
        layers=["a", "b"],
    )


def test_dynamic_requests_go_to_the_tightest_idle_hole() -> None:
    profile = dynamic_profile()
    offsets = np.array([0, 4096, 8192, 16384])
    runtime = Runtime(profile, offsets, 24576)
    replay = runtime.replay(profile)
    # In "a" rows 0, 1 and 3 are live: [12288, 16384) is idle. In "b" rows 0 and 2:
    # [4096, 8192) is tighter than [12288, 24576).
    assert replay.address.tolist() == [0, 4096, 8192, 16384, 12288, 4096]
    assert replay.counters["reused"] == 2
    without_reuse = runtime.replay(profile, reuse=False)
    assert without_reuse.counters["no_room"] == 2
    assert without_reuse.peak_reserved > replay.peak_reserved


def test_unknown_layers_have_no_window() -> None:
    profile = dynamic_profile()
    runtime = Runtime(profile, np.array([0, 4096, 8192, 16384]), 24576)
    renamed = dataclasses.replace(profile, layers=("x", "b"))
    assert runtime.replay(renamed).counters["reused"] == 1


def moe_like(seed: int, layers: int, dynamic_per_layer: int) -> Trace:
    """Layers with static blocks of mixed lifetimes and dynamic requests inside each layer."""
    shape, rng = np.random.default_rng(0), np.random.default_rng(seed)
    rows = []
    step = 4 * dynamic_per_layer + 8
    for layer in range(layers):
        base = layer * step
        for _ in range(6):
            life = int(shape.integers(1, 6)) * step
            size = int(shape.integers(1, 900)) * KIB
            rows.append((size, base + int(shape.integers(0, 6)), base + life, False, layer))
        for call in range(dynamic_per_layer):
            start = base + 8 + 4 * call + int(rng.integers(0, 2))
            end = min(start + int(rng.integers(1, 30)), base + step - 1)
            rows.append((int(rng.integers(1, 2000)) * 256, start, max(end, start + 1), True, layer))
        # One request that marks where the layer begins and ends.
        rows.append((1024, base, base + step - 1, False, layer))
    size, start, end, dynamic, layer = (list(column) for column in zip(*rows, strict=True))
    return Trace.of(
        size=size,
        start=start,
        end=end,
        dynamic=np.asarray(dynamic),
        layer_start=layer,
        layer_end=layer,
        layers=[f"layer{i}" for i in range(layers)],
    )


def run_dynamic(layers: int, dynamic_per_layer: int) -> tuple[Trace, Replay]:
    runtime = runtime_of(moe_like(1, layers, dynamic_per_layer))
    run = moe_like(2, layers, dynamic_per_layer)
    return run, runtime.replay(run)


def test_dynamic_requests_never_disturb_static_ones() -> None:
    run, replay = run_dynamic(300, 60)
    assert collision(run, replay) is None
    assert replay.counters["occupied"] == replay.counters["unmatched"] == 0
    assert replay.counters["reused"] > 5000


@pytest.mark.slow
def test_a_million_dynamic_requests_never_overlap() -> None:
    run, replay = run_dynamic(4000, 250)
    assert run.dynamic.sum() == 1_000_000
    assert collision(run, replay) is None
    assert replay.counters["occupied"] == replay.counters["unmatched"] == 0
    assert replay.counters["reused"] > 300_000


@given(data=st.data())
def test_idle_ranges_equal_brute_force(data: st.DataObject) -> None:
    period = data.draw(st.sampled_from([None, 30]))
    rows = data.draw(
        st.lists(
            st.tuples(
                st.integers(1, 9), st.integers(0, 29), st.integers(0, 29), st.integers(0, 40)
            ),
            max_size=12,
        )
    )
    size, start, life, offset = (np.asarray([row[i] for row in rows], np.int64) for i in range(4))
    static = Trace.of(size=size, start=start, end=start + life, period=period)
    low = data.draw(st.lists(st.integers(0, 29), min_size=1, max_size=5))
    times = np.asarray([(t, t + data.draw(st.integers(0, 30))) for t in low], np.int64)
    windows = reusable(static, offset, 52, times)
    for number, (opens, closes) in enumerate(times):
        idle = np.ones(52, bool)
        for time in range(opens, closes):
            for row in range(len(static)):
                live = start[row] <= time < start[row] + life[row]
                if period is not None:
                    live = (time - start[row]) % period < life[row]
                if live:
                    idle[offset[row] : offset[row] + size[row]] = False
        marked = np.zeros(52, bool)
        part = slice(windows.first[number], windows.first[number + 1])
        ends = []
        for a, b in zip(windows.low[part], windows.high[part], strict=True):
            assert a < b
            assert not ends or ends[-1] < a
            ends.append(b)
            marked[a:b] = True
        assert (marked == idle).all()


def test_spans_of_layers() -> None:
    spans = layer_spans(dynamic_profile())
    assert (spans.first.tolist(), spans.last.tolist()) == ([10, 42], [29, 59])


def test_a_layer_runs_once_an_iteration() -> None:
    # Layer "a" runs at 0-5 and again at 20-25; a window over both would see row 2 as live.
    trace = Trace.of(
        size=[2048, 1024, 4096, 2048, 1024],
        start=[0, 1, 8, 20, 21],
        end=[5, 4, 15, 25, 24],
        dynamic=np.array([False, True, False, False, True]),
        iteration=[0, 0, 0, 1, 1],
        layer_start=[0, 0, -1, 0, 0],
        layer_end=[0, 0, -1, 0, 0],
        layers=["a"],
    )
    assert layer_spans(trace).first.tolist() == [0, 20]
    replay = Runtime(trace, np.array([0, 2048, 0]), 6144).replay(trace)
    assert replay.counters["reused"] == 2
    assert replay.address[1] == 2048


def test_windows_wrap_around_the_period() -> None:
    # Allocated in layer "late" (time 8), freed in "early" (time 2 of the next period).
    trace = Trace.of(
        size=[1024, 1024, 1024, 1024],
        start=[8, 0, 3, 8],
        end=[9, 2, 7, 12],
        dynamic=np.array([False, False, False, True]),
        layer_start=[1, 0, -1, 1],
        layer_end=[1, 0, -1, 0],
        layers=["early", "late"],
        period=10,
    )
    runtime = Runtime(trace, np.array([0, 1024, 2048]), 3072)
    run = unroll(trace, 3)
    replay = runtime.replay(run)
    assert replay.counters["reused"] == 3
    assert set(replay.address[3::4].tolist()) == {2048}
    assert collision(run, replay) is None


@given(
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 59), st.integers(1, 12)), max_size=60),
    windows=st.lists(st.integers(0, 60), min_size=2, max_size=8, unique=True),
)
def test_free_ranges_equal_a_map_of_bytes(
    steps: list[tuple[bool, int, int]], windows: list[int]
) -> None:
    free, map_free, held = free_ranges.whole(60, 64), np.ones(60, bool), []
    edges = np.sort(np.asarray(windows[: len(windows) // 2 * 2], np.int64)).reshape(-1, 2)
    lows, highs = edges[:, 0].copy(), edges[:, 1].copy()
    for take, place, size in steps:
        if take:
            fits = place + size <= 60 and bool(map_free[place : place + size].all())
            assert free_ranges.claim(free, place, place + size) == fits
            if fits:
                map_free[place : place + size] = False
                held.append((place, place + size))
        elif held:
            low, high = held.pop(place % len(held))
            free_ranges.release(free, low, high)
            map_free[low:high] = True
        best = (100, -1)
        for low, high in edges:
            run = 0
            for byte in range(low, high + 1):
                if byte < high and map_free[byte]:
                    run += 1
                    continue
                if run >= size:
                    best = min(best, (run, byte - run))
                run = 0
        assert free_ranges.tightest(free, lows, highs, size) == best[1]
        assert free.totals[free_ranges.FREE_BYTES] == map_free.sum()


# Bad input.


def test_a_plan_of_another_trace_is_refused() -> None:
    trace = script("a+1K b+2K")
    with pytest.raises(ValueError, match="offsets must hold 2 integers"):
        Runtime(trace, np.array([0]), 4096)
    with pytest.raises(ValueError, match="'b' at offset 3072 with 2048 bytes"):
        Runtime(trace, np.array([0, 3072]), 4096)
    with pytest.raises(ValueError, match="must be less than"):
        Runtime(trace, np.array([0, 1024]), 1 << 53)
    overlapping = Plan(np.array([0, 0]), 4096, 0, "by hand", 0.0)
    with pytest.raises(ValueError, match="collide"):
        Runtime.of(trace, overlapping)


def test_an_empty_run() -> None:
    replay = runtime_of(script("a+1K")).replay(Trace.of(size=[], start=[], end=[]))
    assert replay.survived
    assert replay.peak_allocated == 0
