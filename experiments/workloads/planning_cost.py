"""What planning takes on the host, and what it saves."""

import time
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jaxtyping import Bool

from experiments.workloads.parallel_attention import Setting, overhead
from experiments.workloads.timed_layers import DEGREES
from jaxlab.dbsp import (
    CostModel,
    fit_home,
    greedy_plans,
    imbalance_ratio,
    plan,
    select,
    work_table,
)

LAYER_SECONDS = 0.05
"""Attention of one layer without a plan, on eight devices."""

SHORT, HIDDEN = 5000, 50_000
"""Evaluations of the search that has to pay for itself, and of the one that hides in a layer."""

MODEL_LAYERS, MODEL_STEPS = 40, 30
"""What one run of a model has, over which the fit of a home is spread."""


def greedy_cost(
    blocks: Bool[np.ndarray, "heads q_blocks kv_blocks"], model: CostModel, rounds: int = 15
) -> dict[str, object]:
    """Times the paper's plans for every pair of degrees from a mask, and the choice among them.

    Args:
      blocks: on the host.
      model: chooses.
      rounds: of which the median counts; compilation comes before.

    Returns:
      Seconds: ``plans``, their ``spread``, ``prediction``, and ``copy`` of the mask from a device
      to the host, ``judging`` one plan on the mask, ``reading`` every byte of the mask once on all
      cores, below which no planner can come; ``moved`` parts and ``ratio`` of the chosen plan.
    """
    from jaxlab.dbsp.bits import in_parts

    words = blocks.reshape(-1)[: blocks.size // 8 * 8].view(np.uint64)
    greedy_plans(blocks, degrees=DEGREES)
    seconds, prediction = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        plans = greedy_plans(blocks, degrees=DEGREES)
        planned = time.perf_counter()
        by_degrees = {degrees: one for degrees, (one, _) in plans.items()}
        work = {degrees: table for degrees, (_, table) in plans.items()}
        degrees, _ = select(work, model, plans=by_degrees)
        seconds.append(planned - began)
        prediction.append(time.perf_counter() - planned)
    chosen = by_degrees[degrees]
    on_device = jax.block_until_ready(jax.device_put(blocks))
    return {
        "plans": np.median(seconds),
        "spread": [min(seconds), max(seconds)],
        "prediction": np.median(prediction),
        "copy": _median(lambda: np.array(on_device)),
        "reading": _median(
            lambda: in_parts(lambda start, stop: words[start:stop].max(), words.size), rounds
        ),
        "judging": _median(lambda: work_table(blocks, chosen)),
        "moved": [chosen.q_moved, chosen.kv_moved],
        "ratio": imbalance_ratio(work[degrees]),
    }


def search_cost(
    blocks: Bool[np.ndarray, "heads q_blocks kv_blocks"],
    others: list[np.ndarray],
    *,
    evaluations: int,
    interval: float,
) -> dict[str, dict[str, float]]:
    """Times the refined search at U1R8 and says what it saves until the next plan.

    A layer takes ``LAYER_SECONDS`` from contiguous shards without a plan, and as much less as its
    imbalance ratio is lower; what is moved costs nothing here.

    Args:
      blocks: the mask of a layer.
      others: masks that a home is fitted to.
      evaluations: of the long search.
      interval: steps that a plan serves.

    Returns:
      By way to plan: ``seconds`` of planning, ``ratio`` reached and seconds ``saved`` until the
      next plan; for the fitted home, until the end of one run of the model.
    """
    degrees = {"ulysses": 1, "ring": 8}
    before = imbalance_ratio(work_table(blocks, plan(blocks, **degrees, blocks="none")))

    def searched(count: int) -> Mapping[str, float]:
        seconds = _median(lambda: plan(blocks, **degrees, evaluations=count), 3)
        found = plan(blocks, **degrees, evaluations=count)
        ratio = imbalance_ratio(work_table(blocks, found))
        saved = interval * LAYER_SECONDS * (1 - ratio / before)
        return {"seconds": seconds, "ratio": ratio, "saved": saved}

    home = fit_home(others, ring=8)
    seconds = _median(lambda: fit_home(others, ring=8), 3)
    kept = plan(blocks, **degrees, home=home, blocks="none")
    ratio = imbalance_ratio(work_table(blocks, kept))
    saved = MODEL_LAYERS * MODEL_STEPS * LAYER_SECONDS * (1 - ratio / before)
    return {
        "short": dict(searched(SHORT)),
        "hidden": dict(searched(HIDDEN)),
        "long": dict(searched(evaluations)),
        "home": {"seconds": seconds, "ratio": ratio, "saved": saved},
    }


def balancing_costs(setting: Setting, greedy: dict, served: float) -> dict[str, float]:
    """What greedy plans cost, as parts of the attention they serve; judging them stands beside."""
    attention = setting.attention_seconds * greedy["ratio"]
    costs = overhead(
        setting,
        planning_seconds=greedy["plans"],
        interval=served,
        prediction_seconds=greedy["prediction"],
        moved=tuple(greedy["moved"]),
        attention_seconds=attention,
    )
    beside = {name: greedy[name] / attention for name in ("judging", "copy")}
    return {**costs, **{f"{name}, on the host meanwhile": x for name, x in beside.items()}}


def _median(call: Callable[[], object], rounds: int = 7) -> float:
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))
