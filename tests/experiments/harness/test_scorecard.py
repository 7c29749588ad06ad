import json

from experiments.harness.record import read, record_path
from experiments.harness.scorecard import committed, rows, summary

KEYS = "system id claim source paper criterion measured obtained verdict machine"


def test_rows_have_exactly_the_promised_keys(saved):
    found = rows(committed(saved))
    assert [list(row) for row in found] == [KEYS.split()] * 5
    by_id = {row["id"]: row for row in found}
    assert by_id["speed"]["measured"] == 2.5
    assert by_id["speed"]["verdict"] == "reproduced"
    assert by_id["speed"]["machine"] == read(saved.results, "toy", "paper").machine
    assert by_id["peer"]["measured"] is None
    assert by_id["peer"]["machine"] is None
    assert by_id["silicon"]["verdict"] == "not checkable here"
    json.dumps(found, allow_nan=False)


def test_the_paper_preset_is_shown_before_smoke(saved):
    assert rows(committed(saved))[0]["measured"] == 30
    record_path(saved.results, "toy", "paper").unlink()
    smoke = rows(committed(saved))
    assert smoke[0]["measured"] == 3
    assert [row["verdict"] for row in smoke][2] == "not run here"


def test_nothing_committed_is_not_run_here(checkout):
    found = committed(checkout)
    assert [entry.verdict.outcome for entry in found[:4]] == ["not run here"] * 4
    assert found[2].verdict.reason == "needs --preset paper"
    assert summary(found) == "5 claims: 4 not run here, 1 not checkable here"


def test_a_criterion_changed_after_the_run_is_told(saved):
    path = record_path(saved.results, "toy", "paper")
    path.write_text(path.read_text().replace('"count": "at least 3"', '"count": "at least 9"'))
    assert [entry.declared for entry in committed(saved)] == ["at least 9", None, None, None, None]
