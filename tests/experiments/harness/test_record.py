import dataclasses
import json
import math
import os

import pytest

from experiments.harness import Missing, Result, Table, Value
from experiments.harness import record as store
from experiments.harness.record import Record, RecordError, figure_path, read, write

RECORD = Record(
    experiment="toy",
    preset="smoke",
    config={"seed": 1, "scales": [0.5, 2]},
    started="2030-01-02T03:04:05+00:00",
    seconds=1.25,
    environment={"platform": "cpu", "cpu": "a cpu", "cores": 2, "jax": "1.2"},
    criteria={"a": "at least 3"},
    result=Result(
        values={
            "a": Value([1.0, math.inf], "deterministic", tolerance=0.5),
            "b": Value(2.0, "timed", spread=(1.5, 2.5)),
            "c": Value({"x": True, "y": "é"}),
            "d": Missing("no peer"),
        },
        tables=(Table("t", ("name", "n"), (("a", 1), ("b", None)), "caption"),),
        notes=("a note",),
        facts={"curve": [1, 2.5, -math.inf]},
    ),
    figures=("growth",),
)


def test_a_record_comes_back_as_it_was(tmp_path):
    write(RECORD, tmp_path, {"growth": "<svg/>"})
    assert read(tmp_path, "toy", "smoke") == RECORD
    assert read(tmp_path, "toy", "paper") is None


def test_the_file_is_strict_json(tmp_path):
    path = write(RECORD, tmp_path, {"growth": "<svg/>"})

    def refuse(name):
        raise AssertionError(name)

    json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_figures_of_an_earlier_record_are_removed(tmp_path):
    write(RECORD, tmp_path, {"growth": "<svg/>"})
    other = figure_path(tmp_path, "toy", "paper", "growth")
    other.write_text("<svg/>")
    write(_renamed("shape"), tmp_path, _svg("shape"))
    assert not figure_path(tmp_path, "toy", "smoke", "growth").exists()
    assert figure_path(tmp_path, "toy", "smoke", "shape").exists()
    assert other.exists()


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = write(_renamed(), tmp_path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write(_renamed(), tmp_path)
    assert path.read_bytes() == before
    assert [found.name for found in path.parent.iterdir()] == ["smoke.json"]


def test_records_beyond_the_bound_are_refused_both_ways(tmp_path, monkeypatch):
    path = write(_renamed(), tmp_path)
    monkeypatch.setattr(store, "MAX_BYTES", path.stat().st_size - 1)
    with pytest.raises(ValueError, match="raw data"):
        write(_renamed(), tmp_path)
    with pytest.raises(RecordError, match="larger than"):
        read(tmp_path, "toy", "smoke")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"format": 1', '"format": 2', "format is 2"),
        ('"preset": "smoke"', '"preset": "huge"', "preset"),
        ('"experiment": "toy"', '"experiment": "other"', "moved or renamed"),
        ('"kind": "timed"', '"kind": "guess"', "kind"),
        ('"kind": "timed"', '"kind": []', "kind"),
        ('"missing": "no peer"', '"missing": 3', "reason"),
        ('"missing": "no peer"', '"missing": "x", "value": 1', "unknown field"),
        ('"seconds": 1.25', '"seconds": NaN', "NaN"),
        ('"seconds": 1.25', '"seconds": 1e999', "seconds"),
        ('"seconds": 1.25', '"seconds": "long"', "seconds"),
        ('"seconds": 1.25', '"seconds": 1, "seconds": 2', "twice"),
        ('"seconds": 1.25', '"seconds": 1, "extra": 2', "'extra'"),
        ('"started"', '"begun"', "begun"),
        ('"cores": 2', '"cores": [2]', "cores"),
        ('"a note"', "7", "notes"),
        ('"facts": {', '"facts": 3, "x": {', "unknown field"),
        ('"spread": null', '"spread": [1]', "spread"),
        ('"columns": [', '"columns": ["more",', "row 0"),
        ('"growth"', '"../../outside"', "figure name"),
        ('"a": "at least 3"', '"a": 3', "criteria"),
        ("{", "[" * 100_000, "usable"),
        ("{", "", "usable"),
        ("1.25", "9" * 5000, "usable"),
    ],
)
def test_damaged_and_hostile_files_are_refused_clearly(tmp_path, old, new, told):
    path = write(RECORD, tmp_path, _svg("growth"))
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(RecordError, match=told) as caught:
        read(tmp_path, "toy", "smoke")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"null", b"[1]", b'{"format": 1}'])
def test_files_that_are_no_records(tmp_path, content):
    path = write(_renamed(), tmp_path)
    path.write_bytes(content)
    with pytest.raises(RecordError, match=r"smoke\.json"):
        read(tmp_path, "toy", "smoke")


def test_truncation_anywhere_is_noticed(tmp_path):
    path = write(_renamed(), tmp_path)
    content = path.read_bytes().rstrip()
    for end in range(0, len(content), 97):
        path.write_bytes(content[:end])
        with pytest.raises(RecordError):
            read(tmp_path, "toy", "smoke")


def test_machine_names_the_hardware():
    assert RECORD.machine == "a cpu, 2 cores, jax 1.2"
    gpu = {"platform": "gpu", "device": "H200", "devices": 4, "jax": "1.2"}
    assert _renamed(environment=gpu).machine == "4 x H200, jax 1.2"


def _renamed(*figures, **changes):
    return dataclasses.replace(RECORD, figures=figures, **changes)


def _svg(name):
    return {name: "<svg/>"}
