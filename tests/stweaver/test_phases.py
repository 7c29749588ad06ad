import dataclasses

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxlab.stweaver import Trace
from jaxlab.stweaver.homophase import Group, fuse, grouped_boxes, homophase
from jaxlab.stweaver.homosize import grades, layers
from jaxlab.stweaver.lifetimes import Lifetimes
from tests.oracles.packing import collisions
from tests.stweaver.traces import training


def group(size, start, end, first_row=0):
    size = np.array(size)
    offsets = np.cumsum(size) - size
    return Group(first_row + np.arange(size.size), offsets, size, np.array(start), np.array(end))


def test_fusion_fills_the_staircase_of_the_base():
    # base released from the top: 4 at 10, 3 at 8, 2 at 6; the guest is born as it shrinks
    base = group([4, 3, 2], [0, 0, 0], [10, 8, 6])
    guest = group([2, 3], [6, 8], [20, 20], first_row=3)
    made = fuse(base, guest)
    address = dict(zip(made.rows.tolist(), made.offsets.tolist(), strict=True))
    # at 0 nothing fits below 10; above 4 what starts at 8, then above 7 what starts at 6
    assert address == {0: 0, 1: 4, 2: 7, 4: 4, 3: 7}
    assert made.height == 9
    assert made.tmp == pytest.approx((40 + 24 + 12 + 28 + 36) / 180)


def test_fusion_is_the_same_in_a_mirror():
    base = group([4, 3, 2], [10, 12, 14], [20, 20, 20])
    guest = group([2, 3], [0, 0], [14, 12], first_row=3)
    made = fuse(base, guest)
    address = dict(zip(made.rows.tolist(), made.offsets.tolist(), strict=True))
    assert address == {0: 0, 1: 4, 2: 7, 4: 4, 3: 7}


sizes = st.lists(st.integers(1, 9), min_size=1, max_size=7)


@hypothesis.given(sizes, sizes, st.data())
@hypothesis.settings(max_examples=100, deadline=None)
def test_fused_groups_never_overlap(below, above, data):
    def drawn(low, high, count):
        return data.draw(st.lists(st.integers(low, high), min_size=count, max_size=count))

    base = group(below, drawn(0, 9, len(below)), drawn(10, 20, len(below)))
    guest = group(above, drawn(5, 14, len(above)), drawn(15, 30, len(above)), len(below))
    for a, b in ((base, guest), (guest, base)):
        made = fuse(a, b)
        columns = (made.size.tolist(), made.start.tolist(), made.end.tolist())
        assert collisions(*columns, made.offsets.tolist()) == []
        assert sorted(made.rows.tolist()) == list(range(len(below) + len(above)))
        assert made.height <= a.height + b.height


def test_groups_are_those_of_a_birth_and_a_release_phase():
    phases = ("0F", "1F", "0B", "1B")
    trace = Trace.of(
        size=[8, 4, 6, 1, 9, 5, 7],
        start=[0, 1, 2, 1, 0, 12, 13],
        end=[29, 28, 27, 2, 50, 39, 38],
        phase_start=[0, 0, 0, 0, -1, 1, 1],
        phase_end=[2, 2, 2, 0, -1, 3, 3],
        phases=phases,
    )
    found = homophase(trace, Lifetimes.of(trace))
    assert sorted(sorted(made.rows.tolist()) for made in found) == [[0, 1, 2], [5, 6]]
    for made in found:
        assert made.height == made.size.sum()
        order = np.argsort(made.offsets)
        assert (np.diff(made.end[order]) <= 0).all()


def test_members_that_are_never_live_together_are_no_group():
    phases = ("F", "B")
    trace = Trace.of([8, 4], [0, 5], [4, 9], phase_start=[0, 0], phase_end=[1, 1], phases=phases)
    assert homophase(trace, Lifetimes.of(trace)) == []
    touching = dataclasses.replace(trace, start=np.array([0, 4]))
    assert homophase(touching, Lifetimes.of(touching)) == []


def test_wasteful_groups_are_dissolved():
    # one long and one short member: half of the area is idle
    trace = Trace.of(
        [4, 4], [0, 0], [100, 10], phase_start=[0, 0], phase_end=[1, 1], phases=("F", "B")
    )
    assert homophase(trace, Lifetimes.of(trace)) == []


def test_adjacent_groups_are_fused_where_that_saves_area():
    phases = ("0F", "X", "1B")
    trace = Trace.of(
        size=[40, 30, 20, 20, 30],
        start=[0, 0, 0, 80, 90],
        end=[100, 90, 80, 120, 120],
        phase_start=[0, 0, 0, 1, 1],
        phase_end=[1, 1, 1, 2, 2],
        phases=phases,
    )
    (made,) = homophase(trace, Lifetimes.of(trace))
    assert made.rows.size == 5
    assert made.height == 90


def test_a_training_step_forms_groups_and_its_boxes_hold_them():
    trace = training(6, 3, 3)
    lives = Lifetimes.of(trace)
    groups = homophase(trace, lives)
    assert len(groups) >= 2
    state, box, inside = grouped_boxes(lives, groups)
    for number, made in enumerate(groups):
        assert (box[made.rows] == number).all()
        assert (inside[made.rows] == made.offsets).all()
        assert state.size[number] == made.height


@hypothesis.given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 20)), max_size=25))
@hypothesis.settings(max_examples=100, deadline=None)
def test_algorithm_1_colors_intervals_with_as_few_layers_as_are_live(spans):
    spans.sort()
    first = np.array([start for start, _ in spans], np.int64)
    last = np.array([start + length for start, length in spans], np.int64)
    layer = layers(first, last, np.zeros(len(spans), np.int64))
    live = max((((first <= time) & (time < last)).sum() for time in range(51)), default=0)
    assert layer.max(initial=-1) + 1 == live
    for number in range(int(live)):
        rows = np.flatnonzero(layer == number)
        assert (last[rows][:-1] <= first[rows][1:]).all()


def test_algorithm_1_takes_the_layer_released_last():
    layer = layers(np.array([0, 0, 6, 7]), np.array([3, 5, 9, 9]), np.zeros(4, np.int64))
    assert layer.tolist() == [0, 1, 1, 0]


def test_a_wrapping_box_needs_a_layer_that_opens_late():
    layer = layers(np.array([0, 3, 6]), np.array([2, 5, 8]), np.array([0, 0, 1]))
    assert layer.tolist() == [0, 0, 1]
    layer = layers(np.array([1, 3, 6]), np.array([2, 5, 8]), np.array([0, 0, 1]))
    assert layer.tolist() == [0, 0, 0]


def test_size_classes_span_their_tolerance():
    size = np.array([100, 64, 97, 90, 63, 1])
    assert grades(size, 0.0).tolist() == size.tolist()
    assert grades(size, 1 / 16).tolist() == [100, 64, 100, 90, 64, 1]
