import importlib
import json
import subprocess
import sys

import pytest

from experiments.harness.__main__ import main as minimal
from experiments.harness.processes import join_processes
from experiments.harness.record import read
from tests.experiments.harness.toys import FAILING, FIGURES, TOY

pytest.importorskip("tyro")
main = importlib.import_module("experiments.__main__").main


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "scorecard"),
        (["list"], "Show the experiments"),
        (["run"], "Experiments: toy"),
        (["run", "toy"], "How many things to count"),
        (["report"], "-o"),
        (["check"], "smoke size"),
        (["scorecard"], "--json"),
    ],
)
def test_help_helps_at_each_level(checkout, capsys, words, told):
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--help"], checkout)
    assert stopped.value.code == 0
    assert told in capsys.readouterr().out


def test_help_shows_the_defaults_of_the_chosen_preset(checkout, capsys):
    for words in (["--preset", "paper", "--help"], ["--help", "--preset=paper"]):
        with pytest.raises(SystemExit):
            main(["run", "toy", *words], checkout)
        assert "(default: 30)" in capsys.readouterr().out


def test_help_of_the_minimal_runner(checkout, capsys):
    with pytest.raises(SystemExit) as stopped:
        minimal(["--help"], checkout)
    assert stopped.value.code == 0
    assert "experiments: toy" in capsys.readouterr().out


def test_list_shows_names_and_titles(checkout, capsys):
    assert main(["list"], checkout) == 0
    assert "Toys: counts <b>things</b> & compares them" in capsys.readouterr().out


def test_config_fields_are_options(checkout):
    words = ["run", "toy", "--size", "17", "--preset", "paper", "--scales", "0.25", "1", "--seed=4"]
    assert main(words, checkout) == 0
    assert read(checkout.runs, "toy", "paper").config == {
        "seed": 4,
        "size": 17,
        "scales": [0.25, 1.0],
    }


def test_a_seed_is_for_all_of_several_experiments(make_checkout):
    checkout = make_checkout(one=TOY, two=TOY)
    assert main(["run", "one", "two", "--seed", "4"], checkout) == 0
    assert main(["run", "all", "--seed", "4"], checkout) == 0
    assert [read(checkout.runs, name, "smoke").config["seed"] for name in ("one", "two")] == [4, 4]


def test_saving_takes_the_preset_as_it_is(checkout, capsys):
    assert main(["run", "toy", "--save", "--size", "3"], checkout) == 0
    assert read(checkout.results, "toy", "smoke") is not None
    assert main(["run", "toy", "--save", "--size", "4"], checkout) == 2
    assert "drop --save" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run", "tpy"], "did you mean toy"),
        (["run", "toy", "tpy"], "did you mean toy"),
        (["run"], "or 'all'"),
        (["run", "toy", "--preset", "gpu"], "it has smoke, paper"),
        (["run", "toy", "--process-id", "0"], "need --distributed"),
        (["run", "toy", "--distributed", "--coordinator-address", "nowhere"], "host:port"),
    ],
)
def test_mistakes_are_told_without_a_traceback(checkout, capsys, words, told):
    assert main(words, checkout) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "words",
    [["run", "toy", "--siz", "3"], ["run", "toy", "--size", "x"], ["run", "a", "b", "--size", "3"]],
)
def test_wrong_options_stop_before_a_run(checkout, words):
    with pytest.raises(SystemExit) as stopped:
        main(words, checkout)
    assert stopped.value.code == 2
    assert not checkout.runs.exists()


def test_the_exit_status_tells_of_a_failure(make_checkout):
    checkout = make_checkout(broken=FAILING, toy=TOY)
    assert main(["run", "all"], checkout) == 1
    assert minimal(["broken"], checkout) == 1
    assert minimal(["toy"], checkout) == 0
    assert main(["check"], checkout) == 1


def test_scorecard_report_and_readme(checkout, capsys, tmp_path):
    assert main(["run", "toy", "--preset", "paper", "--save"], checkout) == 0
    assert main(["run", "toy", "--save"], checkout) == 0
    capsys.readouterr()
    assert main(["scorecard", "--json"], checkout) == 0
    assert json.loads(capsys.readouterr().out)[2]["measured"] == 2.5
    assert main(["scorecard"], checkout) == 0
    assert "5 claims: 3 reproduced" in capsys.readouterr().out
    assert main(["check"], checkout) == 1
    assert main(["scorecard", "--readme"], checkout) == 0
    assert main(["check", "toy"], checkout) == 0
    assert main(["report", "-o", str(tmp_path / "out")], checkout) == 0
    assert (tmp_path / "out" / "index.html").is_file()


def test_what_is_not_needed_is_not_imported(make_checkout, tmp_path):
    checkout = make_checkout(toy=TOY, figures_toy=FIGURES)
    script = f"""
import sys
import experiments.harness
for name in ("jax", "matplotlib", "tyro", "pooch", "rich", "jinja2"):
    assert name not in sys.modules, name
from pathlib import Path
from tests.experiments.harness import toys
sys.path.insert(0, {str(tmp_path)!r})
checkout = toys.Checkout(Path({str(tmp_path)!r}), {checkout.package!r})
from experiments.__main__ import main
assert main(["list"], checkout) == 0
for name in ("jax", "matplotlib", "jinja2", {checkout.package!r}):
    assert name not in sys.modules, name
for name in [name for name in sys.modules if name.split(".")[0] == "tyro"]:
    del sys.modules[name]
sys.modules["tyro"] = sys.modules["pooch"] = None
toys.reachable(checkout)
from experiments.harness.__main__ import main
assert main(["toy", "--preset", "paper", "--save"], checkout) == 0
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert (checkout.results / "toy" / "paper-growth.svg").is_file()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("host", 2, 0), "host:port"),
        (("host:99999", 2, 0), "host:port"),
        (("host:80", 0, 0), "less than 1"),
        (("host:80", 2, 2), "not between 0 and 2"),
        (("host:80", 2, -1), "not between"),
    ],
)
def test_wrong_addresses_are_refused_before_jax_waits_for_them(arguments, told):
    with pytest.raises(ValueError, match=told):
        join_processes(*arguments)
