import io
import json

import pytest
from rich.console import Console

from experiments.harness.check import check
from experiments.harness.readme import update_readme
from experiments.harness.record import record_path
from experiments.harness.runner import run_experiments
from tests.experiments.harness.toys import FAILING, TOY


def saved(checkout):
    run_experiments(["toy"], save=True, checkout=checkout)
    update_readme(checkout)
    return checkout


@pytest.fixture
def saved_both(saved):
    update_readme(saved)
    return saved


def told(checkout, *names, local=False):
    console = Console(file=io.StringIO(), width=200)
    status = check(names, checkout, console, local=local)
    return status, console.file.getvalue()


def edit(checkout, old, new, preset="smoke"):
    path = record_path(checkout.results, "toy", preset)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    update_readme(checkout)


def test_what_was_just_saved_agrees(checkout):
    status, text = told(saved(checkout))
    assert (status, text) == (0, "toy: agrees with the committed smoke result\n")


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ('"value": 3', '"value": 4', "count: holds 3 now, was 4"),
        ('"value": 0.5', '"value": 0.50001', "mean: holds 0.5 now"),
        ('"kind": "deterministic"', '"kind": "exact"', "mean: "),
        ('"size": 3', '"size": 2', "config has changed"),
        ('"mean": "within 0.25 of 0.5"', '"mean": "at least 9"', "the criterion is"),
        ('"peer": {', '"gone": {', "no longer a claim"),
    ],
)
def test_a_changed_value_is_found(checkout, old, new, word):
    saved(checkout)
    if new == '"kind": "exact"':
        edit(checkout, '"tolerance": 1e-06', '"tolerance": 0')
    edit(checkout, old, new)
    status, text = told(checkout)
    assert status == 1
    assert f"toy: differs: {word}" in text or ("differs" in text and word in text)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"size": 30', '"size": 20', "the paper config has changed since the committed run: size"),
        ('"seed": 0,', "", "seed is 0 now, was absent"),
        ('"seed": 0', '"seed": 0, "depth": 4', "depth is gone now, was 4"),
        (
            '"speed": "at least 2"',
            '"speed": "at least 1"',
            "speed: the criterion is 'at least 2' now, was 'at least 1' at the committed paper run",
        ),
        ('"speed": "at least 2",', "", "speed: the criterion is 'at least 2' now, was None"),
        ('"peer": {', '"gone": {', "gone: committed, but no longer a claim"),
    ],
)
def test_a_paper_result_of_other_declarations_is_found(saved_both, old, new, words):
    assert told(saved_both)[0] == 0
    edit(saved_both, old, new, preset="paper")
    status, text = told(saved_both)
    assert status == 1
    (line,) = (line for line in text.splitlines() if line.startswith("toy: differs: "))
    assert words in line
    assert line.endswith(": python -m experiments run toy --preset paper --save")


@pytest.mark.parametrize(("claim", "status"), [("peer", 0), ("speed", 1)])
def test_a_gpu_result_does_not_bind_the_criteria_of_what_it_misses(make_checkout, claim, status):
    with_gpu = TOY.replace('"paper": Config(size=30)', '"gpu": Config(size=30)')
    checkout = make_checkout(toy=with_gpu)
    saved(checkout)
    run_experiments(["toy"], "gpu", save=True, checkout=checkout)
    update_readme(checkout)
    path = record_path(checkout.results, "toy", "gpu")
    record = json.loads(path.read_text())
    assert ("missing" in record["values"][claim]) == (claim == "peer")
    record["criteria"][claim] = "at least 1.5"
    path.write_text(json.dumps(record))
    assert told(checkout)[0] == status


def test_a_gpu_result_without_its_preset_is_found(checkout):
    saved(checkout)
    text = record_path(checkout.results, "toy", "smoke").read_text()
    other = text.replace('"preset": "smoke"', '"preset": "gpu"').replace(
        '["again", "growth"]', "[]"
    )
    record_path(checkout.results, "toy", "gpu").write_text(other)
    update_readme(checkout)
    status, text = told(checkout)
    assert status == 1
    assert "a gpu result is committed, but PRESETS has no 'gpu'" in text


def test_nested_config_fields_are_named(make_checkout):
    nested = TOY.replace("    scales: tuple", "    inner: Inner = Inner()\n\n    scales: tuple")
    inner = '@dataclass(frozen=True)\nclass Inner:\n    """Inner."""\n\n    depth: int = 2\n\n\n'
    checkout = saved(make_checkout(toy=nested.replace("@dataclass", inner + "@dataclass", 1)))
    assert told(checkout)[0] == 0
    edit(checkout, '"depth": 2', '"depth": 3')
    status, text = told(checkout)
    assert status == 1
    assert "inner.depth is 2 now, was 3" in text


def test_a_flipped_verdict_is_found_within_the_tolerance(checkout):
    saved(checkout)
    edit(checkout, '"tolerance": 1e-06', '"tolerance": 1.0')
    edit(checkout, '"value": 0.5', '"value": 0.8')
    status, text = told(checkout)
    assert status == 1
    assert "mean: reproduced now, was not reproduced" in text


def test_a_move_within_the_tolerance_agrees(checkout):
    saved(checkout)
    edit(checkout, '"value": 0.5', '"value": 0.5000005')
    assert told(checkout)[0] == 0


def test_a_missing_asset_is_a_warning(make_checkout):
    checkout = saved(make_checkout(toy=TOY))
    edit(checkout, '"missing": "the peer is not installed"', TIMED)
    status, text = told(checkout)
    assert status == 0
    assert "toy: warning: peer: not run here: the peer is not installed" in text


TIMED = '"value": [2.0], "kind": "timed", "tolerance": 0.0, "spread": null'


def test_a_timed_value_is_judged_anew_and_only_warned_about(make_checkout):
    slow = TOY.replace('Missing("the peer is not installed")', 'Value([0.5], "timed")')
    checkout = saved(make_checkout(toy=slow))
    edit(checkout, '"value": [0.5]', '"value": [7.0]')
    status, text = told(checkout)
    assert status == 0
    assert "toy: warning: peer: 0.5x is not each at least 1 in this run" in text


def test_a_failed_claim_needs_its_reason(make_checkout):
    failing = TOY.replace("criterion=at_least(3)", "criterion=at_least(31)")
    reasons = "REASONS = {'count': 'Too few | things.'}\nASSUMPTIONS = "
    explained = failing.replace("ASSUMPTIONS = ", reasons)
    for source, status in ((failing, 1), (explained, 0)):
        checkout = saved(make_checkout(toy=source))
        assert told(checkout)[0] == status
        said = "count: not reproduced, and REASONS does not say why" in told(checkout)[1]
        assert said == (status == 1)
    assert "Too few \\| things. |" in checkout.readme.read_text()


def test_local_runs_can_be_checked_without_running_again(checkout):
    saved(checkout)
    assert told(checkout, local=True) == (
        1,
        "toy: differs: no local run: python -m experiments run toy\n",
    )
    run_experiments(["toy"], checkout=checkout)
    assert told(checkout, local=True)[0] == 0
    run_experiments(["toy"], seed=1, checkout=checkout)
    status, text = told(checkout, local=True)
    assert status == 1
    assert "the smoke config has changed" in text


def test_an_unknown_name_is_refused(checkout):
    with pytest.raises(ValueError, match="did you mean toy"):
        told(checkout, "toyy")


def test_a_stale_readme_is_found(checkout):
    saved(checkout)
    checkout.readme.write_text(checkout.readme.read_text().replace("at least 3", "at least 2"))
    status, text = told(checkout)
    assert status == 1
    assert "scorecard --readme" in text
    checkout.readme.write_text("no markers")
    assert told(checkout)[0] == 1
    checkout.readme.unlink()
    assert told(checkout)[0] == 1


def test_broken_and_absent_results_fail_and_do_not_stop_the_rest(make_checkout, capsys):
    checkout = make_checkout(broken=FAILING, fine=TOY, toy=TOY)
    run_experiments(["fine", "toy"], save=True, checkout=checkout)
    record_path(checkout.results, "toy", "smoke").write_text("{")
    status, text = told(checkout)
    assert status == 1
    assert "broken: differs: the experiment failed" in text
    assert "the toy broke" in capsys.readouterr().err
    assert "fine: agrees" in text
    assert "no usable result" in text
    record_path(checkout.results, "toy", "smoke").unlink()
    assert "there is no committed smoke result" in told(checkout, "toy")[1]
