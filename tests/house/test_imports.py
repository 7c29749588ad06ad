"""Importing a package is quick, brings in no other library and leaves jax's settings alone."""

import functools
import json
import subprocess
import sys

import pytest

from tests.house.packages import PACKAGES

pytestmark = pytest.mark.oldest
SECONDS = 0.5
LIGHT = ["jaxlab", *PACKAGES]

_PROBE = """
import json, os, sys, time
import jax, jax.numpy, jaxtyping, numpy
before = set(sys.modules)
settings = dict(jax.config.values)

def probe(name):
    start = time.perf_counter()
    __import__(name)
    seconds = time.perf_counter() - start
    values = jax.config.values
    changed = sorted(name for name, value in values.items() if settings.get(name) != value)
    brought = {name.partition('.')[0] for name in set(sys.modules) - before}
    known = {name.partition('.')[0] for name in before} | set(sys.stdlib_module_names)
    foreign = sorted(brought - known - {'jaxlab'})
    print(json.dumps({'seconds': seconds, 'changed': changed, 'foreign': foreign}), flush=True)

for name in sys.argv[1:]:  # no backend has started yet, so that a fork is a fresh process
    child = os.fork()
    if not child:
        probe(name)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, name
"""


def probe(*names: str) -> dict[str, dict]:
    """Imports each module in a process of its own, after jax, numpy and jaxtyping."""
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, *names], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(names, map(json.loads, done.stdout.splitlines()), strict=True))


first_probe = functools.cache(probe)


@pytest.mark.parametrize("name", LIGHT)
def test_import_changes_no_setting_and_brings_no_other_library(name: str) -> None:
    found = first_probe(*LIGHT)[name]
    assert found["changed"] == [], f"import {name} changes jax's configuration"
    assert found["foreign"] == [], f"import {name} imports more than jax, numpy and jaxtyping"


@pytest.mark.parametrize("name", LIGHT)
def test_import_is_quick(name: str) -> None:
    seconds = first_probe(*LIGHT)[name]["seconds"]
    for _ in range(3):  # the least of several: a busy machine only ever adds time
        if seconds < SECONDS:
            break
        seconds = min(seconds, probe(name)[name]["seconds"])
    assert seconds < SECONDS, f"import {name} takes {seconds:.2f} s beyond jax, numpy, jaxtyping"


def test_the_probe_sees_settings_libraries_and_time(tmp_path, monkeypatch) -> None:
    (tmp_path / "intruder.py").write_text(
        "import time, jax, pytest\njax.config.update('jax_enable_x64', True)\ntime.sleep(0.2)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = probe("intruder")["intruder"]
    assert found["changed"] == ["jax_enable_x64"]
    assert "pytest" in found["foreign"]
    assert found["seconds"] > 0.2
