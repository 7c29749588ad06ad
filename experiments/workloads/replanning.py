"""Policies of re-planning on synthetic traces: at a fixed threshold, and by drift."""

import functools
from collections.abc import Sequence

import numpy as np

from experiments.workloads.sparge_trace import HEADS, STEPS, sparge_trace
from jaxlab.dbsp import DriftPolicy, Plan, ReplanPolicy, replay

FORECAST = 0.5
"""Part of their last change that counts are moved on by, the default of ``DriftPolicy``."""

THRESHOLDS = (1.02, 1.05, 1.1, 1.15, 1.2)
COSTS = (0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45,
         0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0, 3.0, 1e3)  # fmt: skip
"""The last one never plans, so that some cost affords whatever a threshold does."""

_HOME = Plan.contiguous(heads=HEADS, q_blocks=1, kv_blocks=1, ulysses=8, ring=1)


def at_thresholds(
    seeds: Sequence[int], layers: int, forecast: float = 0.0
) -> dict[str, list[list[float]]]:
    """Plans made and mean ratio of the whole-model threshold, by threshold and seed."""
    traces = [sparge_trace(seed)[:, :layers] for seed in seeds]
    return {
        str(threshold): [
            _score(
                ReplanPolicy(_HOME, layers=layers, threshold=threshold, forecast=forecast), trace
            )
            for trace in traces
        ]
        for threshold in THRESHOLDS
    }


def by_drift(
    fixed: dict[str, list[list[float]]],
    tuning: Sequence[int],
    seeds: Sequence[int],
    layers: int,
    *,
    scopes: Sequence[str] = ("model", "layer"),
    forecast: float = FORECAST,
) -> dict[str, dict[str, object]]:
    """The drift-aware policy with as many plans as each threshold.

    Its cost is the least that makes no more plans than the threshold on the tuning seeds, in the
    mean; it is then judged on others.

    Args:
      fixed: from ``at_thresholds`` on the tuning seeds.
      tuning: those seeds.
      seeds: what to judge on.
      layers: how many of each trace's layers take part.
      scopes: of the policy.
      forecast: of the policy.

    Returns:
      By scope and threshold: the ``cost`` and, a seed, ``scores``: plans made and mean ratio.
    """
    traces, fresh = ([sparge_trace(seed)[:, :layers] for seed in x] for x in (tuning, seeds))
    found: dict[str, dict[str, object]] = {}
    for scope in scopes:

        @functools.cache
        def plans(cost: float, scope: str = scope) -> float:
            policy = _drift(cost, scope, layers, forecast)
            return float(np.mean([_score(policy, trace)[0] for trace in traces]))

        for threshold, scores in fixed.items():
            budget = np.mean([made for made, _ in scores])
            cost = next(cost for cost in COSTS if plans(cost) <= budget)
            policy = _drift(cost, scope, layers, forecast)
            found[f"{scope} {threshold}"] = {
                "cost": cost,
                "scores": [_score(policy, trace) for trace in fresh],
            }
    return found


def ratios_by_step(seed: int, cost: float, layers: int) -> dict[str, list[float]]:
    """Mean ratio over the layers at every step, for pictures."""
    trace = sparge_trace(seed)[:, :layers]
    policies = {
        "first plan kept": ReplanPolicy(_HOME, layers=layers, threshold=1e9),
        "threshold 1.1": ReplanPolicy(_HOME, layers=layers),
        "drift-aware": _drift(cost, "model", layers, FORECAST),
    }
    return {name: list(replay(one, trace).ratio.mean(1)) for name, one in policies.items()}


def gain(
    fixed: dict[str, list[list[float]]], drift: dict[str, dict[str, object]], threshold: float
) -> float:
    """How much lower the ratio is than a threshold's that makes as many plans."""
    front = np.array(sorted(np.mean(scores, axis=0).tolist() for scores in fixed.values()))
    plans, ratio = np.mean(drift[f"model {threshold}"]["scores"], axis=0)
    return float(np.interp(plans, *front.T) - ratio)


def _drift(cost: float, scope: str, layers: int, forecast: float) -> DriftPolicy:
    return DriftPolicy(_HOME, layers=layers, cost=cost, steps=STEPS, scope=scope, forecast=forecast)


def _score(policy: ReplanPolicy | DriftPolicy, trace: np.ndarray) -> list[float]:
    done = replay(policy, trace)
    return [done.plans, float(done.ratio.mean())]
