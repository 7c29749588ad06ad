"""What a block-sparse kernel reads: whole blocks, padded positions, a work list for every row."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from jaxlab.blocksparse.mask import BlockMask, compress

WHOLE, COUNT, FIRST = 0, 1, 2
"""Where a work list holds its two counts and its first index."""


class Schedules(NamedTuple):
    """Work lists, int32: ``[whole, count, index, index, ...]`` for every row of blocks.

    The first ``whole`` indices name blocks in which every pair attends, so that a kernel need not
    look at positions; the ones up to ``count`` name blocks with some pairs left out; the rest is
    unspecified.

    Attributes:
      by_query: int32 ``[batch, heads, q_blocks, 2 + kv_blocks]``, key blocks of every query block.
      by_key: int32 ``[batch, heads, kv_blocks, 2 + q_blocks]``, query blocks of every key block.
    """

    by_query: Int32[Array, "batch heads q_blocks columns"]
    by_key: Int32[Array, "batch heads kv_blocks rows"]


def leaves_out_pairs(mask: BlockMask) -> bool:
    """Whether an active block of the mask may hold pairs that do not attend; static."""
    given = mask.q_positions is not None or mask.kv_positions is not None
    return mask.causal or given or mask.kv_len % mask.kv_block != 0


def pad_tokens(array: Array, block: int, *, axis: int = 1, fill: float | int = 0) -> Array:
    """Fills the token axis up to whole blocks."""
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, -array.shape[axis] % block)
    return jnp.pad(array, widths, constant_values=fill) if widths[axis][1] else array


def padded_positions(mask: BlockMask) -> tuple[Int32[Array, " q_pad"], Int32[Array, " kv_pad"]]:
    """Positions of whole blocks of queries and keys, -1 beyond the true lengths."""
    queries = pad_tokens(mask.query_positions(), mask.q_block, axis=0, fill=-1)
    keys = pad_tokens(mask.key_positions(), mask.kv_block, axis=0, fill=-1)
    return queries.astype(jnp.int32), keys.astype(jnp.int32)


def schedules(mask: BlockMask, batch: int) -> Schedules:
    """Work lists of a mask for kernels, one for every query block and one for every key block.

    Queries beyond the true length count as attending: kernels compute and drop them.
    """
    live = mask.live_blocks()
    live = jnp.broadcast_to(live, (batch, *live.shape[-3:]))
    if not leaves_out_pairs(mask):
        return Schedules(_work_lists(live, None), _work_lists(live.swapaxes(-1, -2), None))
    beyond = jnp.iinfo(jnp.int32).max
    queries, keys = padded_positions(mask)
    queries = jnp.where(jnp.arange(queries.size) < mask.q_len, queries, beyond)
    first_query = queries.reshape(-1, mask.q_block).min(1)[:, None]
    keys = keys.reshape(-1, mask.kv_block)
    every = (first_query >= 0) & (keys.min(1) >= 0)[None, :]
    if mask.causal:
        every &= keys.max(1)[None, :] <= first_query
    whole = live & every
    return Schedules(
        _work_lists(live, whole), _work_lists(live.swapaxes(-1, -2), whole.swapaxes(-1, -2))
    )


def _work_lists(live: Array, whole: Array | None) -> Array:
    """Lists of active blocks, whole ones first; None where all are whole."""
    if whole is None:
        lists = compress(live)
        return jnp.concatenate([lists.counts[..., None]] * 2 + [lists.indices], axis=-1)
    columns = live.shape[-1]
    lists = compress(jnp.concatenate([whole, live & ~whole], axis=-1))
    counts = jnp.stack([whole.sum(-1, dtype=jnp.int32), lists.counts], axis=-1)
    return jnp.concatenate([counts, lists.indices[..., :columns] % columns], axis=-1)


def fold_sign(
    q: Float[Array, "batch q_len heads dim"], scale: float
) -> tuple[Float[Array, "batch q_len heads dim"], float]:
    """Queries and a positive factor with the same products as ``scale * q``, without rounding.

    A kernel takes row maxima before it multiplies by the factor, which must therefore be positive.
    """
    if scale > 0:
        return q, scale
    return (-q, -scale) if scale < 0 else (jnp.zeros_like(q), 1.0)


def row_statistics(
    out: Float[Array, "batch q_len heads dim"],
    lse: Float[Array, "batch q_len heads"],
    d_out: Float[Array, "batch q_len heads dim"],
    d_lse: Float[Array, "batch q_len heads"],
    q_block: int,
) -> tuple[Float[Array, "batch heads q_pad"], Float[Array, "batch heads q_pad"]]:
    """What the backward pass needs of every query: its normalizer and its mean score gradient.

    With ``P = exp(S - lse)`` the gradient of the scores is ``dS = P * (dP - delta)``, where
    ``delta = sum(out * d_out) - d_lse``.

    Returns:
      ``lse``, +inf where nothing attends (so that ``P`` is 0) and beyond the true length, and
      ``delta``, 0 there; float32 ``[batch, heads, q_pad]``.
    """
    products = out.astype(jnp.float32) * d_out.astype(jnp.float32)
    delta = products.sum(-1) - d_lse.astype(jnp.float32)
    lse = jnp.where(jnp.isneginf(lse), jnp.inf, lse.astype(jnp.float32))
    return (
        pad_tokens(lse.swapaxes(1, 2), q_block, axis=2, fill=jnp.inf),
        pad_tokens(delta.swapaxes(1, 2), q_block, axis=2),
    )
