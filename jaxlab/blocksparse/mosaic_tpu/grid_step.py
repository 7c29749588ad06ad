"""A grid step of a TPU kernel: one row of blocks, and how the listed blocks reach it."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from jaxlab.blocksparse import tiles
from jaxlab.blocksparse.mask import BlockMask

LANES = 128
ROWS_BY_COLUMNS, BY_COLUMNS_OF_BOTH, BY_ROWS_OF_BOTH = ((1,), (0,)), ((1,), (1,)), ((0,), (0,))
"""Contracted dimensions: ``a b``, ``a b^T`` and ``a^T b``."""


def by_head(array: Array, block: int) -> Array:
    """``[batch, heads, blocks, block, dim]``, whole blocks and whole lanes."""
    wide = jnp.pad(array, ((0, 0), (0, 0), (0, 0), (0, -array.shape[-1] % LANES)))
    heads_first = tiles.pad_tokens(wide, block).swapaxes(1, 2)
    return heads_first.reshape(*heads_first.shape[:2], -1, block, wide.shape[-1])


def by_token(blocks: Array, length: int, dim: int) -> Array:
    """Undoes ``by_head``: ``[batch, length, heads, dim]``."""
    tokens = blocks.reshape(*blocks.shape[:2], -1, blocks.shape[-1])
    return tokens[:, :, :length, :dim].swapaxes(1, 2)


def position_rows(mask: BlockMask) -> tuple[Array, Array]:
    """Positions of queries and keys, int32 ``[blocks, 1, block]``, -1 beyond the true lengths."""
    queries, keys = tiles.padded_positions(mask)
    return queries.reshape(-1, 1, mask.q_block), keys.reshape(-1, 1, mask.kv_block)


def of_row(array: Array, **options: Any) -> pl.BlockSpec:
    """The part of ``[batch, heads, rows, ., .]`` that belongs to a grid step."""
    shape = (None, None, None, *array.shape[3:])
    return pl.BlockSpec(shape, lambda b, h, r: (b, h, r, 0, 0), **options)


def multiplier(dtype: Any) -> Callable[[Array, Array, Any], Array]:
    """Products with float32 sums, of the inputs' own precision."""
    exact = lax.Precision.HIGHEST if dtype == jnp.float32 else None

    def multiply(a: Array, b: Array, contracted: Any) -> Array:
        return lax.dot_general(
            a, b, (contracted, ((), ())), precision=exact, preferred_element_type=jnp.float32
        )

    return multiply


def mask_scores(scores: Array, q_at: Array, k_at: Array, causal: bool) -> Array:
    """Puts -inf where a query and a key do not attend; scores are keys by queries."""
    q_at = jnp.broadcast_to(q_at, scores.shape)
    k_at = jnp.broadcast_to(k_at, scores.shape[::-1]).T
    allowed = (k_at >= 0) & (q_at >= 0)
    if causal:
        allowed &= k_at <= q_at
    return jnp.where(allowed, scores, -jnp.inf)


def over_work(
    work_row: Any,
    sources: Callable,
    buffers: tuple,
    arrived: Any,
    attend: Callable,
    state: Any,
    masked: bool,
) -> Any:
    """Runs ``attend`` on every listed block; ``state`` ends with the number of blocks so far."""
    whole, count = work_row[tiles.WHOLE], work_row[tiles.COUNT]

    def copies(trip, slot):
        listed = work_row[tiles.FIRST + trip]
        return [
            pltpu.make_async_copy(source, buffer.at[slot], arrived.at[i, slot])
            for i, (source, buffer) in enumerate(zip(sources(listed), buffers, strict=True))
        ]

    def start(trip):
        for copy in copies(trip, lax.rem(trip, 2)):
            copy.start()

    pl.when(count > 0)(lambda: start(jnp.int32(0)))

    def step(trip, state, *, some):
        carry, trips = state
        slot = lax.rem(trip, 2)
        pl.when(trip + 1 < count)(lambda: start(trip + 1))
        for copy in copies(trip, slot):
            copy.wait()
        return attend(carry, slot, some=some), trips + 1

    state = lax.fori_loop(0, whole, functools.partial(step, some=False), state)
    if masked:
        state = lax.fori_loop(whole, count, functools.partial(step, some=True), state)
    return state


def parameters() -> Any:
    """Rows may go to different cores in any order."""
    return pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary"))
