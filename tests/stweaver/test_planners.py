import dataclasses
import hashlib
import json
import types

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxlab.stweaver import Plan, Trace, check, lower_bound, plan
from jaxlab.stweaver.planning import PLANNERS
from tests.oracles.packing import collisions, load, lowest_height
from tests.stweaver.traces import traces, training

QUICK = ("stweaver", "greedy", "greedy:size", "greedy:area", "greedy:conflict", "greedy:load")
ALL = tuple(planner for planner in PLANNERS if planner != "stweaver_official")


def checked(trace, planner, **options):
    """A plan, checked by the library's sweep and by brute force."""
    made = plan(trace, planner=planner, **{"time_limit": 0.2, **options})
    check(trace, made)
    columns = trace.size.tolist(), trace.start.tolist(), trace.end.tolist()
    assert collisions(*columns, made.offsets.tolist(), trace.period) == []
    assert made.height >= made.lower_bound >= load(*columns, trace.period)
    return made


def test_the_checker_does_not_overflow():
    placed = types.SimpleNamespace(offsets=np.array([2**63 - 10]), height=20)
    with pytest.raises(ValueError, match="ends above"):
        check(Trace.of([20], [0], [1]), placed)


@pytest.mark.parametrize(
    "change",
    [
        {"period": ...},
        {"height": "x"},
        {"height": 10**6},
        {"lower_bound": 1000},
        {"planner": 3},
        {"seconds": "s"},
    ],
)
def test_plans_with_a_mended_checksum_are_refused(tmp_path, change):
    trace = Trace.of([20, 5], [0, 0], [2, 1])
    path = tmp_path / "plan.csv"
    plan(trace, planner="greedy").save(path, trace)
    first, text = path.read_text().split("\n", 1)
    header = json.loads(first.removeprefix("# "))
    del header["sha256"]
    header = {name: value for name, value in {**header, **change}.items() if value is not ...}
    digest = hashlib.sha256((json.dumps(header, sort_keys=True) + text).encode()).hexdigest()
    path.write_text("# " + json.dumps({**header, "sha256": digest}) + "\n" + text)
    with pytest.raises(ValueError, match="plan"):
        Plan.load(path, trace)


def test_a_cell_beyond_the_csv_limit_is_refused(tmp_path):
    trace = Trace.of(*np.ones((3, 900), np.int64) * [[5], [0], [2]])
    path = tmp_path / "plan.csv"
    plan(trace, planner="greedy").save(path, trace)
    first, text = path.read_text().split("\n", 1)
    text = text.replace('"0"', '"' + "0" * 140_000 + '"', 1)
    header = json.loads(first.removeprefix("# "))
    del header["sha256"]
    digest = hashlib.sha256((json.dumps(header, sort_keys=True) + text).encode()).hexdigest()
    path.write_text("# " + json.dumps({**header, "sha256": digest}) + "\n" + text)
    with pytest.raises(ValueError, match="field larger than field limit"):
        Plan.load(path, trace)


@pytest.mark.parametrize("alignment", [1, 7, 4096])
def test_heights_that_alignment_explains_are_loaded(tmp_path, alignment):
    for trace in (Trace.of([20], [0], [2]), Trace.of([20, 50, 5], [0, 0, 1], [2, 1, 3])):
        made = plan(trace, planner="greedy", alignment=alignment)
        made.save(tmp_path / "plan.csv", trace)
        assert Plan.load(tmp_path / "plan.csv", trace) == made


def test_no_plan_is_lower_than_its_bound():
    with pytest.raises(ValueError, match="lower_bound=21"):
        Plan(np.array([0]), 20, 21, "greedy", 0.0)


@pytest.mark.parametrize("planner", ALL)
@hypothesis.given(trace=traces())
@hypothesis.settings(max_examples=25, deadline=None)
def test_plans_never_overlap(planner, trace):
    made = checked(trace, planner)
    assert made.height == max((made.offsets + trace.size)[trace.end > trace.start], default=0)


@hypothesis.given(trace=traces(periodic=False))
@hypothesis.settings(max_examples=25, deadline=None)
def test_the_official_baseline_is_valid_with_time_0(trace):
    checked(trace, "stweaver_official")


def test_the_official_baseline_refuses_periods():
    with pytest.raises(ValueError, match="overlapping plans of periodic"):
        plan(Trace.of([1], [0], [2], period=2), planner="stweaver_official")


@pytest.mark.parametrize("planner", ["exact", "portfolio"])
@hypothesis.given(trace=traces(largest=6))
@hypothesis.settings(max_examples=60, deadline=None)
def test_the_optimum_is_that_of_all_orders(planner, trace):
    made = checked(trace, planner, time_limit=20)
    columns = trace.size.tolist(), trace.start.tolist(), trace.end.tolist()
    assert made.proven_optimal
    assert made.gap == 0
    assert made.height == lowest_height(*columns, trace.period)


@pytest.mark.parametrize("planner", [*QUICK, "exact"])
@hypothesis.given(trace=traces(), seed=st.integers(0, 99))
@hypothesis.settings(max_examples=15, deadline=None)
def test_the_order_of_rows_does_not_matter(planner, trace, seed):
    rows = np.random.default_rng(seed).permutation(len(trace))
    limit = {"time_limit": 20}
    heights = [checked(t, planner, **limit).height for t in (trace, trace.select(rows))]
    assert heights[0] == heights[1]


@pytest.mark.parametrize("planner", QUICK)
@hypothesis.given(trace=traces(), factor=st.integers(2, 1 << 36), stretch=st.integers(2, 9))
@hypothesis.settings(max_examples=15, deadline=None)
def test_larger_bytes_and_slower_clocks_scale_the_plan(planner, trace, factor, stretch):
    made = checked(trace, planner)
    period = None if trace.period is None else trace.period * stretch
    slow = dataclasses.replace(
        trace, start=trace.start * stretch, end=trace.end * stretch, period=period
    )
    wide = dataclasses.replace(trace, size=trace.size * factor)
    assert plan(slow, planner=planner).offsets.tolist() == made.offsets.tolist()
    assert plan(wide, planner=planner).offsets.tolist() == (made.offsets * factor).tolist()


@hypothesis.given(trace=traces(periodic=False))
@hypothesis.settings(max_examples=25, deadline=None)
def test_a_plan_holds_for_the_trace_run_backward(trace):
    made = checked(trace, "greedy")
    stop = int(trace.end.max(initial=0))
    backward = dataclasses.replace(trace, start=stop - trace.end, end=stop - trace.start)
    check(backward, made)
    assert lower_bound(backward) == made.lower_bound


@pytest.mark.parametrize("planner", ["stweaver", "stweaver_official"])
@hypothesis.given(trace=traces(periodic=False, sizes=st.just(7), phases=False))
@hypothesis.settings(max_examples=25, deadline=None)
def test_equal_sizes_reach_the_lower_bound(planner, trace):
    assert checked(trace, planner).gap == 0


@pytest.mark.parametrize("planner", ALL)
def test_disjoint_lifetimes_share_all_bytes(planner):
    trace = Trace.of([3, 9, 4, 1], [0, 2, 5, 6], [2, 5, 6, 8])
    assert checked(trace, planner).height == 9


@pytest.mark.parametrize("planner", ["stweaver", "greedy", "portfolio"])
def test_nested_lifetimes_stack(planner):
    trace = Trace.of([3, 9, 4, 1, 6], [0, 1, 2, 3, 4], [20, 19, 18, 17, 16])
    assert checked(trace, planner).height == 23


EMPTY = [
    Trace.of([], [], []),
    Trace.of([], [], [], period=4),
    Trace.of([0, 0], [0, 1], [4, 4]),
    Trace.of([5, 6], [3, 4], [3, 4]),
    Trace.of([5], [4], [4], period=4),
]


@pytest.mark.parametrize("planner", ALL)
@pytest.mark.parametrize("trace", EMPTY)
def test_nothing_needs_nothing(planner, trace):
    made = checked(trace, planner)
    assert (made.height, made.lower_bound, made.gap, made.proven_optimal) == (0, 0, 0.0, True)


@pytest.mark.parametrize("planner", ALL)
def test_huge_sizes_and_touching_ends(planner):
    big = 1 << 40
    trace = Trace.of([big, big + 1, 3, big], [0, 5, 0, 5], [5, 9, 9, 7], period=9)
    made = checked(trace, planner)
    assert made.height == lower_bound(trace) == 2 * big + 4


@pytest.mark.parametrize("planner", ALL)
def test_alignment_holds_for_every_offset(planner):
    trace = Trace.of([100, 513, 64, 1], [0, 1, 2, 0], [3, 4, 5, 9])
    made = checked(trace, planner, alignment=512)
    assert (made.offsets % 512 == 0).all()
    assert made.lower_bound == 512 * 5


def test_unit_arcs_may_need_more_than_the_load():
    # five arcs of two fifths: the load is 2, and five arcs in two layers cannot go around
    trace = Trace.of([1] * 5, [0, 1, 2, 3, 4], [2, 3, 4, 5, 6], period=5)
    made = checked(trace, "exact", time_limit=20)
    assert load([1] * 5, [0, 1, 2, 3, 4], [2, 3, 4, 5, 6], 5) == 2
    assert (made.height, made.lower_bound, made.proven_optimal) == (3, 3, True)


def test_a_refuted_capacity_raises_the_lower_bound():
    trace = Trace.of([1] * 5, [0, 1, 2, 3, 4], [2, 3, 4, 5, 6], period=5)
    made = checked(trace, "exact", capacity=2, time_limit=20)
    assert made.lower_bound == 3


def test_a_capacity_is_enough():
    trace = training(6, 4, 3)
    bound = lower_bound(trace)
    made = checked(trace, "portfolio", capacity=2 * bound, time_limit=20)
    assert made.height <= 2 * bound
    assert made.seconds < 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"planner": "magic"}, "planner='magic' is not one of portfolio"),
        ({"planner": "greedy:color"}, "greedy:color"),
        ({"time_limit": 0}, "time_limit=0"),
        ({"capacity": -1}, "capacity=-1"),
        ({"alignment": 0}, "alignment=0"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        plan(Trace.of([1], [0], [1]), **options)


def test_exact_refuses_what_is_too_large():
    count = 5_001
    with pytest.raises(ValueError, match="too many for planner='exact'"):
        plan(Trace.of([1] * count, range(count), range(1, count + 1)), planner="exact")


def test_a_training_step_is_planned_tightly():
    trace = training(12, 6, 4)
    made = checked(trace, "stweaver")
    assert made.gap <= 0.02
    assert checked(trace, "greedy").gap <= 0.1


@pytest.mark.parametrize(
    ("offsets", "height", "message"),
    [
        ([0, 3, 8], 12, r"'0' at \[0, 4\) and '1' at \[3, 7\) collide at time 2"),
        ([0, 4, 2], 12, r"'0' at \[0, 4\) and '2' at \[2, 6\) collide at time 0"),
        ([-1, 4, 8], 12, "'0' at .* starts below address 0"),
        ([0, 4, 8], 11, "'2' at .* ends above .*height 11"),
        ([0, 4], 12, r"\(2,\) offsets for 3 requests"),
    ],
)
def test_the_checker_names_what_collides(offsets, height, message):
    trace = Trace.of([4, 4, 4], [0, 2, 6], [5, 6, 9], period=8)
    check(trace, types.SimpleNamespace(offsets=np.array([0, 4, 8]), height=12))
    check(trace, types.SimpleNamespace(offsets=np.array([0, 4, 4]), height=8))
    with pytest.raises(ValueError, match=message):
        check(trace, types.SimpleNamespace(offsets=np.array(offsets), height=height))


@hypothesis.given(trace=traces(), data=st.data())
@hypothesis.settings(max_examples=60, deadline=None)
def test_the_checker_agrees_with_brute_force(trace, data):
    addresses = st.lists(st.integers(0, 30), min_size=len(trace), max_size=len(trace))
    offsets = np.array(data.draw(addresses), np.int64)
    placed = types.SimpleNamespace(offsets=offsets, height=40)
    columns = trace.size.tolist(), trace.start.tolist(), trace.end.tolist()
    if collisions(*columns, offsets.tolist(), trace.period):
        with pytest.raises(ValueError, match="collide"):
            check(trace, placed)
    else:
        check(trace, placed)


def test_plans_survive_the_disk(tmp_path):
    trace = training()
    made = plan(trace, planner="stweaver")
    made.save(tmp_path / "plan.csv", trace)
    assert Plan.load(tmp_path / "plan.csv", trace) == made
    assert [file.name for file in tmp_path.iterdir()] == ["plan.csv"]


def test_plans_of_others_are_refused(tmp_path):
    trace = training()
    path = tmp_path / "plan.csv"
    plan(trace, planner="stweaver").save(path, trace)
    text = path.read_text()
    with pytest.raises(ValueError, match="another trace"):
        Plan.load(path, trace.select(np.arange(len(trace))[::-1]))
    with pytest.raises(ValueError, match="another trace"):
        Plan.load(path, dataclasses.replace(trace, period=trace.period + 1))
    for broken, message in (
        (text.replace("plan 1", "plan 0", 1), "format 'jaxlab.stweaver plan 0'"),
        (text[: len(text) // 2], "changed or truncated"),
        (text.replace('"height": ', '"height": 1', 1), "changed or truncated"),
        (text.replace(",0,", ",1,", 1), "changed or truncated"),
        ("id,size\n1,2\n", "not a plan"),
        ("# []\n", "not a plan"),
        (text + "x" * 10_000_000, "larger than any plan"),
    ):
        path.write_text(broken)
        with pytest.raises(ValueError, match=message):
            Plan.load(path, trace)


def test_a_plan_that_overlaps_is_not_saved(tmp_path):
    trace = Trace.of([4, 4], [0, 1], [2, 3])
    with pytest.raises(ValueError, match="collide"):
        Plan(np.array([0, 0]), 8, 8, "mine", 0.0).save(tmp_path / "plan.csv", trace)
    assert list(tmp_path.iterdir()) == []
