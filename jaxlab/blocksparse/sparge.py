"""SpargeAttn's mask: pool blocks, predict the attention of blocks, keep what carries the mass."""

import functools
import math
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32

from jaxlab.blocksparse.arguments import finite, floating, per_head, real_number, whole_number
from jaxlab.blocksparse.mask import BlockMask

PerHead = float | int | Float[Array, "..."] | Float[np.ndarray, "..."]


def sparge_mask(
    q: Float[Array, "batch q_len heads dim"] | Float[np.ndarray, "batch q_len heads dim"],
    k: Float[Array, "batch kv_len kv_heads dim"] | Float[np.ndarray, "batch kv_len kv_heads dim"],
    *,
    q_block: int = 128,
    kv_block: int = 64,
    similarity_threshold: PerHead = 0.1,
    cdf_threshold: PerHead = 0.9,
    top_k: float | None = None,
    sink: bool = False,
    smooth_k: bool = True,
    causal: bool = False,
) -> BlockMask:
    """Predicts from block means which blocks matter; content-driven, traceable and vmappable.

    1. With ``smooth_k``, subtract from every key the mean key of its head.
    2. Per block, take the mean vector and the self-similarity: the mean of all pairwise cosines,
       a token with itself included; a zero vector has cosine 0 with everything. Means run over the
       true tokens of a partial last block.
    3. Predict ``softmax(q_mean . k_mean / sqrt(dim))`` over the key blocks, leaving out key blocks
       that are not self-similar (similarity not above ``similarity_threshold``).
    4. Per query block, keep the smallest set of heaviest key blocks whose mass is at least
       ``cdf_threshold`` (``>=``); at least one; equal masses in order of their index.
    5. A mean says nothing about a block that is not self-similar: keep all of its column (keys) or
       its row (queries).

    Args:
      q: float ``[batch, q_len, heads, dim]``.
      k: float ``[batch, kv_len, kv_heads, dim]``; ``kv_heads`` divides ``heads``.
      q_block: queries in a block, in tokens.
      kv_block: keys in a block, in tokens.
      similarity_threshold: a cosine, one number or ``[heads]``. With grouped heads a key block is
        judged by the threshold of each query head.
      cdf_threshold: mass to keep, one number or ``[heads]``; 1 keeps every block that has mass.
      top_k: instead of ``cdf_threshold``, keep this fraction of the key blocks, rounded down, at
        least one; with ``causal``, fewer where fewer lie in the past.
      sink: keep key block 0 for every query block.
      smooth_k: see step 1.
      causal: the returned mask is causal. Key blocks in the future take no part, and the blocks on
        the diagonal are always kept, so that no query is left without a key.

    Returns:
      A mask over the tokens in the order of ``q`` and ``k``; ``blocks`` is bool
      ``[batch, heads, q_blocks, kv_blocks]``, a traced leaf.

    Raises:
      TypeError: ``q`` or ``k`` is no floating-point array, a block size not an integer, or a
        threshold or fraction not a number.
      ValueError: shapes that do not fit together, a threshold or fraction out of range, or
        concrete ``q`` or ``k`` that hold NaN or infinity.

    Source: SpargeAttn (arXiv 2502.18137), its first-stage filter, as the public code computes it.
    Departures are listed in ``docs/sources/blocksparse.md``.

    Example:
      >>> import jax
      >>> q, k = jax.random.normal(jax.random.key(0), (2, 1, 300, 2, 16))
      >>> sparge_mask(q, k, similarity_threshold=-1.0, top_k=0.4)
      BlockMask(batch=(1,), heads=2, blocks=3x5 of 128x64, tokens=300x300, density=0.4)
    """
    floating("sparge_mask", q=q, k=k)
    if q.ndim != 4 or k.ndim != 4 or q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise ValueError(
            f"sparge_mask: q {q.shape} and k {k.shape} must be [batch, tokens, heads, dim] with "
            "the same batch and dim."
        )
    (_, q_len, heads, _), (_, kv_len, kv_heads, _) = q.shape, k.shape
    if heads % kv_heads:
        raise ValueError(f"sparge_mask: {kv_heads} heads of k do not divide {heads} heads of q.")
    if 0 in q.shape or 0 in k.shape:
        raise ValueError(f"sparge_mask: q {q.shape} and k {k.shape} must not be empty.")
    q_block = whole_number("sparge_mask", "q_block", q_block)
    kv_block = whole_number("sparge_mask", "kv_block", kv_block)
    if top_k is not None and not 0 < real_number("sparge_mask", "top_k", top_k) <= 1:
        raise ValueError(f"sparge_mask: top_k must be a fraction in (0, 1], got {top_k}.")
    finite("sparge_mask", q=q, k=k)
    blocks = _blocks(
        q,
        k,
        _per_head("similarity_threshold", similarity_threshold, heads, -1),
        _per_head("cdf_threshold", cdf_threshold, heads, 0),
        q_block=q_block,
        kv_block=kv_block,
        top=None if top_k is None else max(1, math.floor(top_k * -(-kv_len // kv_block) + 1e-9)),
        sink=bool(sink),
        smooth_k=bool(smooth_k),
        causal=bool(causal),
    )
    return BlockMask(blocks, q_block, kv_block, q_len, kv_len, causal)


@functools.partial(
    jax.jit, static_argnames=("q_block", "kv_block", "top", "sink", "smooth_k", "causal")
)
def _blocks(
    q: Float[Array, "batch q_len heads dim"],
    k: Float[Array, "batch kv_len kv_heads dim"],
    similarity_threshold: Float[Array, " heads"],
    cdf_threshold: Float[Array, " heads"],
    *,
    q_block: int,
    kv_block: int,
    top: int | None,
    sink: bool,
    smooth_k: bool,
    causal: bool,
) -> Bool[Array, "batch heads q_blocks kv_blocks"]:
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    q, k = jnp.asarray(q, dtype), jnp.asarray(k, dtype)
    if smooth_k:
        k = k - k.mean(1, keepdims=True)
    q_mean, q_similarity = _pool(q, q_block)
    k_mean, k_similarity = _pool(k, kv_block)
    group = q.shape[2] // k.shape[2]
    k_mean, k_similarity = (jnp.repeat(x, group, axis=1) for x in (k_mean, k_similarity))
    q_similar = (q_similarity > similarity_threshold[:, None])[..., :, None]
    k_similar = (k_similarity > similarity_threshold[:, None])[..., None, :]
    last_query = jnp.minimum(q_block * jnp.arange(1, q_mean.shape[2] + 1), q.shape[1])[:, None] - 1
    first_query = q_block * jnp.arange(q_mean.shape[2])[:, None]
    first_key = kv_block * jnp.arange(k_mean.shape[2])[None, :]
    reachable = first_key <= last_query if causal else jnp.ones((), bool)

    score = jnp.einsum("bhid,bhjd->bhij", q_mean, k_mean, precision=jax.lax.Precision.HIGHEST)
    score = jnp.where(k_similar & reachable, score * q.shape[3] ** -0.5, -jnp.inf)
    peak = score.max(-1, keepdims=True)
    mass = jnp.exp(score - jnp.where(jnp.isfinite(peak), peak, 0))
    if top is None:
        kept = heaviest_prefix(mass, cdf_threshold[:, None, None])
    else:
        kept = _rank(score) < top
    kept = kept | ~k_similar | ~q_similar
    if causal:
        on_diagonal = reachable & (first_key + kv_block > first_query)
        kept = (kept & reachable) | on_diagonal
    return kept.at[..., 0].set(True) if sink else kept


def heaviest_prefix(
    mass: Float[Array, "*rows columns"], threshold: Float[Array, "..."] | float
) -> Bool[Array, "*rows columns"]:
    """Keeps, row by row, the smallest set of heaviest columns with at least a share of the mass.

    Args:
      mass: float ``[*rows, columns]``, not negative.
      threshold: share of the row's mass, broadcast against ``mass``; from 1 on, every column that
        has mass is kept.

    Returns:
      bool ``[*rows, columns]``: at least one column a row, equal masses in order of their index.
    """
    order = jnp.argsort(mass, axis=-1, descending=True, stable=True)
    falling = jnp.take_along_axis(mass, order, axis=-1)
    total = jnp.cumsum(falling, axis=-1)
    before = total - falling
    enough = before >= threshold * total[..., -1:]
    kept = (falling > 0) & (~enough | (jnp.asarray(threshold) >= 1))
    kept = kept.at[..., 0].set(True)
    return jnp.put_along_axis(jnp.zeros_like(kept), order, kept, axis=-1, inplace=False)


def _rank(score: Float[Array, "*rows columns"]) -> Int32[Array, "*rows columns"]:
    order = jnp.argsort(score, axis=-1, descending=True, stable=True)
    return jnp.argsort(order, axis=-1).astype(jnp.int32)


def _pool(x: Array, block: int) -> tuple[Array, Array]:
    """Block means ``[batch, heads, blocks, dim]`` and self-similarities ``[batch, heads, blocks]``.

    The mean of all pairwise cosines is the squared length of the mean unit vector.
    """
    batch, length, heads, dim = x.shape
    count = -(-length // block)
    tokens = jnp.minimum(block, length - block * jnp.arange(count))[:, None]

    def mean(values: Array) -> Array:
        padded = jnp.pad(values, ((0, 0), (0, -length % block), (0, 0), (0, 0)))
        sums = padded.reshape(batch, count, block, heads, dim).sum(2)
        return jnp.swapaxes(sums, 1, 2) / tokens

    squared = (x * x).sum(-1, keepdims=True)
    unit = x * jnp.where(squared > 0, jax.lax.rsqrt(jnp.where(squared > 0, squared, 1)), 0)
    return mean(x), (mean(unit) ** 2).sum(-1)


def _per_head(name: str, value: Any, heads: int, low: int) -> Float[Array, " heads"]:
    if isinstance(value, jax.core.Tracer):
        if value.shape not in ((), (heads,)):
            raise ValueError(
                f"sparge_mask: {name} must be one number or one for each of {heads} heads, got "
                f"shape {value.shape}."
            )
    else:
        concrete = per_head("sparge_mask", name, value, heads)
        if not ((concrete >= low) & (concrete <= 1)).all():
            raise ValueError(f"sparge_mask: {name} must lie in [{low}, 1], got {concrete}.")
    return jnp.broadcast_to(jnp.asarray(value, jnp.float32), (heads,))
