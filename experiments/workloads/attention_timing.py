"""Times block-sparse attention beside what it is compared with, in one run."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.blocksparse import BlockMask, block_sparse_attention
from jaxlab.measure import time_ratio


@dataclasses.dataclass(frozen=True)
class Timing:
    """What is timed.

    Attributes:
      tokens: queries and keys.
      heads: heads.
      dim: head size.
      dtype: of queries, keys, values and the matrix product.
      blocks: block shapes, queries and keys.
      densities: shares of active blocks; at 0.2 dense attention is timed too.
      matmul_size: edge of the square matrix product that rates are compared with.
      rounds: samples of each function.
    """

    tokens: int = 8192
    heads: int = 4
    dim: int = 64
    dtype: str = "float32"
    blocks: tuple[tuple[int, int], ...] = ((64, 64), (128, 64))
    densities: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0)
    matmul_size: int = 4096
    rounds: int = 9


def random_mask(
    rng: np.random.Generator, timing: Timing, shape: tuple[int, int], density: float
) -> BlockMask:
    """A mask of independent blocks whose heads differ in density by up to a factor of three."""
    tokens, heads = timing.tokens, timing.heads
    sizes = (heads, -(-tokens // shape[0]), -(-tokens // shape[1]))
    by_head = np.clip(density * np.linspace(0.5, 1.5, heads), 0, 1) if density < 1 else 1.0
    blocks = rng.random(sizes) < np.reshape(by_head, (-1, 1, 1))
    return BlockMask(blocks, *shape, tokens, tokens)


def speed(timing: Timing, shape: tuple[int, int], seed: int) -> dict[str, object]:
    """Times forward and backward at every density beside a matrix product and dense attention."""
    rng = np.random.default_rng(seed)
    size = (1, timing.tokens, timing.heads, timing.dim)
    q, k, v, d_out = (jnp.asarray(rng.normal(size=size), timing.dtype) for _ in range(4))
    edge = timing.matmul_size
    factor = jnp.asarray(rng.normal(size=(edge, edge)), timing.dtype)
    product = jax.jit(jnp.matmul)
    attend = jax.jit(block_sparse_attention)
    dense = jax.jit(jax.nn.dot_product_attention)
    pull_back = jax.jit(lambda pull, cotangent: pull(cotangent))
    rows = []
    dense_speedup = None
    for density in timing.densities:
        mask = random_mask(rng, timing, shape, density)
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
        timed = time_ratio(*functions.values(), names=tuple(functions), rounds=timing.rounds)
        seconds = dict(zip(timed.names, timed.median.tolist(), strict=True))
        ratio = dict(zip(timed.names, timed.ratio.tolist(), strict=True))
        active = int(mask.head_counts().sum())
        pairs = active * shape[0] * shape[1] * timing.dim
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
            pair = (timed.ratios[:, timed.names.index(name)] for name in ("dense", "forward"))
            dense_speedup = float(np.median(np.divide(*pair)))
    return {"rows": rows, "dense_speedup": dense_speedup, "r_squared": _r_squared(rows)}


def gpu_rate(timing: Timing, seed: int) -> float:
    """Time of cuDNN's attention over the time of the Pallas kernel on a full mask."""
    rng = np.random.default_rng(seed)
    size = (1, timing.tokens, timing.heads, timing.dim)
    q, k, v = (jnp.asarray(rng.normal(size=size), jnp.bfloat16) for _ in range(3))
    mask = random_mask(rng, timing, (128, 128), 1.0)
    ours = jax.jit(functools.partial(block_sparse_attention, implementation="pallas"))
    dense = jax.jit(functools.partial(jax.nn.dot_product_attention, implementation="cudnn"))
    timed = time_ratio(lambda: ours(q, k, v, mask), lambda: dense(q, k, v), rounds=timing.rounds)
    return float(timed.ratio[1])


def _r_squared(rows: list[dict]) -> float:
    blocks = [row["active"] for row in rows]
    return float(np.corrcoef(blocks, [row["seconds"]["forward"] for row in rows])[0, 1] ** 2)
