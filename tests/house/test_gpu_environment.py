"""GPU tests are collected and experiments load where only the scientific stack stands."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ABSENT = ("av", "beartype", "pooch", "pytest_timeout", "tyro", "typeguard", "xdist")


def python(code: str) -> subprocess.CompletedProcess[str]:
    blocked = f"import sys\nsys.modules.update(dict.fromkeys({ABSENT!r}))\n"
    return subprocess.run(
        [sys.executable, "-c", blocked + code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={"PATH": "", "JAX_PLATFORMS": "cpu", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )


def test_gpu_tests_are_collected() -> None:
    collected = python(
        "import pytest\n"
        "options = ['-p', 'no:cacheprovider', '-m', 'gpu', '--collect-only', '-q']\n"
        "sys.exit(pytest.main([*options, 'tests']))"
    )
    assert collected.returncode == 0, collected.stdout + collected.stderr
    assert "test_mosaic_gpu.py::" in collected.stdout


def test_every_experiment_loads() -> None:
    loaded = python(
        "from experiments.harness import Checkout, load\n"
        "for name in Checkout().names():\n"
        "    load(name).config('smoke')\n"
        "    print('loaded', name)\n"
    )
    assert loaded.returncode == 0, loaded.stderr
    assert "loaded blocksparse" in loaded.stdout
