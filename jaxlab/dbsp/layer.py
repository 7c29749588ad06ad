"""The attention layer: heads split over Ulysses groups, the sequence over a ring, by a plan."""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from jaxlab.blocksparse import BlockMask
from jaxlab.dbsp.device_plan import DevicePlan, device_plan
from jaxlab.dbsp.exchange import exchange
from jaxlab.dbsp.plan import Plan
from jaxlab.dbsp.ring import Ring, ring_attention
from jaxlab.dbsp.shapes import check_arrays, check_sizes

AXES = ("ring", "ulysses")


def sharded_attention(
    q: Float[Array, "batch q_len heads dim"] | Float[np.ndarray, "batch q_len heads dim"],
    k: Float[Array, "batch kv_len kv_heads dim"] | Float[np.ndarray, "batch kv_len kv_heads dim"],
    v: Float[Array, "batch kv_len kv_heads value_dim"]
    | Float[np.ndarray, "batch kv_len kv_heads value_dim"],
    mask: BlockMask,
    plan: Plan | DevicePlan,
    *,
    mesh: Mesh,
    scale: float | None = None,
    return_trips: bool = False,
    implementation: Literal["reference", "xla", "pallas"] | None = None,
) -> Float[Array, "batch q_len heads value_dim"] | tuple[Array, Array]:
    """Block-sparse attention on several devices, each computing the blocks that a plan gives it.

    Heads are put in the plan's order and spread over the Ulysses groups, blocks that are not at
    home are exchanged inside each ring, keys and values go around the ring, and everything comes
    back. Equal to ``block_sparse_attention`` for every plan. Differentiable (reverse mode) in q, k
    and v; the backward pass sends keys and values around once more.

    Tokens arrive and leave in the order of the plan's homes. Where these are the original order,
    arrays may have the mask's lengths: they are padded here, and the output is cut to length and
    gathered on every device. Arrays of the plan's lengths, as ``to_home`` makes them for any home,
    stay sharded along the sequence over ``("ring", "ulysses")``: no device gathers q, k, v or the
    output, forward or backward.

    Under ``jit``, pass ``device_plan(plan)`` and the mask as arguments: neither new blocks of the
    same shape nor new plans of the same capacities recompile. A host ``Plan`` is a constant there.

    Args:
      q: float ``[batch, q_len, heads, dim]``. Heads that U does not divide are padded with zeros,
        which costs traffic and no work.
      k: the same dtype, ``[batch, kv_len, kv_heads, dim]``; ``kv_heads`` divides ``heads``. Where
        the plan splits the heads that share a key head over groups, keys are repeated.
      v: the same dtype, ``[batch, kv_len, kv_heads, value_dim]``.
      mask: in original order, blocks ``[heads, q_blocks, kv_blocks]`` or with a leading ``batch``
        or 1.
      plan: where heads and blocks go.
      mesh: axes ``ring`` and ``ulysses`` of the plan's sizes, both Auto, for example
        ``jax.make_mesh((R, U), ("ring", "ulysses"), axis_types=(AxisType.Auto,) * 2)``.
      scale: factor on the scores, by default ``dim ** -0.5``.
      return_trips: also return how many blocks were computed where.
      implementation: of ``block_sparse_attention``.

    Returns:
      ``out`` of q's shape but for ``value_dim``; queries that attend to nothing and padding queries
      give 0. Then, as asked for, ``trips`` int32 ``[U, R, R]``: blocks computed in group ``u`` for
      query shard ``i`` and key shard ``j``, those included that the implementation computes for its
      own convenience; ``work_table`` where it computes none.

    Raises:
      TypeError: an argument is of the wrong kind or dtype.
      ValueError: mesh, plan, mask and arrays do not fit each other.

    Source: db-SP, the runtime pipeline of the overview figure; the backward pass is ours.
    """
    check_arrays("sharded_attention", q, k, v)
    lowered = _lowered(plan, q, k)
    _check_mesh(mesh, lowered)
    check_sizes("sharded_attention", q, k, v, mask, lowered, placed=not lowered.original)
    out, trips = _attend(q, k, v, mask, lowered, mesh, scale, implementation)
    return (out, trips) if return_trips else out


@functools.partial(jax.jit, static_argnames=("mesh", "scale", "implementation"))
def _attend(
    q: Array,
    k: Array,
    v: Array,
    mask: BlockMask,
    plan: DevicePlan,
    mesh: Mesh,
    scale: float | None,
    implementation: Literal["reference", "xla", "pallas"] | None,
) -> tuple[Array, Array]:
    q_length = q.shape[1]
    q, k, v = (
        _pad_tokens(x, blocks, size)
        for x, blocks, size in (
            (q, plan.q_home, mask.q_block),
            (k, plan.kv_home, mask.kv_block),
            (v, plan.kv_home, mask.kv_block),
        )
    )
    everywhere, device, tokens = P(), P("ulysses", "ring"), P(None, AXES)
    arrays = {
        "heads": (plan.heads, everywhere),
        "head_inv": (plan.head_inv, everywhere),
        "q_blocks": (plan.q_blocks, device),
        "kv_blocks": (plan.kv_blocks, P("ulysses")),
        "q_route": (plan.q_route, device),
        "kv_route": (plan.kv_route, device),
    }
    local = functools.partial(
        _on_device, Ring(plan.ring, scale, implementation), plan.ulysses, plan.sharing
    )
    out, trips = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(tokens, tokens, tokens, everywhere, {n: spec for n, (_, spec) in arrays.items()}),
        out_specs=(tokens, device),
        check_vma=False,  # Pallas kernels do not say over which axes their results vary
    )(q, k, v, mask, {name: value for name, (value, _) in arrays.items()})
    return out[:, :q_length], trips


def _on_device(
    ring: Ring,
    ulysses: int,
    sharing: int,
    q: Array,
    k: Array,
    v: Array,
    mask: BlockMask,
    plan: dict,
) -> tuple[Array, Array]:
    heads = q.shape[2]
    members = plan["heads"]
    if ulysses > 1:
        shared = heads // k.shape[2]
        kv_members = members[:, ::sharing] // shared
        q = _to_groups(q, members)
        k, v = (_to_groups(x, kv_members) for x in (k, v))
        members = members[lax.axis_index("ulysses")]
    else:
        members = jnp.arange(heads)
    q = exchange(q, plan["q_route"], mask.q_block)
    k, v = (exchange(x, plan["kv_route"], mask.kv_block) for x in (k, v))
    here = _mask_here(mask, members, plan["q_blocks"][0, 0], plan["kv_blocks"].reshape(-1))
    out, trips = ring_attention(ring, q, k, v, here)
    out = exchange(out, plan["q_route"], mask.q_block, back=True)
    if ulysses > 1:
        out = lax.all_to_all(out, "ulysses", split_axis=1, concat_axis=2, tiled=True)
        out = jnp.take(out, plan["head_inv"][:heads], axis=2)
    return out, trips[None, None]


def _to_groups(tokens: Array, members: Array) -> Array:
    """All heads of a slice of the sequence to the heads of one group of the ring shard."""
    ordered = jnp.take(tokens, members.reshape(-1), axis=2, mode="fill", fill_value=0)
    return lax.all_to_all(ordered, "ulysses", split_axis=2, concat_axis=1, tiled=True)


def _mask_here(mask: BlockMask, heads: Array, q_blocks: Array, kv_blocks: Array) -> BlockMask:
    """The mask of this device's heads and queries over the keys of the whole ring."""
    blocks = jnp.asarray(mask.blocks)
    for index, axis in ((heads, -3), (q_blocks, -2), (kv_blocks, -1)):
        blocks = jnp.take(blocks, index, axis=axis, mode="fill", fill_value=False)
    # Whole blocks of a plain mask need no positions: padding blocks are never active.
    whole = not (mask.q_len % mask.q_block or mask.kv_len % mask.kv_block)
    plain = not mask.causal and mask.q_positions is None and mask.kv_positions is None
    q_positions = kv_positions = None
    if not (whole and plain):
        q_positions = _positions(mask.query_positions(), mask.q_block, q_blocks)
        kv_positions = _positions(mask.key_positions(), mask.kv_block, kv_blocks)
    return BlockMask(
        blocks,
        mask.q_block,
        mask.kv_block,
        q_blocks.size * mask.q_block,
        kv_blocks.size * mask.kv_block,
        mask.causal,
        q_positions,
        kv_positions,
    )


def _positions(positions: Array, block: int, order: Array) -> Array:
    padded = jnp.pad(positions, (0, -positions.size % block), constant_values=-1)
    blocks = padded.reshape(-1, block)
    return jnp.take(blocks, order, axis=0, mode="fill", fill_value=-1).reshape(-1)


def _pad_tokens(x: Array, home: Any, block: int) -> Array:
    return jnp.pad(x, ((0, 0), (0, home.size * block - x.shape[1]), (0, 0), (0, 0)))


def _lowered(plan: Any, q: Any, k: Any) -> DevicePlan:
    heads, kv_heads = q.shape[2], k.shape[2]
    if isinstance(plan, Plan):
        return device_plan(plan, sharing=heads // kv_heads)
    if not isinstance(plan, DevicePlan):
        raise TypeError(
            f"sharded_attention: plan must be a Plan or a DevicePlan, got {type(plan).__name__}."
        )
    if plan.sharing not in (1, heads // kv_heads):
        raise ValueError(
            f"sharded_attention: plan was made for {plan.sharing} query heads a key head, q and k "
            f"have {heads // kv_heads}; call device_plan(plan, sharing={heads // kv_heads})."
        )
    return plan


def _check_mesh(mesh: Any, plan: DevicePlan) -> None:
    if not isinstance(mesh, Mesh):
        raise TypeError(f"sharded_attention: mesh must be a Mesh, got {type(mesh).__name__}.")
    if set(mesh.axis_names) != set(AXES):
        raise ValueError(
            f"sharded_attention: mesh has axes {mesh.axis_names}, expected {AXES}; make it "
            f"with jax.make_mesh(({plan.ring}, {plan.ulysses}), {AXES}, "
            "axis_types=(AxisType.Auto,) * 2)."
        )
    if any(kind != AxisType.Auto for kind in mesh.axis_types):
        raise ValueError(
            f"sharded_attention: the axes of mesh are {mesh.axis_types}, expected Auto; pass "
            "axis_types=(AxisType.Auto,) * 2 to jax.make_mesh."
        )
    if (mesh.shape["ring"], mesh.shape["ulysses"]) != (plan.ring, plan.ulysses):
        raise ValueError(
            f"sharded_attention: mesh has ring={mesh.shape['ring']} and "
            f"ulysses={mesh.shape['ulysses']}, the plan ring={plan.ring} and "
            f"ulysses={plan.ulysses}; plan for this mesh."
        )
