import dataclasses
import io
import sys

import pytest
from rich.console import Console

from experiments.harness import load
from experiments.harness.record import read
from experiments.harness.result import Missing
from experiments.harness.runner import execute, run_experiments
from experiments.harness.scorecard import entries
from tests.experiments.harness.toys import FAILING, FIGURES, TOY


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=150)


def test_a_local_run_is_stored_apart_from_the_committed_results(checkout, console):
    assert run_experiments(["toy"], checkout=checkout, console=console) == 0
    assert not checkout.results.exists()
    record = read(checkout.runs, "toy", "smoke")
    assert record.config == {"seed": 0, "size": 3, "scales": [0.5, 0.25]}
    assert record.criteria["mean"] == "within 0.25 of 0.5"
    assert record.figures == ("growth", "again")
    assert record.environment
    text = console.file.getvalue()
    assert "reproduced" in text
    assert "the peer is not installed" in text
    assert "[red]brackets[/red]" in text


def test_saving_writes_the_committed_results(checkout, console):
    assert run_experiments(["toy"], "paper", save=True, checkout=checkout, console=console) == 0
    assert read(checkout.results, "toy", "paper").result["speed"] == 2.5
    assert not (checkout.runs / "toy" / "paper.json").exists()


def test_a_run_that_misses_values_is_not_saved_over_one_that_has_them(
    make_checkout, console, capsys
):
    checkout = make_checkout(toy=TOY, figures_toy=FIGURES)
    assert run_experiments(["toy"], save=True, checkout=checkout, console=console) == 0
    source = checkout.source("toy")
    source.write_text(TOY.replace("Value(count)", 'Missing("no clip")'), encoding="utf-8")
    sys.modules.pop(f"{checkout.package}.toy")
    assert run_experiments(["toy"], save=True, checkout=checkout, console=console) == 1
    assert "misses: count (no clip)" in capsys.readouterr().err
    assert read(checkout.results, "toy", "smoke").result["count"] == 3
    assert isinstance(read(checkout.runs, "toy", "smoke").result.values["count"], Missing)


def test_only_the_presets_own_results_can_be_saved(checkout):
    changed = load("toy", checkout).config("smoke")
    with pytest.raises(ValueError, match="drop --save"):
        run_experiments(["toy"], seed=3, save=True, checkout=checkout)
    with pytest.raises(ValueError, match="drop --save"):
        run_experiments(["toy"], config=changed, save=True, checkout=checkout)


def test_a_failing_experiment_does_not_stop_the_others(make_checkout, console, capsys):
    checkout = make_checkout(a_broken=FAILING, b_unimportable="import nowhere_to_be_found", toy=TOY)
    assert run_experiments(["all"], checkout=checkout, console=console) == 1
    assert read(checkout.runs, "toy", "smoke").result["count"] == 3
    told = capsys.readouterr().err
    assert "RuntimeError: the toy broke" in told
    assert "nowhere_to_be_found" in told
    assert "failed: a_broken, b_unimportable (2 of 3)" in told


def test_all_leaves_out_experiments_without_the_preset(make_checkout, console):
    checkout = make_checkout(broken=FAILING, toy=TOY)
    assert run_experiments(["all"], "paper", checkout=checkout, console=console) == 0
    assert "broken has no preset paper" in console.file.getvalue()
    assert read(checkout.runs, "toy", "paper") is not None


def test_a_figure_that_fails_does_not_lose_the_numbers(make_checkout, console, capsys):
    checkout = make_checkout(toy=TOY, figures_toy=FIGURES.replace("Figure()", "Fig()"))
    assert run_experiments(["toy"], checkout=checkout, console=console) == 1
    assert "NameError" in capsys.readouterr().err
    record = read(checkout.runs, "toy", "smoke")
    assert record.result["count"] == 3
    assert record.figures == ()


def test_what_is_not_available_is_no_failure(make_checkout, console):
    absent = '    raise Unavailable("no clip: get it")\n    count = steps'
    source = TOY.replace("    count = steps", absent)
    checkout = make_checkout(toy=source, figures_toy=FIGURES)
    assert run_experiments(["toy"], checkout=checkout, console=console) == 0
    record = read(checkout.runs, "toy", "smoke")
    found = entries(load("toy", checkout), {"smoke": record})
    outcomes = {entry.claim.id: entry.verdict for entry in found}
    assert outcomes["count"] == ("not run here", "no clip: get it")
    assert outcomes["silicon"].outcome == "not checkable here"
    assert record.figures == ()


def test_nan_is_stored_and_not_reproduced(make_checkout, console):
    checkout = make_checkout(toy=TOY.replace("Value(count)", 'Value(float("nan"))'))
    assert run_experiments(["toy"], checkout=checkout, console=console) == 0
    [count, *_] = entries(load("toy", checkout), {"smoke": read(checkout.runs, "toy", "smoke")})
    assert (count.measured, count.verdict.outcome) == ("nan", "not reproduced")


def test_a_value_of_the_wrong_kind_fails_the_run_that_made_it(make_checkout, console, capsys):
    checkout = make_checkout(toy=TOY.replace("Value(count)", "Value([count])"))
    assert run_experiments(["toy"], checkout=checkout, console=console) == 1
    assert "claim 'count'" in capsys.readouterr().err
    assert not (checkout.runs / "toy" / "smoke.json").exists()


def test_only_process_zero_writes_and_prints(checkout, capsys):
    assert run_experiments(["toy"], process=1, checkout=checkout) == 0
    assert capsys.readouterr().out == ""
    assert not checkout.runs.exists()
    assert run_experiments(["toy"], process=0, checkout=checkout) == 0
    assert [path.suffix for path in (checkout.runs / "toy").glob("*.json")] == [".json"]


def test_a_seed_and_a_config_reach_the_run(checkout, console):
    own = load("toy", checkout).config("smoke")
    config = dataclasses.replace(own, size=5)
    run_experiments(["toy"], config=config, seed=2, checkout=checkout, console=console)
    record = read(checkout.runs, "toy", "smoke")
    assert (record.result["count"], record.result["mean"]) == (5, 0.625)
    assert record.config["seed"] == 2


def test_execute_needs_no_terminal_and_stores_nothing(checkout):
    record = execute(load("toy", checkout), "smoke")
    assert record.result["count"] == 3
    assert record.seconds >= 0
    assert not checkout.runs.exists()


def test_nothing_to_run_is_an_error(checkout):
    with pytest.raises(ValueError, match="or 'all'"):
        run_experiments([], checkout=checkout)
    with pytest.raises(ValueError, match="did you mean toy"):
        run_experiments(["toy", "tpy"], checkout=checkout)
