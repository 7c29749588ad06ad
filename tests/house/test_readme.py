"""The README's examples run as they stand, and the commands it names exist."""

import re
from pathlib import Path

import numpy as np
import pytest

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
MAKEFILE = (Path(__file__).parents[2] / "Makefile").read_text(encoding="utf-8")


def test_the_examples_for_borrowers_run():
    example, *systems = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict = {}
    exec(example, names)
    assert names["out"].shape == names["grads"].shape == names["q"].shape
    assert 0 < names["mask"].density() < 1
    assert len(example.strip().splitlines()) <= 12
    alone = names.pop("out")
    for text in systems:  # the first goes on with the names of the example
        exec(text, names)
    np.testing.assert_allclose(names["out"], alone, atol=2e-6)
    assert names["made"].height >= names["made"].lower_bound
    assert np.trace(np.asarray(names["corr"])).real == pytest.approx(30)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"make ([a-z-]+)", README))))
def test_every_target_named_exists(target):
    assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_every_link_leads_somewhere(path):
    assert (Path(__file__).parents[2] / path).exists()
