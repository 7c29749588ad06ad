"""The environment record: complete, serializable, and silent about whose machine it is."""

import getpass
import json
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxlab.measure import environment

pytestmark = pytest.mark.oldest


def test_versions_and_devices() -> None:
    record = environment()
    assert record["jax"] == jax.__version__
    assert record["numpy"] == np.__version__
    assert record["python"] == platform.python_version()
    assert record["devices"] == len(jax.devices())
    assert record["platform"] == jax.default_backend()
    assert record["processes"] == 1
    assert record["cpu"]
    assert json.loads(json.dumps(record)) == record


def test_cores_are_those_of_this_process() -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system does not restrict a process to some cores")
    script = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "from jaxlab.measure import environment; print(environment()['cores'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1"


def test_memory_agrees_with_the_kernel() -> None:
    listing = Path("/proc/meminfo")
    if not listing.exists():
        pytest.skip("no /proc/meminfo here")
    kib = int(listing.read_text().split("MemTotal:")[1].split()[0])
    assert environment()["memory_bytes"] == pytest.approx(kib * 1024, rel=1e-3)


def test_flags_of_xla_are_told_but_for_paths(monkeypatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_b=2  --xla_dump_to=/some/folder --xla_a=false")
    assert environment()["xla_flags"] == "--xla_a=false --xla_b=2"


def test_names_neither_machine_nor_user_nor_files() -> None:
    private = {socket.gethostname(), getpass.getuser(), str(Path.home())}
    values = [str(value) for value in environment().values()]
    assert not [value for value in values if value in private or "/" in value]
