"""Block-sparse attention the slow, obvious way: dense scores, then the mask.

Selectable as ``implementation="reference"``. It computes every block, its memory is quadratic in
the sequence length, and its trip counts say so.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from jaxlab.blocksparse.mask import BlockMask


def forward(
    q: Float[Array, "batch q_len heads dim"],
    k: Float[Array, "batch kv_len kv_heads dim"],
    v: Float[Array, "batch kv_len kv_heads value_dim"],
    mask: BlockMask,
    *,
    scale: float,
) -> tuple[
    Float[Array, "batch q_len heads value_dim"],
    Float[Array, "batch q_len heads"],
    Int32[Array, "batch heads q_blocks"],
]:
    """Attention over the active blocks.

    Args:
      q: queries ``[batch, q_len, heads, dim]``.
      k: keys ``[batch, kv_len, kv_heads, dim]``.
      v: values ``[batch, kv_len, kv_heads, value_dim]``.
      mask: which blocks attend.
      scale: factor on the scores.

    Returns:
      ``out`` of q's dtype, ``lse``, and ``trips``: every row computes all key blocks.
    """
    queries, keys, values = _operands(q, k, v, mask)
    allowed = mask.to_tokens()
    scores = jnp.where(allowed, jnp.einsum("bqhd,bkhd->bhqk", queries * scale, keys), -jnp.inf)
    largest = scores.max(-1, keepdims=True)
    probs = jnp.exp(scores - jnp.where(largest == -jnp.inf, 0, largest))
    weight = probs.sum(-1, keepdims=True)
    empty = weight == 0
    weight = jnp.where(empty, 1, weight)
    out = jnp.einsum("bhqk,bkhd->bqhd", probs / weight, values)
    lse = jnp.where(empty, -jnp.inf, largest + jnp.log(weight))[..., 0]
    batch, _, heads, _ = q.shape
    q_blocks, kv_blocks = mask.blocks.shape[-2:]
    trips = jnp.full((batch, heads, q_blocks), kv_blocks, jnp.int32)
    return out.astype(q.dtype), lse.swapaxes(1, 2), trips


def backward(
    q: Float[Array, "batch q_len heads dim"],
    k: Float[Array, "batch kv_len kv_heads dim"],
    v: Float[Array, "batch kv_len kv_heads value_dim"],
    mask: BlockMask,
    out: Float[Array, "batch q_len heads value_dim"],
    lse: Float[Array, "batch q_len heads"],
    d_out: Float[Array, "batch q_len heads value_dim"],
    d_lse: Float[Array, "batch q_len heads"],
    *,
    scale: float,
) -> tuple[
    Float[Array, "batch q_len heads dim"],
    Float[Array, "batch kv_len kv_heads dim"],
    Float[Array, "batch kv_len kv_heads value_dim"],
]:
    """Gradients of ``forward``, from cotangents of both ``out`` and ``lse``.

    Args:
      q: queries ``[batch, q_len, heads, dim]``.
      k: keys ``[batch, kv_len, kv_heads, dim]``.
      v: values ``[batch, kv_len, kv_heads, value_dim]``.
      mask: which blocks attend.
      out: result of ``forward``.
      lse: result of ``forward``.
      d_out: cotangent of ``out``.
      d_lse: cotangent of ``lse``.
      scale: factor on the scores.

    Returns:
      ``dq``, ``dk``, ``dv``, each of its input's dtype.
    """
    queries, keys, values = _operands(q, k, v, mask)
    d_out = jnp.where(lse[..., None] == -jnp.inf, 0, d_out.astype(queries.dtype))
    scores = jnp.einsum("bqhd,bkhd->bhqk", queries * scale, keys)
    shift = jnp.where(lse == -jnp.inf, jnp.inf, lse).swapaxes(1, 2)[..., None]
    probs = jnp.where(mask.to_tokens(), jnp.exp(scores - shift), 0)
    d_probs = jnp.einsum("bqhd,bkhd->bhqk", d_out, values)
    offset = (d_out * out).sum(-1) - jnp.where(lse == -jnp.inf, 0, d_lse)
    d_scores = probs * (d_probs - offset.swapaxes(1, 2)[..., None])
    dq = jnp.einsum("bhqk,bkhd->bqhd", d_scores, keys) * scale
    dk = jnp.einsum("bhqk,bqhd->bkhd", d_scores, queries) * scale
    dv = jnp.einsum("bhqk,bqhd->bkhd", probs, d_out)

    def over_heads(gradient: Array) -> Array:
        batch, length, _, dim = gradient.shape
        return gradient.reshape(batch, length, k.shape[2], -1, dim).sum(3)

    return dq.astype(q.dtype), over_heads(dk).astype(k.dtype), over_heads(dv).astype(v.dtype)


def _operands(q: Array, k: Array, v: Array, mask: BlockMask) -> tuple[Array, Array, Array]:
    """Float32 or wider, padding tokens zeroed, every key head repeated for its query heads."""
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    present_query = (mask.query_positions() >= 0)[:, None, None]
    present_key = (mask.key_positions() >= 0)[:, None, None]
    queries = jnp.where(present_query, q.astype(dtype), 0)
    keys, values = (jnp.where(present_key, x.astype(dtype), 0) for x in (k, v))
    repeats = q.shape[2] // k.shape[2]
    return queries, jnp.repeat(keys, repeats, axis=2), jnp.repeat(values, repeats, axis=2)
