import json

import pytest

from experiments.harness.record import read, record_path
from experiments.harness.runner import run_experiments
from experiments.harness.scorecard import (
    committed,
    markdown,
    readme_is_stale,
    rows,
    summary,
    update_readme,
    with_scorecard,
)

KEYS = "system id claim source paper criterion measured obtained verdict machine"


@pytest.fixture
def saved(checkout):
    for preset in ("smoke", "paper"):
        run_experiments(["toy"], preset, save=True, checkout=checkout)
    return checkout


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


def test_markdown_cells_cannot_break_the_table(saved):
    table = markdown(committed(saved)).splitlines()
    lines = [line for line in table if line.startswith("| toy")]
    assert len(lines) == 5
    for line in lines:
        assert line.replace("\\|", "").count("|") == 9
        assert "<script>" not in line.replace("\\<", "")


def test_the_readme_is_rewritten_between_its_markers_only(saved):
    before = saved.readme.read_text()
    assert readme_is_stale(saved)
    assert update_readme(saved)
    after = saved.readme.read_text()
    assert after.startswith(before.split("\n<!-- scorecard:end")[0])
    assert after.endswith("<!-- scorecard:end -->\nafter\n")
    assert "| toy | It is fast. |" in after
    assert not readme_is_stale(saved)
    assert not update_readme(saved)


def test_the_readme_is_stale_when_a_result_changes(saved):
    update_readme(saved)
    path = record_path(saved.results, "toy", "paper")
    path.write_text(path.read_text().replace('"value": 2.5', '"value": 1.5'))
    assert readme_is_stale(saved)
    assert "**not reproduced**" in markdown(committed(saved))


@pytest.mark.parametrize(
    "readme",
    [
        "",
        "<!-- scorecard:begin -->",
        "<!-- scorecard:end --> <!-- scorecard:begin -->",
        "<!-- scorecard:begin --><!-- scorecard:begin --><!-- scorecard:end -->",
    ],
)
def test_a_readme_without_its_markers_is_an_error(readme):
    with pytest.raises(ValueError, match="scorecard:begin"):
        with_scorecard(readme, "table")
