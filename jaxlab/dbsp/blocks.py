"""Block-level balance: which ring shard computes which token blocks."""

from typing import Literal

import numpy as np
from jaxtyping import Int, Int64

BlockMethod = Literal["none", "striped", "greedy", "refined"]
BLOCK_METHODS = ("none", "striped", "greedy", "refined")


def block_groups(
    weights: Int[np.ndarray, " blocks"],
    home: Int[np.ndarray, " blocks"],
    *,
    ring: int,
    home_reward: int | float = 0,
) -> Int64[np.ndarray, " blocks"]:
    """Spreads blocks over ring shards of equal size by their marginal work: greedy, heaviest first.

    Each block, in order of falling weight, joins the shard with room whose score is least. The
    score of a shard is its load, less ``home_reward * weight`` on the block's home shard. Ties go
    to the lower index, of blocks and of shards. A block without work moves only when its home is
    full: moving it would gain nothing.

    Args:
      weights: int ``[blocks]``, active blocks in every row (or column) of blocks, not negative.
      home: int ``[blocks]``, the shard on which every block is at home; all shards are equally
        large.
      ring: number of shards; divides ``blocks``.
      home_reward: what staying at home is worth, in units of the block's own weight.

    Returns:
      int64 ``[blocks]``, the shard of every block.

    Raises:
      ValueError: the ring does not divide the blocks, the shapes differ, a home is no shard, a
        weight is negative or no integer, or the reward is negative or not finite.

    Source: db-SP 4.2.2, block-level partition, as the official code has it. That blocks without
    work stay at home is ours.

    Example:
      >>> block_groups(np.array([8, 8, 2, 2]), np.array([0, 0, 1, 1]), ring=2)
      array([0, 1, 0, 1])
    """
    weights, home = np.asarray(weights), np.asarray(home)
    if weights.ndim != 1 or ring < 1 or weights.size % ring or home.shape != weights.shape:
        raise ValueError(
            f"block_groups: ring={ring} must divide weights of shape {weights.shape}, and home of "
            f"shape {home.shape} must match them; pad with blocks of weight 0."
        )
    if not all(np.issubdtype(values.dtype, np.integer) for values in (weights, home)):
        raise ValueError(
            f"block_groups: weights and home must be integers, got {weights.dtype}, {home.dtype}."
        )
    if weights.size and (weights.min() < 0 or home.min() < 0 or home.max() >= ring):
        raise ValueError(
            f"block_groups: weights must not be negative and homes lie in 0..{ring - 1}, got "
            f"weights from {int(weights.min())}, homes {int(home.min())} to {int(home.max())}."
        )
    if not 0 <= home_reward < np.inf:
        raise ValueError(f"block_groups: home_reward must be 0 or more, got {home_reward}.")
    if ring == 1:
        return np.zeros(weights.size, np.int64)
    from jaxlab.dbsp.fill import fill_shards

    weights = weights.astype(np.int64)
    heaviest_first = np.argsort(-weights, kind="stable")
    return fill_shards(weights, heaviest_first, home.astype(np.int64), ring, float(home_reward))


def shards_of(order: Int[np.ndarray, " blocks"], ring: int) -> Int64[np.ndarray, " blocks"]:
    """The shard of every block of an order whose equal slices are the shards."""
    shards = np.empty(order.size, np.int64)
    shards[order] = np.arange(order.size) // (order.size // ring)
    return shards


def order_of(shards: Int[np.ndarray, " blocks"]) -> Int64[np.ndarray, " blocks"]:
    """The order that lists shard after shard, the blocks of each in ascending order."""
    narrow = shards.astype(np.min_scalar_type(shards.max(initial=0)))  # few bits sort by digits
    return np.argsort(narrow, kind="stable")


def refined_blocks(
    work: Int[np.ndarray, "q_blocks kv_blocks"],
    turned: Int[np.ndarray, "kv_blocks q_blocks"],
    q_home: Int64[np.ndarray, " q_blocks"],
    kv_home: Int64[np.ndarray, " kv_blocks"],
    *,
    ring: int,
    caps: tuple[int, int],
    movement_weight: int | float,
    evaluations: int,
    seed: int,
) -> tuple[Int64[np.ndarray, " q_blocks"], Int64[np.ndarray, " kv_blocks"]]:
    """Anneals the placement of one Ulysses group from its home, on the critical path itself.

    Args:
      work: int ``[q_blocks, kv_blocks]``, the mask summed over the heads of the group.
      turned: its transpose, in one piece.
      q_home: int64 ``[q_blocks]``, home shard of every query block; the search starts there.
      kv_home: int64 ``[kv_blocks]``, the same for key blocks.
      ring: number of shards.
      caps: how many query and key blocks may leave their home.
      movement_weight: what moving all blocks of a side may cost, as a part of the perfect time.
      evaluations: swaps to try.
      seed: decides the draws.

    Returns:
      The shard of every query block and of every key block.
    """
    from jaxlab.dbsp.swap_blocks import swap_blocks

    q_shard, kv_shard = q_home.copy(), kv_home.copy()
    swap_blocks(
        work,
        turned,
        q_shard,
        kv_shard,
        q_home,
        kv_home,
        ring,
        *caps,
        float(movement_weight),
        evaluations,
        seed,
    )
    return q_shard, kv_shard
