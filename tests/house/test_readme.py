"""The README's examples run as they stand, and the commands it names exist."""

import functools
import re
from pathlib import Path

import numpy as np
import pytest

from experiments.harness import Checkout

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
MAKEFILE = (Path(__file__).parents[2] / "Makefile").read_text(encoding="utf-8")

EXAMPLES = {
    re.search(r"from jaxlab\.(\w+) import", text).group(1): text
    for text in re.findall(r"```python\n(.*?)```", README, re.DOTALL)
}

COMMANDS = sorted(set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE)))


@functools.cache
def names_after(package: str) -> dict:
    """Names after the example of a package, run with those of the page's first one at hand."""
    first = next(iter(EXAMPLES))
    names = {} if package == first else dict(names_after(first))
    exec(EXAMPLES[package], names)
    return names


@pytest.mark.parametrize("package", EXAMPLES)
def test_every_example_runs(package):
    assert names_after(package)


def test_every_system_has_one_example():
    assert README.count("```python") == len(EXAMPLES)
    assert set(Checkout().names()) <= set(EXAMPLES)


def test_the_example_for_borrowers_goes_on_sharded():
    names = names_after("blocksparse")
    assert names["out"].shape == names["grads"].shape == names["q"].shape
    assert 0 < names["mask"].density() < 1
    assert len(EXAMPLES["blocksparse"].strip().splitlines()) <= 12
    np.testing.assert_allclose(names_after("dbsp")["out"], names["out"], atol=2e-6)


def test_the_example_of_a_memory_plan_is_above_its_bound():
    made = names_after("stweaver")["made"]
    assert made.height >= made.lower_bound


def test_the_example_of_transport_keeps_its_particles():
    assert np.trace(np.asarray(names_after("vne")["corr"])).real == pytest.approx(30)


@pytest.mark.parametrize("target", COMMANDS)
def test_every_target_named_exists(target):
    assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)


def test_the_two_commands_are_among_them():
    assert {"reproduce", "test"} <= set(COMMANDS)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_every_link_leads_somewhere(path):
    assert (Path(__file__).parents[2] / path).exists()
