import sys

import pytest

from experiments.harness.runner import run_experiments
from tests.experiments.harness import toys


@pytest.fixture
def make_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    return lambda **modules: toys.make_checkout(tmp_path, **modules)


@pytest.fixture
def checkout(make_checkout):
    return make_checkout()


@pytest.fixture
def saved(checkout):
    for preset in ("smoke", "paper"):
        run_experiments(["toy"], preset, save=True, checkout=checkout)
    return checkout
