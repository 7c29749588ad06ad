"""The skeleton of a new system in CONTRIBUTING.md runs and passes the linter as it stands."""

import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from experiments.harness import Result
from experiments.harness.claim import verdict

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PARAGRAPH = r"^`(experiments/[\w/]+\.py)`[^\n]*(?:\n[^\n]+)*\n\n```python\n(.*?)```"
FILES = dict(re.findall(PARAGRAPH, TEXT, re.MULTILINE | re.DOTALL))


def test_the_skeleton_has_its_three_files():
    assert list(FILES) == [
        "experiments/claims/ledger.py",
        "experiments/workloads/ledger_balance.py",
        "experiments/ledger.py",
    ]


def test_the_skeleton_runs(monkeypatch):
    for path, text in FILES.items():
        name = path.removesuffix(".py").replace("/", ".")
        module = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)  # dataclasses look for it there
        exec(text, module.__dict__)
    result = module.run(module.PRESETS["smoke"])
    assert isinstance(result, Result)
    (claim,) = module.CLAIMS
    assert verdict(claim, result[claim.id], "smoke").outcome == "reproduced"


@pytest.mark.parametrize("path", FILES)
def test_the_skeleton_passes_the_linter(path):
    pytest.importorskip("ruff")
    for words in (["check"], ["format", "--check"]):
        told = subprocess.run(
            [sys.executable, "-m", "ruff", *words, "--stdin-filename", ROOT / path, "-"],
            input=FILES[path],
            capture_output=True,
            text=True,
            check=False,
        )
        assert told.returncode == 0, told.stdout + told.stderr
