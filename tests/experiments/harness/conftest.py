import sys

import pytest

from tests.experiments.harness import toys


@pytest.fixture
def make_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    return lambda **modules: toys.make_checkout(tmp_path, **modules)


@pytest.fixture
def checkout(make_checkout):
    return make_checkout()
