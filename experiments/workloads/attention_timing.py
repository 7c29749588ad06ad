"""Times block-sparse attention beside what it is compared with, in one run."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.blocksparse import BlockMask, block_sparse_attention, block_sparse_gradients
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
      densities: shares of active blocks; 0.2 among them, where dense attention is compared.
      matmul_size: edge of the square matrix product that rates are compared with.
      rounds: samples of each function; a multiple of ten gives every one of the ten functions that
        four densities make every predecessor equally often.
    """

    tokens: int = 8192
    heads: int = 4
    dim: int = 64
    dtype: str = "float32"
    blocks: tuple[tuple[int, int], ...] = ((64, 64), (128, 64))
    densities: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0)
    matmul_size: int = 4096
    rounds: int = 10

    def __post_init__(self) -> None:
        if 0.2 not in self.densities or not all(0 < d <= 1 for d in self.densities):
            raise ValueError(f"densities={self.densities} must lie in (0, 1] and include 0.2.")
        if len(self.densities) < 3 or not self.blocks:
            raise ValueError(
                f"densities={self.densities}, blocks={self.blocks}: to tell whether times lie on a "
                "line takes three densities and a block shape."
            )
        for name in ("tokens", "heads", "dim", "matmul_size", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")


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
    """Times forward and backward at every density, a matrix product and dense attention in turns.

    Args:
      timing: what is timed.
      shape: queries and keys of a block.
      seed: of inputs and masks.

    Returns:
      ``rows``, one a density, with seconds and the rates as a share of the matrix product's, both
      with their quartiles over the rounds, and the speedup over dense attention; ``forward_line``
      and ``backward_line``, how well times over the matrix product's of the same round lie on a
      line over active blocks; ``dense_speedup`` at density 0.2 and its quartiles.
    """
    rng = np.random.default_rng(seed)
    q, k, v, d_out = _inputs(timing, rng, 4)
    edge = timing.matmul_size
    factor = jnp.asarray(rng.normal(size=(edge, edge)), timing.dtype)
    product, dense = jax.jit(jnp.matmul), jax.jit(jax.nn.dot_product_attention)
    attend = jax.jit(functools.partial(block_sparse_attention, return_lse=True))
    differentiate = jax.jit(block_sparse_gradients)
    masks = {density: random_mask(rng, timing, shape, density) for density in timing.densities}
    functions: dict[object, Callable[[], object]] = {
        "matmul": lambda: product(factor, factor),
        "dense": lambda: dense(q, k, v),
    }
    for density, mask in masks.items():
        inputs = (q, k, v, mask)
        functions["forward", density] = functools.partial(attend, *inputs)
        functions["backward", density] = functools.partial(
            differentiate, *inputs, *attend(*inputs), d_out
        )
    timed = time_ratio(*functions.values(), rounds=timing.rounds)
    places = {name: place for place, name in enumerate(functions)}

    dense_ratios = {
        density: timed.ratios[:, places["dense"]] / timed.ratios[:, places["forward", density]]
        for density in masks
    }

    def row(density: float) -> dict[str, object]:
        active = int(masks[density].head_counts().sum())
        products = active * shape[0] * shape[1] * timing.dim / edge**3
        forward, backward = (places[part, density] for part in ("forward", "backward"))
        return {
            "density": active / masks[density].blocks.size,
            "active": active,
            "forward_seconds": timed.median[forward],
            "backward_seconds": timed.median[backward],
            "forward_over_matmul": timed.ratio[forward],
            "backward_over_matmul": timed.ratio[backward],
            "forward": 2 * products / timed.ratio[forward],
            "backward": 5 * products / timed.ratio[backward],
            "forward_spread": 2 * products / timed.ratio_spread[::-1, forward],
            "backward_spread": 5 * products / timed.ratio_spread[::-1, backward],
            "dense_speedup": np.median(dense_ratios[density]),
        }

    rows = [row(density) for density in masks]
    return {
        "blocks": f"{shape[0]}x{shape[1]}",
        "rows": rows,
        "matmul_seconds": timed.median[places["matmul"]],
        "dense_seconds": timed.median[places["dense"]],
        "dense_speedup": np.median(dense_ratios[0.2]),
        "dense_spread": np.quantile(dense_ratios[0.2], (0.25, 0.75)),
        **{
            f"{part}_line": line(
                [row["active"] for row in rows], [row[f"{part}_over_matmul"] for row in rows]
            )
            for part in ("forward", "backward")
        },
    }


def line(x: Sequence[float], y: Sequence[float]) -> dict[str, float]:
    """How straight ``y`` runs over ``x``.

    Returns:
      ``r_squared``, the share of the variance that the least-squares line explains;
      ``worst_residual``, relative to the value there; ``constant``, the line at 0 over its value at
      the largest ``x``.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    slope, constant = np.polyfit(x, y, 1)
    return {
        "r_squared": float(np.corrcoef(x, y)[0, 1] ** 2),
        "worst_residual": float(np.abs((y - constant - slope * x) / y).max()),
        "constant": float(constant / (constant + slope * x.max())),
    }


def missing_for_kernel(timing: Timing, shape: tuple[int, int]) -> str | None:
    """Why the Pallas kernel cannot run here, or None where it can; nothing is compiled."""
    inputs = [_inputs(timing, np.random.default_rng(0), 1)[0]] * 3
    mask = random_mask(np.random.default_rng(0), timing, shape, 1.0)
    try:
        jax.eval_shape(
            functools.partial(block_sparse_attention, implementation="pallas"), *inputs, mask
        )
    except ValueError as error:
        return str(error)
    return None


def kernel_beside_cudnn(timing: Timing, shape: tuple[int, int], seed: int) -> dict[str, object]:
    """Times the Pallas kernel at every density and cuDNN's attention in turns.

    Args:
      timing: what is timed.
      shape: queries and keys of a block.
      seed: of inputs and masks.

    Returns:
      ``rate``, time of cuDNN's attention over the kernel's on a full mask; ``line``, how well the
      kernel's times over cuDNN's of the same round lie on a line over active blocks.
    """
    rng = np.random.default_rng(seed)
    q, k, v = _inputs(timing, rng, 3)
    densities = dict.fromkeys((*timing.densities, 1.0))
    masks = [random_mask(rng, timing, shape, density) for density in sorted(densities)]
    ours = jax.jit(functools.partial(block_sparse_attention, implementation="pallas"))
    dense = jax.jit(functools.partial(jax.nn.dot_product_attention, implementation="cudnn"))
    timed = time_ratio(
        lambda: dense(q, k, v),
        *(functools.partial(ours, q, k, v, mask) for mask in masks),
        rounds=timing.rounds,
    )
    return {
        "rate": float(1 / timed.ratio[-1]),
        "line": line([int(mask.head_counts().sum()) for mask in masks], timed.ratio[1:]),
    }


def _inputs(timing: Timing, rng: np.random.Generator, count: int) -> list[jax.Array]:
    size = (1, timing.tokens, timing.heads, timing.dim)
    return [jnp.asarray(rng.normal(size=size), timing.dtype) for _ in range(count)]
