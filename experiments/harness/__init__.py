"""Claims, declared before they are measured, and experiments that decide them.

As data flows:

- `claim`, `criterion`: what is claimed, and when a number confirms it
- `experiment`, `steps`: a module ``experiments/<name>.py``, and how its ``run`` goes on after
  an interruption
- `result`, `record`: what a run hands back, and how it is stored
- `runner`, `processes`: running experiments, in one process or in several
- `scorecard`, `figures`, `report`, `check`: what readers see, and whether it is still true

An experiment imports the names below and nothing else from here.
"""

from experiments.harness.claim import Claim, Verdict, verdict
from experiments.harness.criterion import (
    Criterion,
    all_of,
    at_least,
    at_most,
    between,
    each,
    equals,
    holds,
    within,
)
from experiments.harness.experiment import Checkout, Experiment, load
from experiments.harness.result import Missing, Result, Table, Unavailable, Value
from experiments.harness.steps import Steps

__all__ = [
    "Checkout",
    "Claim",
    "Criterion",
    "Experiment",
    "Missing",
    "Result",
    "Steps",
    "Table",
    "Unavailable",
    "Value",
    "Verdict",
    "all_of",
    "at_least",
    "at_most",
    "between",
    "each",
    "equals",
    "holds",
    "load",
    "verdict",
    "within",
]
