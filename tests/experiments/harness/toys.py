"""A checkout with toy experiments, written to a temporary folder."""

import importlib.util
import itertools
import sys
from pathlib import Path

from experiments.harness import Checkout

TOY = '''"""Toys: counts <b>things</b> & compares them.

Run it:

    python -m experiments run toy
"""

import json
from dataclasses import dataclass
from pathlib import Path

from experiments.harness import *


@dataclass(frozen=True)
class Config:
    """What to count."""

    seed: int = 0
    """Where the noise starts."""

    # How many things to count.
    size: int = 3

    scales: tuple[float, ...] = (0.5, 0.25)


PRESETS = {"smoke": Config(), "paper": Config(size=30)}
CLAIMS = (
    Claim("count", sentence="Things | add up <script>alert(1)</script>.", source="Table 1",
          quantity="things", unit="", paper=3, criterion=at_least(3), obtained="exact",
          preset="smoke"),
    Claim("mean", sentence="The mean is small.", source="abstract", quantity="mean", unit="s",
          paper=0.5, criterion=within(0.5, 0.25), obtained="modelled", preset="smoke"),
    Claim("speed", sentence="It is fast.", source="Figure 2", quantity="a / b", unit="x",
          paper=3.1, criterion=at_least(2), obtained="measured", preset="paper"),
    Claim("peer", sentence="It beats a peer.", source="goal", quantity="peer / ours", unit="x",
          paper=None, criterion=each(at_least(1)), obtained="measured", preset="smoke",
          goal=True),
    Claim("silicon", sentence="The chip is small.", source="Table 9", quantity="area",
          unit="mm^2", paper="0.3", criterion=None, obtained="measured", preset="smoke",
          reason="there is no chip here"),
)
ASSUMPTIONS = ("Counting is <free>.",)


def run(config, steps=Steps()):
    count = steps.do("count", lambda: sum(1 for _ in steps.track(range(config.size), "count")))
    values = {
        "count": Value(count),
        "mean": Value(config.scales[0] + 0.0625 * config.seed, "deterministic", tolerance=1e-6),
        "peer": Missing("the peer is not installed"),
    }
    if config.size > 10:
        values["speed"] = Value(2.5, "timed", spread=(2.4, 2.75))
    return Result(
        values=values,
        tables=(
            Table("Things <&>", ("thing", "size"), (("<i>a</i>", 1.5), ("b", None)), "few"),
            Table("Wide", tuple(f"a long column {i}" for i in range(12)), (tuple(range(12)),)),
        ),
        notes=("a note with <b>markup</b> and [red]brackets[/red]",),
        facts={"curve": [1.0, 2.0, 4.0], "x" * 90: 1},
    )
'''

FIGURES = '''"""Figures of the toy."""

from matplotlib.figure import Figure


def draw(result):
    figure = Figure()
    axes = figure.subplots()
    axes.plot(result.facts["curve"], label="curve", marker="o")
    axes.fill_between([0, 1, 2], result.facts["curve"], alpha=0.3)
    axes.set(xlabel="step", ylabel="size < limit")
    axes.legend()
    return {"growth": figure, "again": figure}
'''

FAILING = '''"""Always fails."""

from dataclasses import dataclass

from experiments.harness import Steps


@dataclass(frozen=True)
class Config:
    """Nothing."""

    seed: int = 0


PRESETS = {"smoke": Config()}
CLAIMS = ()


def run(config, steps=Steps()):
    raise RuntimeError("the toy broke")
'''

README = "# Toys\n<!-- scorecard:begin -->\n<!-- scorecard:end -->\nafter\n"

_numbers = itertools.count()


def make_checkout(root: Path, **modules: str) -> Checkout:
    """Write experiment modules (and ``figures_<name>``) below a folder and make it importable."""
    package = f"toys{next(_numbers)}"
    folder = root / package
    (folder / "figures").mkdir(parents=True)
    for name, source in (modules or {"toy": TOY, "figures_toy": FIGURES}).items():
        parent = folder / "figures" if name.startswith("figures_") else folder
        (parent / f"{name.removeprefix('figures_')}.py").write_text(source, encoding="utf-8")
    (root / "README.md").write_text(README, encoding="utf-8")
    return reachable(Checkout(root, package))


def reachable(checkout: Checkout) -> Checkout:
    """Make the experiments of a checkout importable in this process."""
    if str(checkout.root) not in sys.path:
        sys.path.insert(0, str(checkout.root))
    importlib.invalidate_caches()
    return checkout
