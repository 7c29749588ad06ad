"""Block-sparse attention the slow, obvious way: dense scores, then the mask.

Selectable as ``implementation="reference"``. It computes every block, its memory is quadratic in
the sequence length, and its trip counts say so.
"""

import jax.numpy as jnp
from jaxtyping import Array

from jaxlab.blocksparse.implementation import Keys, Outputs, PerQuery, Queries, Trips, Values
from jaxlab.blocksparse.mask import BlockMask


def forward(
    q: Queries, k: Keys, v: Values, mask: BlockMask, *, scale: float
) -> tuple[Outputs, PerQuery, Trips]:
    """Implements ``Implementation.forward``: every row computes all key blocks."""
    queries, keys, values = _operands(q, k, v)
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
    return out, lse.swapaxes(1, 2), trips


def backward(
    q: Queries,
    k: Keys,
    v: Values,
    mask: BlockMask,
    out: Outputs,
    lse: PerQuery,
    d_out: Outputs,
    d_lse: PerQuery,
    *,
    scale: float,
) -> tuple[Queries, Keys, Values]:
    """Implements ``Implementation.backward``."""
    queries, keys, values = _operands(q, k, v)
    d_out = d_out.astype(queries.dtype)
    scores = jnp.einsum("bqhd,bkhd->bhqk", queries * scale, keys)
    shift = jnp.where(lse == -jnp.inf, jnp.inf, lse).swapaxes(1, 2)[..., None]
    probs = jnp.where(mask.to_tokens(), jnp.exp(scores - shift), 0)
    d_probs = jnp.einsum("bqhd,bkhd->bhqk", d_out, values)
    delta = (d_out * out).sum(-1) - d_lse
    d_scores = probs * (d_probs - delta.swapaxes(1, 2)[..., None])
    dq = jnp.einsum("bhqk,bkhd->bqhd", d_scores, keys) * scale
    dk = jnp.einsum("bhqk,bqhd->bkhd", d_scores, queries) * scale
    dv = jnp.einsum("bhqk,bqhd->bkhd", probs, d_out)

    def over_heads(gradient: Array) -> Array:
        batch, length, _, dim = gradient.shape
        return gradient.reshape(batch, length, k.shape[2], -1, dim).sum(3)

    return dq.astype(q.dtype), over_heads(dk).astype(k.dtype), over_heads(dv).astype(v.dtype)


def _operands(q: Queries, k: Keys, v: Values) -> tuple[Array, Array, Array]:
    """Float32 or wider, every key head repeated for its query heads."""
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    queries, keys, values = (x.astype(dtype) for x in (q, k, v))
    repeats = q.shape[2] // k.shape[2]
    return queries, jnp.repeat(keys, repeats, axis=2), jnp.repeat(values, repeats, axis=2)
