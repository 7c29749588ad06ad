"""The README's examples run as they stand, and the commands it names exist."""

import re
from pathlib import Path

import numpy as np
import pytest

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
MAKEFILE = (Path(__file__).parents[2] / "Makefile").read_text(encoding="utf-8")


EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def runs(package: str, names: dict) -> dict:
    """Names after the one example that imports from the package."""
    (example,) = (text for text in EXAMPLES if f"from jaxlab.{package} import" in text)
    exec(example, names)
    return names


def test_the_example_for_borrowers_runs_and_goes_on_sharded():
    names = runs("blocksparse", {})
    assert names["out"].shape == names["grads"].shape == names["q"].shape
    assert 0 < names["mask"].density() < 1
    assert len(EXAMPLES[0].strip().splitlines()) <= 12
    alone = names.pop("out")
    np.testing.assert_allclose(runs("dbsp", names)["out"], alone, atol=2e-6)


def test_the_example_of_a_memory_plan_runs():
    made = runs("stweaver", {})["made"]
    assert made.height >= made.lower_bound


def test_the_example_of_transport_runs():
    assert np.trace(np.asarray(runs("vne", {})["corr"])).real == pytest.approx(30)


def test_every_example_is_run():
    imported = {re.search(r"from jaxlab\.(\w+) import", text).group(1) for text in EXAMPLES}
    assert imported == {"blocksparse", "dbsp", "stweaver", "vne"}
    assert len(EXAMPLES) == 4


@pytest.mark.parametrize("target", sorted(set(re.findall(r"make ([a-z-]+)", README))))
def test_every_target_named_exists(target):
    assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_every_link_leads_somewhere(path):
    assert (Path(__file__).parents[2] / path).exists()
