import dataclasses
import io
import math
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress

from experiments.harness import Steps
from experiments.harness.steps import steps_directory


def test_steps_alone_call_and_keep_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    steps = Steps()
    assert steps.do("a", lambda x, *, y: (x, np.arange(y)), 1, y=2) == [1, [0, 1]]
    assert list(steps.track(iter("abc"), "letters")) == ["a", "b", "c"]
    steps.forget()
    assert not list(tmp_path.iterdir())
    assert steps.do("a", lambda: "a default argument serves many runs").startswith("a default")


def test_an_interrupted_run_goes_on_after_its_finished_steps(tmp_path):
    calls = []

    def step(name, fail=False):
        calls.append(name)
        if fail:
            raise KeyboardInterrupt
        return {"name": name, "nan": math.nan}

    first = Steps(tmp_path / "kept")
    first.do("one", step, "one")
    with pytest.raises(KeyboardInterrupt):
        first.do("two", step, "two", fail=True)

    second = Steps(tmp_path / "kept")
    result = second.do("one", step, "never")
    assert (result["name"], math.isnan(result["nan"])) == ("one", True)
    assert second.do("two", step, "two")["name"] == "two"
    assert calls == ["one", "two", "two"]
    assert second.reused == ["one"]
    assert second.reused_seconds > 0
    second.forget()
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    "damage",
    ["", "null", '{"step": "one"}', '{"step": "two", "seconds": 1, "result": 2}', "[" * 9999],
)
def test_a_damaged_step_is_done_again(tmp_path, damage):
    Steps(tmp_path).do("one", lambda: 1)
    [path] = tmp_path.iterdir()
    path.write_text(damage)
    assert Steps(tmp_path).do("one", lambda: 5) == 5
    assert Steps(tmp_path).do("one", lambda: 6) == 5


def test_names_of_steps_are_told_apart(tmp_path):
    steps = Steps(tmp_path)
    assert [steps.do(name, lambda n=name: n) for name in ("a/b", "a b", "../a", "x" * 300)]
    again = Steps(tmp_path)
    assert again.do("a b", lambda: None) == "a b"
    assert again.do("a/b", lambda: None) == "a/b"
    with pytest.raises(ValueError, match="done before"):
        again.do("a b", lambda: None)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_result_that_is_not_plain_names_the_step(tmp_path):
    with pytest.raises(TypeError, match="'odd'"):
        Steps(tmp_path).do("odd", object)
    assert not list(tmp_path.iterdir())


def test_steps_show_what_they_do():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Progress(console=console, auto_refresh=False) as progress:
        steps = Steps(None, progress)
        steps.do("counting [1]", lambda: sum(steps.track(range(4), "numbers")))
    text = console.file.getvalue()
    assert "numbers" in text
    assert "counting [1]" in text
    assert "100%" in text


def test_what_changes_a_step_changes_its_place(tmp_path, monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Config:
        seed: int = 0

    source = tmp_path / "toy.py"
    library = tmp_path / "library"
    library.mkdir()
    source.write_text("1")
    (library / "a.py").write_text("1")

    def place(seed=0):
        return steps_directory(tmp_path / "runs", "toy", Config(seed), [source, library])

    places = [place(), place(seed=1)]
    assert place() == places[0]
    source.write_text("2")
    places.append(place())
    (library / "a.py").write_text("2")
    places.append(place())
    monkeypatch.setenv("XLA_FLAGS", "--xla_of_another_run")
    places.append(place())
    assert len(set(places)) == 5


SLOW = '''"""Two steps, the second of which waits for a file."""

import time
from dataclasses import dataclass
from pathlib import Path

from experiments.harness import *


@dataclass(frozen=True)
class Config:
    """Where to look."""

    seed: int = 0
    folder: str = ""


PRESETS = {"smoke": Config()}
CLAIMS = (
    Claim("calls", sentence="Once.", source="goal", quantity="calls", unit="", paper=None,
          criterion=equals(1), obtained="exact", preset="smoke"),
)


def run(config, steps=Steps()):
    folder = Path(config.folder)

    def first():
        with (folder / "calls").open("a") as file:
            file.write("x")

    def second():
        (folder / "waiting").touch()
        while not (folder / "go").exists():
            time.sleep(0.01)

    steps.do("first", first)
    steps.do("second", second)
    return Result({"calls": Value(len((folder / "calls").read_text()))})
'''


def test_ctrl_c_keeps_finished_steps_and_says_how_to_go_on(make_checkout, tmp_path):
    checkout = make_checkout(slow=SLOW)
    script = (
        "import signal, sys; from pathlib import Path\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in background jobs
        "from tests.experiments.harness import toys\n"
        f"checkout = toys.reachable(toys.Checkout(Path({str(tmp_path)!r}), {checkout.package!r}))\n"
        "from experiments.__main__ import main\n"
        f"sys.exit(main(['run', 'slow', '--folder', {str(tmp_path)!r}], checkout))"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "waiting").exists():
            assert process.poll() is None, process.stdout.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=30)[0].decode()
    assert process.returncode == 130, told
    assert "run the same command again" in " ".join(told.split())
    assert not (checkout.runs / "slow" / "smoke.json").exists()

    (tmp_path / "go").touch()
    again = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert again.returncode == 0, again.stderr
    assert "first: kept from the interrupted run" in again.stdout
    assert "Resumed after an interruption; kept steps: first." in again.stdout
    assert (tmp_path / "calls").read_text() == "x"
    assert [path.name for path in (checkout.runs / "slow").iterdir()] == ["smoke.json"]
