"""How unequal the work of the devices is: the work table and the sparse imbalance ratios."""

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int64

from jaxlab.blocksparse import BlockMask
from jaxlab.dbsp.blocks import shards_of
from jaxlab.dbsp.home import live
from jaxlab.dbsp.plan import Plan


def work_table(
    blocks: BlockMask
    | Bool[Array, "*batch heads q_blocks kv_blocks"]
    | Bool[np.ndarray, "*batch heads q_blocks kv_blocks"],
    plan: Plan,
) -> Int64[np.ndarray, "ulysses ring ring"]:
    """Counts the active blocks of every tile of a plan, on the host.

    Ring step ``s`` of device ``(u, i)`` computes tile ``T[u, i, (i + s) mod R]``: the blocks whose
    head is in group ``u``, whose query block lives on ring shard ``i`` and whose key block lives on
    ring shard ``j``.

    Args:
      blocks: a BlockMask (causal blocks that attend to nothing count as inactive) or bool
        ``[*batch, heads, q_blocks, kv_blocks]`` in original order; a batch adds up.
      plan: where heads and blocks go. It may have more heads and blocks than the mask: padding,
        which holds no work.

    Returns:
      int64 ``[U, R, R]``, in blocks.

    Raises:
      ValueError: ``blocks`` is no block mask, or its heads or blocks do not fit the plan.

    Source: db-SP, sparse imbalance ratio as the official code computes it, without its loss of the
    last rows when the ring does not divide the blocks.

    Example:
      >>> blocks = np.zeros((2, 4, 4), bool)
      >>> blocks[0, :3], blocks[1, 3, 3] = True, True
      >>> work_table(blocks, Plan.contiguous(heads=2, q_blocks=4, kv_blocks=4, ulysses=2, ring=2))
      array([[[4, 4],
              [2, 2]],
      <BLANKLINE>
             [[0, 0],
              [0, 1]]])
    """
    from jaxlab.dbsp.bits import pack, tables

    found = live("work_table", blocks if isinstance(blocks, BlockMask) else np.asarray(blocks))
    heads, q_blocks, kv_blocks = found.shape[-3:]
    padded = (plan.q_order.shape[1], plan.kv_order.shape[1])
    if heads > plan.head_perm.size or q_blocks > padded[0] or kv_blocks > padded[1]:
        raise ValueError(
            f"work_table: blocks has {heads} heads and {q_blocks}x{kv_blocks} blocks, the plan is "
            f"for up to {plan.head_perm.size} heads and {padded[0]}x{padded[1]} blocks."
        )
    plan.validate(found)
    bits = pack(found.reshape(-1, q_blocks, kv_blocks))
    group_of = np.argsort(plan.head_perm) // (plan.head_perm.size // plan.ulysses)
    group_of = np.resize(group_of[:heads], len(bits.rows))
    placements = [
        (
            np.where(group_of == group, 0, -1),
            shards_of(q_order, plan.ring)[:q_blocks],
            shards_of(kv_order, plan.ring)[:kv_blocks],
        )
        for group, (q_order, kv_order) in enumerate(zip(plan.q_order, plan.kv_order, strict=True))
    ]
    return np.concatenate(tables(bits, placements, [(1, plan.ring)] * plan.ulysses))


def imbalance_ratio(
    work: Int[Array, "ulysses ring ring"] | Int[np.ndarray, "ulysses ring ring"],
) -> Float[Array, ""] | float:
    """The sparse imbalance ratio: the ring waits for its slowest device at every step.

    ``critical(u) = sum_s max_i T[u, i, (i + s) mod R]`` and
    ``rho_s = max_u critical(u) / (sum(T) / P)`` with ``P = U R`` devices. The direction of the ring
    does not matter: both visit the same diagonals.

    Args:
      work: int ``[U, R, R]``, numpy (exact) or jax (traceable, float32: the exact ratio rounded
        while the total and P times the largest load stay below 2^24, within 2e-7 of it beyond).

    Returns:
      The ratio, 1 for perfect balance, at least 1; 1 when there is no work at all.

    Raises:
      ValueError: ``work`` is not ``[U, R, R]`` or, where it is concrete, holds a negative count.

    Source: db-SP, sparse imbalance ratio; see ``docs/sources/dbsp.md``.
    """
    _check(work)
    xp = jnp if isinstance(work, jax.Array) else np
    ring = work.shape[1]
    shard = xp.arange(ring)
    by_step = work[:, shard[:, None], (shard[:, None] + shard[None, :]) % ring]  # [U, i, s]
    return _over_mean(by_step.max(1).sum(1), work)


def device_imbalance_ratio(
    work: Int[Array, "ulysses ring ring"] | Int[np.ndarray, "ulysses ring ring"],
) -> Float[Array, ""] | float:
    """The relaxed ratio, without a barrier between ring steps: busiest device over the mean.

    Args:
      work: int ``[U, R, R]``, numpy (exact) or jax (traceable, float32).

    Returns:
      ``rho_dev = max_{u,i} sum_j T[u, i, j] / (sum(T) / P)``, at least 1 and never above
      ``imbalance_ratio``.

    Raises:
      ValueError: as ``imbalance_ratio``.
    """
    _check(work)
    return _over_mean(work.sum(2), work)


def _check(work: jax.Array | np.ndarray) -> None:
    if work.ndim != 3 or work.shape[1] != work.shape[2] or 0 in work.shape:
        raise ValueError(f"work has shape {work.shape}, expected [U, R, R] from work_table.")
    if not isinstance(work, jax.core.Tracer) and np.asarray(work).min() < 0:
        raise ValueError(f"work holds a negative count of blocks, {np.asarray(work).min()}.")


def _over_mean(
    load: Int[Array, "..."] | Int[np.ndarray, "..."],
    work: Int[Array, "ulysses ring ring"] | Int[np.ndarray, "ulysses ring ring"],
) -> Float[Array, ""] | float:
    devices = work.shape[0] * work.shape[1]
    if isinstance(work, jax.Array):
        total = work.astype(jnp.float32).sum()
        busiest = load.max().astype(jnp.float32)
        return jnp.where(total > 0, busiest * devices / jnp.maximum(total, 1), 1.0)
    total = int(work.sum())
    return int(load.max()) * devices / total if total else 1.0
