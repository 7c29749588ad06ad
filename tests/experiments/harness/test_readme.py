import pytest

from experiments.harness.readme import markdown, readme_is_stale, update_readme, with_scorecard
from experiments.harness.record import record_path
from experiments.harness.scorecard import committed


def test_markdown_cells_cannot_break_the_table(saved):
    table = markdown(committed(saved)).splitlines()
    folded = table[table.index("<details>") :]
    claims = [
        line
        for line in folded
        if line.startswith("| ") and "Verdict" not in line and "---" not in line
    ]
    assert len(claims) == 5
    for line in claims:
        assert line.replace("\\|", "").count("|") == 8
        assert "<script>" not in line.replace("\\<", "")


def test_the_readme_is_rewritten_between_its_markers_only(saved):
    before = saved.readme.read_text()
    assert readme_is_stale(saved)
    assert update_readme(saved)
    after = saved.readme.read_text()
    assert after.startswith(before.split("\n<!-- scorecard:end")[0])
    assert after.endswith("<!-- scorecard:end -->\nafter\n")
    assert "| It is fast. |" in after
    assert not readme_is_stale(saved)
    assert not update_readme(saved)


def test_the_readme_is_stale_when_a_result_changes(saved):
    update_readme(saved)
    path = record_path(saved.results, "toy", "paper")
    path.write_text(path.read_text().replace('"value": 2.5', '"value": 1.5'))
    assert readme_is_stale(saved)
    shown = markdown(committed(saved))
    assert "| toy | 2 | 1 | 1 | 1 |" in shown
    assert "| toy | It is fast. |" in shown.split("Not reproduced:")[1].split("<details>")[0]


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
