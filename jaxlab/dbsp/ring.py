"""Ring attention: keys and values travel, every device meets all shards, partial results merge.

At step ``s`` shard ``i`` holds the keys of shard ``i - s`` and passes them on to ``i + 1`` before
it computes with them. The backward pass sends keys and values around once more instead of keeping
all of them, and their gradients travel along, one hop behind.
"""

import dataclasses
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32

from jaxlab.blocksparse import BlockMask, block_sparse_attention, block_sparse_gradients


class Ring(NamedTuple):
    """What the compiled ring depends on.

    Attributes:
      size: shards in the ring, along the mesh axis ``ring``.
      scale: factor on the scores; None for ``dim ** -0.5``.
      implementation: of ``block_sparse_attention``.
    """

    size: int
    scale: float | None
    implementation: Literal["reference", "xla", "pallas"] | None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def ring_attention(
    ring: Ring,
    q: Float[Array, "batch q_len heads dim"],
    k: Float[Array, "batch kv_len kv_heads dim"],
    v: Float[Array, "batch kv_len kv_heads value_dim"],
    mask: BlockMask,
) -> tuple[Float[Array, "batch q_len heads value_dim"], Int32[Array, " ring"]]:
    """Attention of this shard's queries over the keys of all shards, inside ``shard_map``.

    Args:
      ring: static settings.
      q: this shard's queries.
      k: this shard's keys.
      v: this shard's values.
      mask: blocks of this shard's queries and of every shard's keys, shard after shard.

    Returns:
      ``out`` of q's dtype, and the key blocks computed for each shard of keys.
    """
    out, _, trips = _forward(ring, q, k, v, mask)
    return out, trips


def _forward(
    ring: Ring, q: Array, k: Array, v: Array, mask: BlockMask
) -> tuple[Array, Array, Array]:
    def attend(state: tuple, kv: tuple, step: Array) -> tuple:
        out, lse, trips = state
        keys, values = kv
        shard = _holds(ring, step)
        part, part_lse, rows = block_sparse_attention(
            q, keys, values, _keys_of(mask, shard, ring.size), scale=ring.scale,
            implementation=ring.implementation, return_lse=True, return_trips=True,
        )  # fmt: skip
        out, lse = _merge(out, lse, part.astype(out.dtype), part_lse)
        return out, lse, trips.at[shard].set(rows.sum(dtype=jnp.int32))

    def step(carry: tuple, number: Array) -> tuple:
        state, kv = carry
        arriving = _hop(ring, kv)
        return (attend(state, kv, number), arriving), None

    dtype = jnp.promote_types(q.dtype, jnp.float32)
    nothing = (
        jnp.zeros((*q.shape[:3], v.shape[-1]), dtype),
        jnp.full(q.shape[:3], -jnp.inf, dtype),
        jnp.zeros(ring.size, jnp.int32),
    )
    (state, kv), _ = lax.scan(step, (nothing, (k, v)), jnp.arange(ring.size - 1))
    out, lse, trips = attend(state, kv, jnp.asarray(ring.size - 1))
    return out.astype(q.dtype), lse, trips


def _save(
    ring: Ring, q: Array, k: Array, v: Array, mask: BlockMask
) -> tuple[tuple[Array, Array], tuple]:
    out, lse, trips = _forward(ring, q, k, v, mask)
    return (out, trips), (q, k, v, mask, out, lse)


def _backward(ring: Ring, saved: tuple, cotangents: tuple) -> tuple[Array, Array, Array, None]:
    q, k, v, mask, out, lse = saved
    wide = jnp.promote_types(q.dtype, jnp.float32)

    def gradients(kv: tuple, step: Array) -> tuple:
        here = _keys_of(mask, _holds(ring, step), ring.size)
        keys, values = kv
        dq, *dkv = block_sparse_gradients(
            q, keys, values, here, out, lse, cotangents[0], scale=ring.scale,
            implementation=ring.implementation,
        )  # fmt: skip
        return dq.astype(wide), tuple(x.astype(wide) for x in dkv)

    def follow(dq: Array, dkv: tuple, kv: tuple, step: Array) -> tuple:
        behind = _hop(ring, dkv)
        more, here = gradients(kv, step)
        return dq + more, jax.tree.map(jnp.add, behind, here)

    def step(carry: tuple, number: Array) -> tuple:
        dq, dkv, kv = carry
        arriving = _hop(ring, kv)
        return (*follow(dq, dkv, kv, number), arriving), None

    kv = (k, v)
    if ring.size == 1:
        dq, dkv = gradients(kv, jnp.asarray(0))
    else:
        arriving = _hop(ring, kv)
        carry = (*gradients(kv, jnp.asarray(0)), arriving)
        (dq, dkv, kv), _ = lax.scan(step, carry, jnp.arange(1, ring.size - 1))
        dq, dkv = follow(dq, dkv, kv, jnp.asarray(ring.size - 1))
        dkv = _hop(ring, dkv)
    return dq.astype(q.dtype), *(x.astype(q.dtype) for x in dkv), None


ring_attention.defvjp(_save, _backward)


def _merge(out: Array, lse: Array, part: Array, part_lse: Array) -> tuple[Array, Array]:
    """Attention over two sets of keys from attention over each; either may be empty."""
    largest = jnp.maximum(lse, part_lse)
    shift = jnp.where(largest == -jnp.inf, 0, largest)
    weight, part_weight = jnp.exp(lse - shift), jnp.exp(part_lse - shift)
    total = weight + part_weight
    # A zero total means that neither met a key: keep 0 and -inf without dividing by it.
    total = jnp.where(total == 0, 1, total)
    out = out * (weight / total)[..., None] + part * (part_weight / total)[..., None]
    return out, jnp.where(largest == -jnp.inf, -jnp.inf, shift + jnp.log(total))


def _keys_of(mask: BlockMask, shard: Array, size: int) -> BlockMask:
    """The mask over the keys of one shard."""
    length, blocks = mask.kv_len // size, mask.blocks.shape[-1] // size
    positions = mask.kv_positions
    if positions is not None:
        positions = lax.dynamic_slice_in_dim(positions, shard * length, length)
    return dataclasses.replace(
        mask,
        blocks=lax.dynamic_slice_in_dim(mask.blocks, shard * blocks, blocks, axis=-1),
        kv_len=length,
        kv_positions=positions,
    )


def _holds(ring: Ring, step: Array) -> Array:
    """Whose keys are here at a step."""
    return (lax.axis_index("ring") - step) % ring.size


def _hop(ring: Ring, arrays: tuple) -> tuple:
    onward = [(rank, (rank + 1) % ring.size) for rank in range(ring.size)]
    return jax.tree.map(lambda x: lax.ppermute(x, "ring", onward), arrays)
