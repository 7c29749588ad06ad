"""An experiment run by two processes stores what one process stores."""

import shutil
from pathlib import Path

import pytest

from experiments.harness import Checkout, Value
from experiments.harness.record import read
from experiments.harness.result import differs
from tests.distributed.launch import run_processes
from tests.distributed.test_processes import JOIN


@pytest.mark.distributed
def test_two_processes_store_the_values_of_one(tmp_path: Path) -> None:
    for package in ("experiments", "jaxlab"):  # what a user has run here is left alone
        shutil.copytree(Checkout().root / package, tmp_path / package)
    checkout = Checkout(tmp_path)
    finished = run_processes(
        ["-m", "experiments", "run", "blocksparse", "--distributed", *JOIN],
        timeout=240,
        directory=tmp_path,
    )
    assert "wrote" in finished[0].output
    assert "wrote" not in finished[1].output
    ours = read(checkout.runs, "blocksparse", "smoke")
    committed = read(checkout.results, "blocksparse", "smoke")
    compared = 0
    for name, value in committed.result.values.items():
        if isinstance(value, Value) and value.kind != "timed":
            assert differs(ours.result.values[name], value) is None, name
            compared += 1
    assert compared >= 3
