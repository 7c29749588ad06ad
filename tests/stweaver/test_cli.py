"""The command line on every kind of file, and the report it prints."""

import json
import pickle
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlab.stweaver import Plan, Trace, memory_report, plan, read_csv, write_csv
from jaxlab.stweaver.__main__ import main
from tests.stweaver.test_torch_snapshot import event
from tests.stweaver.test_xla import dump

TRACE = Trace.of(
    size=[700, 3000, 500, 500, 1000],
    start=[0, 1, 2, 6, 7],
    end=[8, 4, 5, 7, 9],
    id=["w", "big", "mid", "late", "last"],
    layer_start=[0, 1, 1, 1, 2],
    layers=["weights", "block", "head"],
    phase_start=[0, 1, 1, 1, 1],
    phases=["init", "forward"],
)


@pytest.fixture
def csv_file(tmp_path: Path) -> Path:
    write_csv(tmp_path / "trace.csv", TRACE)
    return tmp_path / "trace.csv"


def test_report(csv_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report.json"
    assert main(["report", str(csv_file), "--top", "1", "--json", str(out)]) == 0
    text = capsys.readouterr().out
    assert "4.10 KiB at time 2" in text
    assert "forward, block (largest: big)" in text
    assert "1 others" in text
    facts = json.loads(out.read_text())
    assert (facts["peak"], facts["lower_bound"], facts["height"]) == (4200, 4200, 4200)
    assert facts["total"] == 5700
    assert [(h["origin"], h["requests"], h["size"]) for h in facts["holders"]] == [
        ("block", 2, 3500),
        ("weights", 1, 700),
    ]


def test_comparing_a_periodic_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    periodic = Trace.of(size=[700, 3000], start=[0, 4], end=[3, 12], period=10)
    write_csv(tmp_path / "trace.csv", periodic)
    out = tmp_path / "compare.json"
    options = ["--allocators", "tflite", "bump", "--json", str(out)]
    assert main(["compare", str(tmp_path / "trace.csv"), *options]) == 0
    text = capsys.readouterr().out
    assert "tflite is left out: it plans no periodic trace" in text
    assert "3 periods" in text
    rows = {row["name"]: row for row in json.loads(out.read_text())["rows"]}
    assert set(rows) == {"plan (portfolio)", "bump"}
    assert rows["bump"]["allocated"] == 4096  # 1024 of the second period and 3072


def test_plan_writes_a_plan_that_loads(csv_file: Path, tmp_path: Path) -> None:
    target, picture = tmp_path / "plan.csv", tmp_path / "plan.svg"
    options = ["--planner", "greedy", "--alignment", "256", "--picture", str(picture)]
    assert main(["plan", str(csv_file), "-o", str(target), *options]) == 0
    made = Plan.load(target, read_csv(csv_file))
    assert (made.offsets % 256 == 0).all()
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "plan.csv",
        "plan.svg",
        "trace.csv",
    ]


def test_compare(csv_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "compare.json"
    assert main(["compare", str(csv_file), "--json", str(out)]) == 0
    text = capsys.readouterr().out
    assert "No packing needs less than 4,200 bytes." in text
    rows = {row["name"]: row for row in json.loads(out.read_text())["rows"]}
    assert rows["caching"]["reserved"] == 2 << 20
    assert rows["bump"]["reserved"] >= 5700
    assert rows["plan (portfolio)"]["reserved"] == 4200 or len(rows) == 9
    assert len(rows) == 9
    assert all(row["gap"] >= 0 for row in rows.values())


def test_without_rich_the_tables_are_plain(
    csv_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["compare", str(csv_file), "--allocators", "bump"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "allocator"
    assert lines[2].startswith("bump ")


def test_every_kind_of_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    snapshot = {"segments": [], "device_traces": [[event("alloc", 0, 4096)]]}
    (tmp_path / "s.pickle").write_bytes(pickle.dumps(snapshot))
    (tmp_path / "m.csv").write_text("id,lower,upper,size\na,0,3,10\nb,1,2,30\n")
    (tmp_path / "xla").mkdir()
    dump(tmp_path / "xla")
    for name, peak in (("s.pickle", "4.00 KiB"), ("m.csv", "40 B"), ("xla", "224 B")):
        assert main(["report", str(tmp_path / name)]) == 0
        assert peak in capsys.readouterr().out
    assert main(["report", str(tmp_path / "xla")]) == 0
    text = capsys.readouterr().out
    assert "convention 'inclusive-except-shared'" in text
    assert "used today" in text
    assert "a perfect packing saves 0 B" in text
    assert main(["report", str(tmp_path / "xla"), "--convention", "half-open"]) == 0
    text = capsys.readouterr().out
    assert "convention 'half-open'" in text
    assert "a perfect packing saves 32 B" in text


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("gone.csv", None, "No such file"),
        ("bad.csv", "id,size\n1,2\n", "columns"),
        ("bad.pickle", b"cos\nsystem\n.", "refused"),
        ("cut.pickle", b"\x80\x04", "cut off"),
        ("cut.snapshot", b"\x80\x04", "cut off"),
        ("bad.bin", b"size\xff", "bad.bin: no text file"),
    ],
)
def test_errors_are_one_line(
    tmp_path: Path,
    name: str,
    content: str | bytes | None,
    why: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    target = tmp_path / "plan.csv"
    assert main(["plan", str(path), "-o", str(target)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert why in error
    assert not target.exists()


def test_a_negative_number_of_origins_is_refused(
    csv_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(csv_file), "--top", "-3"]) == 2
    assert "must not be negative" in capsys.readouterr().err


def test_exhausted_memory_is_one_line(
    csv_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("jaxlab.stweaver.__main__.read_csv", exhausted)
    assert main(["report", str(csv_file)]) == 2
    assert capsys.readouterr().err == "error: MemoryError\n"


def test_a_picture_of_an_unknown_kind_leaves_nothing(csv_file: Path, tmp_path: Path) -> None:
    assert main(["report", str(csv_file), "--picture", str(tmp_path / "p.xyz")]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["trace.csv"]


def test_help_names_the_files(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["--help"], ["report", "--help"]):
        with pytest.raises(SystemExit) as stop:
            main(argv)
        assert stop.value.code == 0
        assert "xla_dump_to" in capsys.readouterr().out
    assert "torch" not in sys.modules


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    period = draw(st.none() | st.integers(1, 9))
    rows = draw(st.lists(st.tuples(*[st.integers(0, 9)] * 3), max_size=9))
    size = [row[0] for row in rows]
    start = [row[1] if period is None else row[1] % (period + 1) for row in rows]
    length = [row[2] if period is None else min(row[2], period) for row in rows]
    end = [s + n for s, n in zip(start, length, strict=True)]
    return Trace.of(*(np.array(column, np.int64) for column in (size, start, end)), period=period)


@settings(max_examples=150, deadline=None)
@given(traces())
def test_the_peak_by_brute_force(trace: Trace) -> None:
    report = memory_report(trace)
    horizon = trace.period or 20

    def live(time: int) -> list[int]:
        return [
            row
            for row in range(len(trace))
            if trace.size[row]
            and (
                trace.start[row] <= time < trace.end[row]
                or (trace.period and trace.start[row] <= time + trace.period < trace.end[row])
            )
        ]

    loads = [int(trace.size[live(time)].sum()) for time in range(horizon)]
    assert report.peak == max(loads)
    assert report.time == loads.index(report.peak)
    assert sorted(report.live.tolist()) == live(report.time)
    assert sum(holder.size for holder in report.holders) == report.peak
    assert str(report)


def test_a_report_refuses_what_does_not_fit() -> None:
    made = plan(TRACE, planner="greedy")
    with pytest.raises(ValueError, match="the plan places 5 requests, the trace has 1"):
        memory_report(TRACE.select(slice(0, 1)), plan=made)
    with pytest.raises(ValueError, match="current=-1"):
        memory_report(TRACE, current=-1)
    assert memory_report(TRACE, current=5000).saving == 800
    assert memory_report(TRACE).saving is None
