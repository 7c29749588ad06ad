import dataclasses

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxlab.stweaver import Trace, lower_bound, read_csv, read_minimalloc, write_csv
from jaxlab.stweaver.bound import next_height
from jaxlab.stweaver.lifetimes import Lifetimes
from tests.oracles.packing import load
from tests.stweaver.traces import LETTERS, MINIMALLOC, traces

BAD = [
    ({"id": ["a", "b", "a"]}, "id 'a' occurs 2 times"),
    ({"size": [1, -2, 3]}, r"'1' \(row 1, size -2, \[1, 5\)\) has a negative size"),
    ({"start": [0, 6, 0]}, r"'1' .*starts after its end"),
    ({"start": [0, 1]}, r"start has shape \(2,\)"),
    ({"size": [0.5, 1, 2]}, "size must hold integers"),
    ({"dynamic": [0, 1, 2]}, "dynamic must hold booleans"),
    ({"phase_start": [0, 3, -1]}, "'1' .*phase_start that is not in -1..1"),
    ({"layer_end": [0, 0, -1]}, "'0' .*layer_end that is not in -1..-1"),
    ({"period": 0}, "period=0 must be positive"),
    ({"period": 3}, "'0' .*lives longer than the period 3"),
    ({"period": 9.5}, "period=9.5 is not an integer"),
    ({"period": 6, "start": [0, 1, 7], "end": [4, 5, 8]}, "'2' .*starts outside the period"),
    ({"start": [0, 1, -1], "period": 9}, "'2' .*starts outside the period"),
    ({"size": [1 << 61, 1 << 61, 1]}, "2\\^62 bytes"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_what_is_wrong_is_named(change, message):
    good = {"size": [1, 2, 3], "start": [0, 1, 2], "end": [4, 5, 2], "phases": ("F", "B")}
    Trace.of(**good)
    with pytest.raises(ValueError, match=message):
        Trace.of(**{**good, **change})


@hypothesis.given(names=st.lists(st.text(min_size=1, max_size=5), max_size=5, unique=True))
@hypothesis.settings(max_examples=60, deadline=None)
def test_any_name_comes_back_from_a_file(tmp_path_factory, names):
    names = [name for name in names if name.isprintable() or name in "\r\n\t"]
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        return
    count = len(names)
    trace = Trace.of([1] * count, [0] * count, [1] * count, id=np.array(names, np.str_))
    path = tmp_path_factory.mktemp("names") / "trace.csv"
    write_csv(path, trace)
    assert read_csv(path) == trace


def test_a_name_that_cannot_be_written_leaves_no_file(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        write_csv(tmp_path / "x.csv", Trace.of([1], [0], [1], id=["a\ud800"]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size,start,end\n" + "1" * 200_000 + ",0,1\n", "line 2: field larger"),
        ("id;size;start;end\na;1;0;1\n", "parted by ';'"),
        ("id,size,start,end\n" + "a" * 2_000 + ",1,0,1\n", "longer than 1000"),
        ("size,start,end,layer_end\n1,0,1," + "a" * 2_000 + "\n", "longer than 1000"),
    ],
)
def test_cells_that_no_trace_has_are_refused(tmp_path, text, message):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_csv(tmp_path / "x.csv")


def test_names_that_could_not_be_read_again_are_not_written(tmp_path):
    trace = Trace.of([1], [0], [1], layer_start=[0], layers=("a" * 2_000,))
    with pytest.raises(ValueError, match="longer than 1000"):
        write_csv(tmp_path / "x.csv", trace)
    assert list(tmp_path.iterdir()) == []


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    (tmp_path / "x.csv").write_text("\ufeffid,size,start,end\na,1,0,1\n")
    assert read_csv(tmp_path / "x.csv").id.tolist() == ["a"]


def test_uint64_beyond_int64_is_refused():
    with pytest.raises(ValueError, match="more than int64"):
        Trace.of(np.array([1 << 63], np.uint64), [0], [1])


def test_rows_are_selected_with_all_columns():
    trace = Trace.of([5, 6, 7], [0, 1, 2], [3, 4, 5], stream=[0, 1, 2], period=9, layers=("a",))
    some = trace.select(np.array([True, False, True]))
    assert some == Trace.of(
        [5, 7], [0, 2], [3, 5], id=["0", "2"], stream=[0, 2], period=9, layers=("a",)
    )
    assert trace.select(np.array([2, 0])).size.tolist() == [7, 5]
    assert some != dataclasses.replace(some, period=None)


def test_minimalloc_files_have_their_published_bounds():
    counts = {
        letter: len(read_minimalloc(MINIMALLOC / f"{letter}.1048576.csv")) for letter in LETTERS
    }
    assert list(counts.values()) == [154, 170, 203, 213, 215, 296, 308, 316, 374, 409, 454]
    bounds = {
        letter: lower_bound(read_minimalloc(MINIMALLOC / f"{letter}.1048576.csv"))
        for letter in LETTERS
    }
    low = {"C": 1_039_360, "D": 986_112, "J": 989_184}
    assert bounds == {letter: low.get(letter, 1_048_576) for letter in LETTERS}
    assert lower_bound(read_minimalloc(MINIMALLOC / "input.12.csv")) == 12


@hypothesis.given(traces())
@hypothesis.settings(max_examples=100, deadline=None)
def test_the_load_is_that_of_every_integer_time(trace):
    columns = trace.size.tolist(), trace.start.tolist(), trace.end.tolist()
    lives = Lifetimes.of(trace)
    peak = load(*columns, trace.period)
    assert int(lives.load.max(initial=0)) == peak
    assert lower_bound(trace) >= peak
    if trace.period is None:
        assert lower_bound(trace) == peak


def test_long_requests_of_a_period_meet_pairwise():
    # three arcs of two thirds of the circle: two are live at any time, yet all three meet
    trace = Trace.of([5, 7, 9], [0, 2, 4], [4, 6, 8], period=6)
    assert load([5, 7, 9], [0, 2, 4], [4, 6, 8], 6) == 16
    assert lower_bound(trace) == 21
    # exactly half: opposite arcs do not meet
    assert lower_bound(Trace.of([5, 7], [0, 3], [3, 6], period=6)) == 7


def test_alignment_rounds_sizes_up():
    assert lower_bound(Trace.of([1, 65], [0, 0], [1, 1]), alignment=64) == 192
    with pytest.raises(ValueError, match="alignment=0"):
        lower_bound(Trace.of([1], [0], [1]), alignment=0)


def test_the_next_height_is_a_sum_of_sizes():
    sizes = np.array([6, 10, 15])
    sums = sorted({a + b + c for a in (0, 6) for b in (0, 10) for c in (0, 15)})
    for above in range(30):
        assert next_height(sizes, above) == min(s for s in sums if s > above)
    assert next_height(np.array([6, 10]), 16) == 18
    assert next_height(np.array([1 << 40, 3]), (1 << 40) + 1) == (1 << 40) + 2


@hypothesis.given(traces())
@hypothesis.settings(max_examples=30, deadline=None)
def test_csv_files_give_the_trace_back(tmp_path_factory, trace):
    path = tmp_path_factory.mktemp("csv") / "trace.csv"
    write_csv(path, trace)
    back = read_csv(path)
    for name in ("phase_start", "phase_end"):
        names = [np.array([*t.phases, ""])[getattr(t, name)].tolist() for t in (trace, back)]
        assert names[0] == names[1]
    unnamed = {"phases": (), "phase_start": trace.layer_start, "phase_end": trace.layer_end}
    assert dataclasses.replace(back, **unnamed) == dataclasses.replace(trace, **unnamed)
    assert [file.name for file in path.parent.iterdir()] == ["trace.csv"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size,start\n1,2\n", "needs size, start and end"),
        ("size,start,end,size\n1,2,3,1\n", "each once"),
        ("size,start,end,color\n1,2,3,4\n", "color"),
        ("size,start,end\n1,2\n", "row 0 has 2 cells"),
        ("size,start,end\n1,2,3\n1,x,3\n", "start of row 1 is 'x'"),
        (f"size,start,end\n{1 << 70},2,3\n", "not an int64"),
        ("size,start,end\n4,5,3\n", "starts after its end"),
        ("# period x\nsize,start,end\n4,5,6\n", "period of row 0"),
        ("", "needs size"),
    ],
)
def test_malformed_files_are_refused(tmp_path, text, message):
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_csv(path)


def test_minimalloc_files_with_other_columns_are_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,lower,upper,size,alignment\na,0,1,2,8\n")
    with pytest.raises(ValueError, match="alignment"):
        read_minimalloc(path)
    path.write_text("id,lower,upper,size,offset\na,0,1,2,8\n")
    assert read_minimalloc(path) == Trace.of([2], [0], [1], id=["a"])
