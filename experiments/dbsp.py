"""db-SP: how equal plans make the work of eight devices, what that saves, and what it costs.

Heads are regrouped and token blocks permuted so that no device waits long for another. Heads are
judged on synthetic traces with the statistics of the authors' block counts, blocks on families of
masks, attention time by kernels timed one rank at a time beside a link model.

    python -m experiments run dbsp --preset paper

takes some minutes on two cores.
"""

import dataclasses
import time

import numpy as np

from experiments.claims.dbsp import ASSUMPTIONS, CLAIMS
from experiments.harness import Missing, Result, Steps, Table, Value
from experiments.workloads.block_balance import balance_of, mean_and_worst
from experiments.workloads.mask_families import FAMILIES, family_mask
from experiments.workloads.parallel_attention import Kernels, Setting, end_to_end, overhead
from experiments.workloads.replanning import THRESHOLDS, at_thresholds, by_drift, ratios_by_step
from experiments.workloads.sparge_trace import balance, check, sparge_trace, statistics
from experiments.workloads.timed_layers import (
    DEGREES,
    Judged,
    Layers,
    judge,
    r_squared,
    timed_layer,
)
from jaxlab.dbsp import CostModel, greedy_plans, imbalance_ratio, select

__all__ = ["ASSUMPTIONS", "CLAIMS", "PRESETS", "Config", "run"]


@dataclasses.dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
      traces: seeds of the traces that are judged.
      tuning: seeds of the traces that the drift-aware policy's cost is chosen on.
      trace_layers: how many layers of a trace take part, its check apart.
      families: of block masks.
      seeds: of each family.
      n: nominal blocks of the families' masks.
      heads: of their layers.
      evaluations: of refined plans.
      layers: whose kernels are timed.
      planned: nominal blocks of the layer whose planning is timed.
      seed: the first of the families' seeds.
    """

    traces: tuple[int, ...] = (0, 1, 2, 3, 4)
    tuning: tuple[int, ...] = (100, 101, 102)
    trace_layers: int = 40
    families: tuple[str, ...] = FAMILIES
    seeds: int = 20
    n: int = 256
    heads: int = 40
    evaluations: int = 500_000
    layers: Layers = dataclasses.field(default_factory=Layers)
    planned: int = 1184
    seed: int = 1000

    def __post_init__(self) -> None:
        if set(self.traces) & set(self.tuning):
            raise ValueError(f"traces={self.traces} and tuning={self.tuning} must not overlap.")
        for family in self.families:
            if family not in FAMILIES:
                raise ValueError(f"families: {family!r} is unknown; choose from {FAMILIES}.")
        if self.seeds < 1 or not self.traces or not self.tuning:
            raise ValueError("seeds, traces and tuning must hold at least one seed.")


PRESETS = {
    "smoke": Config(
        traces=(0,),
        tuning=(100,),
        trace_layers=3,
        families=("gen", "svg-reord"),
        seeds=1,
        n=64,
        heads=16,
        evaluations=20_000,
        layers=Layers(families=("gen",), n=64, heads=8, kernels=Kernels(dim=8, rounds=1), fitted=1),
        planned=64,
    ),
    "paper": Config(),
}


def run(config: Config, steps: Steps = Steps()) -> Result:
    """Measures every claim.

    Args:
      config: what to measure.
      steps: progress and resumption.

    Returns:
      The result.
    """
    heads = [
        steps.do(f"heads of trace {seed}", head_balance, seed, config.trace_layers)
        for seed in config.traces
    ]
    fixed = steps.do("re-planning at thresholds", at_thresholds, config.traces, config.trace_layers)
    tuned = steps.do(
        "re-planning at thresholds, tuning", at_thresholds, config.tuning, config.trace_layers
    )
    drift = steps.do(
        "re-planning by drift", by_drift, tuned, config.tuning, config.traces, config.trace_layers
    )
    by_step = steps.do(
        "re-planning over steps",
        ratios_by_step,
        config.traces[0],
        drift["model 1.1"]["cost"],
        config.trace_layers,
    )
    blocks = {
        f"{family} R{ring}": steps.do(
            f"blocks of {family}, R = {ring}", family_balance, config, family, ring
        )
        for family in steps.track(config.families, "families")
        for ring in (4, 8)
    }
    layers = [
        steps.do(
            f"kernels of {family} {seed}",
            timed_layer,
            config.layers,
            family,
            seed,
            config.evaluations,
        )
        for family in steps.track(config.layers.families, "timed layers")
        for seed in range(config.layers.seeds)
    ]
    setting = Setting()
    judged = judge(config.layers, layers, setting)
    planning = steps.do("planning", planning_seconds, config, judged.model)
    served = 30 / np.mean([plans for plans, _ in fixed["1.1"]])
    costs = overhead(
        setting,
        planning_seconds=planning["plans"],
        interval=served,
        prediction_seconds=planning["prediction"],
        moved=tuple(planning["moved"]),
        attention_seconds=setting.attention_seconds * planning["ratio"],
    )
    speed = speedups(layers, judged)
    values = {
        **_head_values(heads, fixed, drift),
        **_block_values(blocks),
        "kernel-affine": Value(r_squared(layers), "timed"),
        "overhead": Value(costs["total"], "timed"),
        **{name: Value(speed[name], "timed") for name in speed},
    }
    facts = {
        "replanning": {"fixed": fixed, "drift": drift, "by_step": by_step},
        "blocks": blocks,
        "layers": layers[:1],
        "overhead": costs,
    }
    return Result(values, _tables(heads, fixed, drift, blocks, config, layers, costs), facts=facts)


def head_balance(seed: int, layers: int) -> dict[str, object]:
    """Mean ratios of every way to group heads, and whether the trace is a faithful one."""
    trace = sparge_trace(seed)
    return {
        "faithful": all(one.holds for one in (*statistics(trace), *check(trace))),
        "ratios": {
            str(groups): {
                method: ratio.mean()
                for method, ratio in balance(
                    trace[:, :layers], groups, ("none", "snake", "greedy", "refined")
                ).items()
            }
            for groups in (2, 4, 8)
        },
    }


def family_balance(config: Config, family: str, ring: int) -> dict[str, list[float]]:
    """Mean and worst ratio and mean movement of every plan, over the seeds."""
    return mean_and_worst(
        [
            balance_of(
                family,
                config.seed + seed,
                ring=ring,
                n=config.n,
                heads=config.heads,
                evaluations=config.evaluations,
            )
            for seed in range(config.seeds)
        ]
    )


def planning_seconds(config: Config, model: CostModel) -> dict[str, object]:
    """Times the paper's plans for every pair of degrees from a mask, and the choice among them."""
    blocks = family_mask("gen", seed=0, n=config.planned, heads=config.heads)
    timed = {"plans": [], "prediction": []}
    for _ in range(7):
        began = time.perf_counter()
        plans = greedy_plans(blocks, degrees=DEGREES)
        planned = time.perf_counter()
        by_degrees = {degrees: one for degrees, (one, _) in plans.items()}
        work = {degrees: table for degrees, (_, table) in plans.items()}
        degrees, _ = select(work, model, plans=by_degrees)
        timed["plans"].append(planned - began)
        timed["prediction"].append(time.perf_counter() - planned)
    chosen = by_degrees[degrees]
    return {
        **{name: np.median(seconds) for name, seconds in timed.items()},
        "moved": [chosen.q_moved, chosen.kv_moved],
        "ratio": imbalance_ratio(work[degrees]),
    }


def speedups(layers: list[dict], judged: Judged) -> dict[str, float]:
    """What balanced plans save, by the modelled times of held-out layers."""
    held_out = judged.held_out
    paper = judged.chosen["db-SP"]
    uneven = np.array([layers[number]["plans"]["none U8R1"]["ratio"] > 1.25 for number in held_out])
    counted = uneven if uneven.any() else np.ones(len(held_out), bool)
    baselines = [judged.seconds[f"none U{u}R{r}"][held_out] for u, r in DEGREES]
    attention = float(np.mean([(one / paper)[counted].mean() for one in baselines]))
    kind = "refined"
    return {
        "attention-speedup": attention,
        "attention-speedup-best": float((judged.fixed["none"] / paper)[counted].mean()),
        "attention-speedup-refined": float(paper.sum() / judged.chosen[kind].sum()),
        "end-to-end": end_to_end(attention, 0.5),
        "degrees-regret": float(judged.chosen[kind].sum() / judged.least[kind].sum() - 1),
        "degrees-gain": float(judged.fixed[kind].sum() / judged.chosen[kind].sum() - 1),
    }


def _head_values(heads: list[dict], fixed: dict, drift: dict) -> dict[str, Value]:
    def ratio(groups: int, method: str) -> Value:
        found = np.mean([one["ratios"][str(groups)][method] for one in heads])
        return Value(found, "deterministic", tolerance=1e-3)

    plans, ratios = np.mean(fixed["1.1"], axis=0)
    return {
        "trace-faithful": Value(all(one["faithful"] for one in heads)),
        "heads-before": ratio(8, "none"),
        **{f"heads-greedy-{groups}": ratio(groups, "greedy") for groups in (2, 4, 8)},
        "heads-refined": ratio(8, "refined"),
        "replans": Value(plans, "deterministic", tolerance=0.5),
        "replans-ratio": Value(ratios, "deterministic", tolerance=2e-3),
        "drift-better": Value(
            min(_gain(fixed, drift, threshold) for threshold in THRESHOLDS),
            "deterministic",
            tolerance=2e-3,
        ),
    }


def _gain(fixed: dict, drift: dict, threshold: float) -> float:
    """How much lower the ratio is than a threshold's that makes as many plans."""
    front = np.array(sorted(np.mean(scores, axis=0).tolist() for scores in fixed.values()))
    plans, ratio = np.mean(drift[f"model {threshold}"]["scores"], axis=0)
    return float(np.interp(plans, *front.T) - ratio)


def _block_values(blocks: dict[str, dict]) -> dict[str, Value | Missing]:
    def worst(plan: str, ring: int, svg: bool | None = None) -> Value | Missing:
        found = [
            rows[plan][0]
            for name, rows in blocks.items()
            if name.endswith(f"R{ring}") and svg in (None, name.startswith("svg-reord"))
        ]
        if not found:
            return Missing("no such family was asked for")
        return Value(max(found), "deterministic", tolerance=0.01)

    near, home = "refined, 5% from fitted home", "fitted home"
    unrewarded = [rows["greedy, reward 0"][0] for rows in blocks.values()]
    return {
        "blocks-greedy": Value(np.mean(unrewarded), "deterministic", tolerance=0.01),
        "home-r4": worst(home, 4),
        "home-r8": worst(home, 8, False),
        "home-r8-svg": worst(home, 8, True),
        "near-home-r4": worst(near, 4),
        "near-home-r8": worst(near, 8, False),
        "near-home-r8-svg": worst(near, 8, True),
        "moved-r4": worst("refined from contiguous", 4),
        "moved-r8": worst("refined from contiguous", 8),
    }


def _tables(
    heads: list[dict],
    fixed: dict,
    drift: dict,
    blocks: dict[str, dict],
    config: Config,
    layers: list[dict],
    costs: dict[str, float],
) -> tuple[Table, ...]:
    by_method = Table(
        "Mean imbalance ratio of heads, synthetic traces",
        ("groups", *heads[0]["ratios"]["8"]),
        tuple(
            (
                int(groups),
                *(np.mean([one["ratios"][groups][method] for one in heads]) for method in methods),
            )
            for groups, methods in heads[0]["ratios"].items()
        ),
    )
    reuse = Table(
        "Plans made in 30 steps and mean imbalance ratio at 8 groups, one step of lag",
        ("policy", "threshold", "cost", "plans a layer", "ratio"),
        (
            *(
                ("fixed, whole model", float(threshold), None, *np.mean(scores, axis=0))
                for threshold, scores in fixed.items()
            ),
            *(
                (
                    f"drift-aware, by {name.split()[0]}",
                    float(name.split()[1]),
                    one["cost"],
                    *np.mean(one["scores"], axis=0),
                )
                for name, one in drift.items()
            ),
        ),
        caption="Each drift-aware row makes at most as many plans as the threshold beside it, on "
        "other seeds. The first step always runs unplanned.",
    )
    fronts = Table(
        "Imbalance ratio of block plans and what they move",
        ("family", "plan", "mean", "worst", "queries moved", "keys moved"),
        tuple((name, plan, *row) for name, rows in blocks.items() for plan, row in rows.items()),
    )
    times = Table(
        "Modelled time of a layer, U8R1 without a plan = 1",
        ("bandwidth, GB/s", "latency, us", "plan", "time"),
        tuple(
            (setting.bandwidth / 1e9, setting.latency * 1e6, name, seconds.mean() / unplanned)
            for setting in (
                Setting(),
                Setting(bandwidth=40e9),
                Setting(bandwidth=640e9),
                Setting(latency=200e-6),
            )
            for judged in [judge(config.layers, layers, setting)]
            for unplanned in [judged.seconds["none U8R1"].mean()]
            for name, seconds in judged.seconds.items()
        ),
        caption="Kernels measured, links modelled.",
    )
    accounts = Table(
        "Cost of balancing, part of attention",
        ("part", "share"),
        tuple(costs.items()),
    )
    return by_method, reuse, fronts, times, accounts
