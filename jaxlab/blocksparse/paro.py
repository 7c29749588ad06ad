"""PAROAttention's mask: reorder tokens so that attention gathers in blocks, keep the heavy ones."""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxlab.blocksparse.arguments import finite, floating, real_number, score_scale
from jaxlab.blocksparse.mask import BlockMask
from jaxlab.blocksparse.reordered import ReorderedMask
from jaxlab.blocksparse.token_grid import axis_order, video_tokens

_AXES = tuple(itertools.permutations(range(3)))


def paro_mask(
    q: Float[Array, "batch tokens heads dim"] | Float[np.ndarray, "batch tokens heads dim"],
    k: Float[Array, "batch tokens kv_heads dim"] | Float[np.ndarray, "batch tokens kv_heads dim"],
    grid: Sequence[int],
    *,
    density: float,
    block: int = 64,
    text_tokens: int = 0,
    scale: float | None = None,
) -> ReorderedMask:
    """Per head, the axis order that gathers attention in the fewest blocks, and those blocks.

    1. The mass of a block is the attention summed over its token pairs, averaged over the batch.
       It is computed for tokens in each of the six orders of the axes (frame, height, width).
    2. In each order keep the ``m = max(n, floor(density * n * n))`` blocks of largest mass out of
       ``n * n``; the heaviest block of every row comes first, so that no query is left without a
       key. Equal masses: the lower row, then the lower column.
    3. Choose the order whose kept blocks hold the most mass; a tie goes to the first of
       ``itertools.permutations((0, 1, 2))``. Heads that share keys share an order.

    This is a calibration: it costs as much as dense attention, and more. Memory is bounded by one
    strip of ``block`` queries against all keys and six ``n * n`` tables, a head at a time.

    Args:
      q: float ``[batch, tokens, heads, dim]`` in raster order, text last, positions already
        embedded.
      k: float ``[batch, tokens, kv_heads, dim]``; ``kv_heads`` divides ``heads``.
      grid: frames, height and width in tokens.
      density: part of the blocks to keep, in (0, 1].
      block: tokens in a block, for queries and keys.
      text_tokens: text tokens behind the video tokens; they stay behind in every order, and their
        blocks are judged like all others.
      scale: factor on the scores, ``1 / sqrt(dim)`` by default.

    Returns:
      The orders, int32 ``[heads, tokens]``, and a mask over tokens in these orders, ``blocks``
      bool ``[heads, n, n]``, without a batch axis. Both are traced leaves under ``jit``.

    Raises:
      TypeError: a size or count is not an integer, or ``density`` or ``scale`` no number.
      ValueError: shapes that do not fit together, a density out of range, a scale that is not
        finite, or concrete ``q`` or ``k`` that hold NaN or infinity.

    Source: PAROAttention (arXiv 2506.16054): reordering by axis permutation and a threshold on
    block sums. What decides between orders, and the threshold (here the m-th largest mass of the
    head), are reconstructed.

    Example:
      >>> import jax
      >>> q, k = jax.random.normal(jax.random.key(0), (2, 1, 60, 2, 8))
      >>> paro_mask(q, k, (3, 4, 5), density=0.5, block=8).mask
      BlockMask(heads=2, blocks=8x8 of 8x8, tokens=60x60, density=0.5)
    """
    tokens = video_tokens("paro_mask", grid, block, text_tokens) + text_tokens
    floating("paro_mask", q=q, k=k)
    if q.ndim != 4 or k.ndim != 4 or q.shape[1] != tokens or q.shape[2] % k.shape[2]:
        raise ValueError(
            f"paro_mask: q {q.shape} and k {k.shape} must be [batch, {tokens}, heads, dim] for "
            f"grid {tuple(grid)} and {text_tokens} text tokens, with heads of k that divide those "
            "of q."
        )
    if k.shape[:2] != q.shape[:2] or k.shape[3] != q.shape[3]:
        raise ValueError(f"paro_mask: k {k.shape} must match q {q.shape} but for its heads.")
    if not 0 < real_number("paro_mask", "density", density) <= 1:
        raise ValueError(f"paro_mask: density must lie in (0, 1], got {density}.")
    finite("paro_mask", q=q, k=k)
    count = -(-tokens // block)
    scale = score_scale("paro_mask", scale, q.shape[3])
    kept = max(count, int(density * count * count + 1e-9))
    shape = (int(grid[0]), int(grid[1]), int(grid[2]))
    choice, blocks = _choose(
        jnp.asarray(q), jnp.asarray(k), jnp.float32(scale), grid=shape, block=int(block), kept=kept
    )
    orders = np.stack([axis_order(grid, axes, text_tokens) for axes in _AXES]).astype(np.int32)
    mask = BlockMask(blocks, block, block, tokens, tokens)
    return ReorderedMask(mask, jnp.asarray(orders)[choice])


@functools.partial(jax.jit, static_argnames=("grid", "block", "kept"))
def _choose(
    q: Float[Array, "batch tokens heads dim"],
    k: Float[Array, "batch tokens kv_heads dim"],
    scale: Float[Array, ""],
    *,
    grid: tuple[int, int, int],
    block: int,
    kept: int,
) -> tuple[Int[Array, " heads"], Bool[Array, "heads blocks blocks"]]:
    """Number of the chosen axis order of every head, and its blocks."""
    group = q.shape[2] // k.shape[2]

    def of_head(
        head: Int[Array, ""],
    ) -> tuple[Float[Array, " orders"], Bool[Array, "orders blocks blocks"]]:
        def add_sample(
            sample: Int[Array, ""], mass: Float[Array, "orders blocks blocks"]
        ) -> Float[Array, "orders blocks blocks"]:
            keys = k[sample, :, head // group]
            return _add_block_mass(mass, q[sample, :, head], keys, scale, grid, block)

        count = -(-q.shape[1] // block)
        mass = jnp.zeros((len(_AXES), count, count), jnp.float32)
        mass = jax.lax.fori_loop(0, q.shape[0], add_sample, mass)
        blocks = jax.lax.map(functools.partial(_heaviest, kept=kept), mass)
        return jnp.where(blocks, mass, 0).sum((1, 2)), blocks

    gathered, blocks = jax.lax.map(of_head, jnp.arange(q.shape[2]))
    shared = gathered.reshape(-1, group, len(_AXES)).sum(1)
    choice = jnp.repeat(jnp.argmax(shared, axis=1), group)
    return choice, jnp.take_along_axis(blocks, choice[:, None, None, None], axis=1)[:, 0]


def _add_block_mass(
    mass: Float[Array, "orders blocks blocks"],
    q: Float[Array, "tokens dim"],
    k: Float[Array, "tokens dim"],
    scale: Float[Array, ""],
    grid: tuple[int, int, int],
    block: int,
) -> Float[Array, "orders blocks blocks"]:
    """Adds the attention of one head, strip of queries by strip, in all six orders."""
    tokens = q.shape[0]
    count = mass.shape[1]
    video = grid[0] * grid[1] * grid[2]
    text = tokens - video
    places = np.stack([np.argsort(axis_order(grid, axes, text)) for axes in _AXES])
    rows = jnp.asarray(np.pad(places // block, ((0, 0), (0, count * block - tokens))), jnp.int32)
    queries = jnp.pad(q.astype(jnp.float32), ((0, count * block - tokens), (0, 0)))

    def strip(
        number: Int[Array, ""], mass: Float[Array, "orders blocks blocks"]
    ) -> Float[Array, "orders blocks blocks"]:
        start = number * block
        inside = start + jnp.arange(block) < tokens
        scores = jax.lax.dynamic_slice_in_dim(queries, start, block) @ k.astype(jnp.float32).T
        attention = jnp.where(inside[:, None], jax.nn.softmax(scores * scale, axis=-1), 0)
        on_grid = attention[:, :video].reshape(block, *grid)
        for order, axes in enumerate(_AXES):
            walked = on_grid.transpose(0, *(1 + axis for axis in axes)).reshape(block, video)
            walked = jnp.concatenate([walked, attention[:, video:]], axis=1)
            walked = jnp.pad(walked, ((0, 0), (0, count * block - tokens)))
            sums = walked.reshape(block, count, block).sum(2)
            into = jax.lax.dynamic_slice_in_dim(rows[order], start, block)
            mass = mass.at[order, into].add(sums)
        return mass

    return jax.lax.fori_loop(0, count, strip, mass)


def _heaviest(mass: Float[Array, "blocks blocks"], *, kept: int) -> Bool[Array, "blocks blocks"]:
    """The ``kept`` blocks of largest mass, the heaviest of every row before all others."""
    first_of_row = jnp.arange(mass.shape[1]) == mass.argmax(1)[:, None]
    rank = jnp.where(first_of_row, jnp.inf, mass).reshape(-1)
    order = jnp.argsort(rank, descending=True, stable=True)
    return jnp.zeros(rank.shape, bool).at[order[:kept]].set(True).reshape(mass.shape)
