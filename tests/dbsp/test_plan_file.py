"""Plans in files: what is saved comes back, and nothing else is believed."""

import hashlib
import json
import os
import stat

import numpy as np
import pytest

from jaxlab.dbsp import Plan, plan, plan_file


@pytest.fixture
def placed():
    mask = np.random.default_rng(0).random((5, 9, 7)) < 0.4
    return plan(mask, ulysses=2, ring=3, home="striped", evaluations=500)


def rewrite(path, change):
    """Changes the plan of a file and signs it again: what a careful forger would do."""
    document = json.loads(path.read_text())
    change(document["plan"])
    content = json.dumps(document["plan"], sort_keys=True, separators=(",", ":"))
    document["sha256"] = hashlib.sha256(content.encode()).hexdigest()
    path.write_text(json.dumps(document))


def test_a_plan_comes_back(placed, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text("an older file")
    placed.save(path)
    loaded = Plan.load(path)
    assert loaded == placed
    assert loaded.q_moved == placed.q_moved
    assert [file.name for file in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_others_may_read_a_plan_as_the_umask_says(placed, tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        placed.save(tmp_path / "plan.json")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "plan.json").stat().st_mode) == mode


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "truncated"),
        (lambda text: "", "truncated"),
        (lambda text: "[" * 100_000, "truncated"),
        (lambda text: "[1]", "not a plan file"),
        (lambda text: text.replace('"ring":3', '"ring":1'), "altered"),
        (lambda text: text.replace('"version":1', '"version":0'), "version 0"),
        (lambda text: text.replace("dbsp.plan", "dbsp.other"), "not a plan file"),
        (lambda text: text + " " * 2**21, "larger than"),
    ],
)
def test_damaged_files_are_refused(placed, tmp_path, monkeypatch, damage, message):
    monkeypatch.setattr(plan_file, "_LARGEST", 2**20)
    path = tmp_path / "plan.json"
    placed.save(path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError, match=message):
        Plan.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.update(ring=5), "multiple of 5"),
        (lambda record: record.update(ring=3.0), "must be integers"),
        (lambda record: record.update(ulysses=True), "must be integers"),
        (lambda record: record.update(head_perm=[0, 1, 2, 3, 4, 4]), "4 occurs 2 times"),
        (lambda record: record.update(head_perm=[[0, 1], [2]]), "not a valid plan"),
        (lambda record: record.update(kv_order=[[10**30]]), "not a valid plan"),
        (lambda record: record.update(q_home=None), "not a valid plan"),
        (lambda record: record.update(extra=1), "no plan"),
        (lambda record: record.pop("q_home"), "no plan"),
    ],
)
def test_signed_nonsense_is_refused(placed, tmp_path, change, message):
    path = tmp_path / "plan.json"
    placed.save(path)
    rewrite(path, change)
    with pytest.raises(ValueError, match=message):
        Plan.load(path)


def test_a_failed_save_leaves_the_old_file(placed, tmp_path, monkeypatch):
    path = tmp_path / "plan.json"
    placed.save(path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("no space")

    monkeypatch.setattr(plan_file.os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        placed.save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_plan_names_itself(placed):
    text = str(placed)
    assert "U2R3" in text
    assert f"{placed.q_moved:.1%}" in text


def test_a_plan_for_another_mask_is_refused():
    small, large = np.ones((4, 8, 8), bool), np.ones((4, 16, 16), bool)
    placed = plan(small, ulysses=2, ring=2)
    assert placed.validate(small) is placed
    assert placed.validate(np.ones((2, 3, 7, 5), bool)) is placed  # padded
    for other in (large, np.ones((5, 8, 8), bool), np.ones((1, 8, 8), bool), small[:, :2]):
        with pytest.raises(ValueError, match="make a plan for this mask"):
            placed.validate(other)
