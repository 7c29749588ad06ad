"""The home of token blocks: where they live before any block is exchanged."""

import collections
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Int64

from jaxlab.blocksparse import BlockMask
from jaxlab.dbsp.blocks import order_of, shards_of
from jaxlab.dbsp.heads import head_groups

Masks = BlockMask | Bool[np.ndarray, "*batch heads q_blocks kv_blocks"]
Home = (
    str
    | Int[np.ndarray, " blocks"]
    | tuple[Int[np.ndarray, " q_blocks"], Int[np.ndarray, " kv_blocks"]]
)

STRETCH = 2
"""How many blocks of a shard stand in a short stretch of the sequence that a home may keep even."""


class Units(NamedTuple):
    """How query and key blocks share tokens.

    Attributes:
      total: units of tokens, the larger of the two kinds of blocks, padding included.
      q: query blocks in a unit.
      kv: key blocks in a unit.
    """

    total: int
    q: int
    kv: int


def live(rule: str, mask: Masks) -> Bool[np.ndarray, "*batch heads q_blocks kv_blocks"]:
    """The blocks that a mask computes, checked.

    Raises:
      ValueError: the mask is no BlockMask and no boolean array of three or more dimensions.
    """
    blocks = np.asarray(mask.live_blocks() if isinstance(mask, BlockMask) else mask)
    if blocks.ndim < 3 or blocks.dtype != np.bool_ or 0 in blocks.shape:
        raise ValueError(
            f"{rule}: mask must be a BlockMask or a boolean array [*batch, heads, q_blocks, "
            f"kv_blocks] that is not empty, got {blocks.dtype} {blocks.shape}."
        )
    return blocks


def units(mask: Masks, devices: int) -> Units | None:
    """What the two sides of a mask share; None when their blocks do not nest.

    Lengths that differ are two sequences. An array says nothing of tokens: its sides nest when one
    count is the other one divided by a whole number and rounded up.
    """
    q_blocks, kv_blocks = (mask.blocks if isinstance(mask, BlockMask) else mask).shape[-2:]
    if isinstance(mask, BlockMask):
        large, small = max(mask.q_block, mask.kv_block), min(mask.q_block, mask.kv_block)
        if mask.q_len != mask.kv_len or large % small:
            return None
        ratio, q_is_large = large // small, mask.q_block >= mask.kv_block
    else:
        ratio, q_is_large = -(-max(q_blocks, kv_blocks) // min(q_blocks, kv_blocks)), True
        q_is_large = q_blocks <= kv_blocks
        if -(-max(q_blocks, kv_blocks) // ratio) != min(q_blocks, kv_blocks):
            return None
    count = _up(min(q_blocks, kv_blocks), devices)
    return Units(count, 1, ratio) if q_is_large else Units(count, ratio, 1)


def home_orders(
    mask: Masks, home: Home, *, ulysses: int, ring: int
) -> tuple[Int64[np.ndarray, " q_padded"], Int64[np.ndarray, " kv_padded"]]:
    """The orders in which query and key blocks arrive, padding included.

    Raises:
      ValueError: ``home`` is unknown, of the wrong length, no permutation, or one order for two
        sides that do not nest.
    """
    blocks = mask.blocks if isinstance(mask, BlockMask) else mask
    sizes = blocks.shape[-2:]
    devices = ulysses * ring
    shared = units(mask, devices)
    if isinstance(home, str):
        if home not in ("contiguous", "striped"):
            raise ValueError(
                "plan: home must be 'contiguous', 'striped', an order or a pair of orders, got "
                f"{home!r}."
            )
        make = functools.partial(striped, ring=ring) if home == "striped" else np.arange
        if shared is None:
            q_home, kv_home = (make(_up(size, devices)) for size in sizes)
            return q_home, kv_home
        order = make(shared.total)
        return _expanded(order, shared.q), _expanded(order, shared.kv)
    if isinstance(home, tuple):
        if len(home) != 2:
            raise ValueError(f"plan: home must be one order or a pair, got {len(home)} orders.")
        pair = [
            _padded(order, size, _up(size, devices))
            for order, size in zip(home, sizes, strict=True)
        ]
        return pair[0], pair[1]
    if shared is None:
        raise ValueError(
            f"plan: {sizes[0]} query blocks and {sizes[1]} key blocks do not nest, so one home "
            "order cannot place the tokens of both; pass a pair (q_order, kv_order)."
        )
    order = _padded(np.asarray(home), min(sizes), shared.total)
    return _expanded(order, shared.q), _expanded(order, shared.kv)


def striped(blocks: int, ring: int) -> Int64[np.ndarray, " blocks"]:
    """The order that puts block ``k`` on shard ``k mod ring``."""
    return order_of(np.arange(blocks) % ring)


def fit_home(
    masks: Sequence[Masks],
    *,
    ring: int,
    ulysses: int = 1,
    seed: int = 0,
    evaluations: int = 500_000,
) -> Int64[np.ndarray, " blocks"]:
    """Fits one static order of token blocks to the masks of several layers and steps.

    Fold it into the token order once, before the first layer, and no block has to move: every mask
    like those fitted is nearly balanced where it stands. Simulated annealing over swaps of two
    token blocks, which moves their queries and keys together; energy is the mean over masks and
    Ulysses groups of the critical path over the perfect time. Half of that mean is over the given
    masks, half over their sum with its queries moved by one block either way and over that sum
    grown, each row the maximum of itself and its neighbors: an order that also balances those fits
    masks that have not been seen better. So does one in which every shard keeps
    two blocks of every ``2 ring`` consecutive ones, as striped shards have them: half of the search
    swaps inside such stretches only, half everywhere, and what is better on the given masks counts.
    Masks of several steps help too, where the pattern grows or drifts. Starts from striped shards
    and never ends worse on the given masks than those or contiguous ones.

    Args:
      masks: masks of the same block counts; heads may differ. A batch adds up.
      ring: shards.
      ulysses: head groups. The heads of every mask are grouped by ``head_groups``.
      seed: decides the draws.
      evaluations: tables to judge, one for every swap and different mask of a group, the three
        made from their sum included; 0.4 microseconds each at R = 8 and 256 blocks.

    Returns:
      int64 ``[n]``, for ``plan(..., home=order)``: ``n`` counts the larger of query and key blocks,
      padded up to a multiple of ``ulysses * ring``. The ``i``-th equal slice lives on shard ``i``.

    Raises:
      ValueError: no masks, masks of different block counts or whose sides do not nest, or degrees
        or evaluations that are not positive.

    Source: ours; ``docs/sources/dbsp.md``.
    """
    from jaxlab.dbsp.bits import pack, sum_of_heads
    from jaxlab.dbsp.swap_tokens import swap_tokens

    if min(ring, ulysses, evaluations) < 1 or not len(masks):
        raise ValueError(
            f"fit_home: ring={ring}, ulysses={ulysses} and evaluations={evaluations} must be "
            f"positive and masks not empty (got {len(masks)})."
        )
    shared = {units(mask, ulysses * ring) for mask in masks}
    shape = shared.pop()
    if shared or shape is None:
        raise ValueError(
            "fit_home: all masks must have the same block counts, and their query and key blocks "
            "must nest."
        )
    count, q_ratio, kv_ratio = shape
    work = np.zeros((len(masks), ulysses, count, count), np.int32)
    for number, mask in enumerate(masks):
        blocks = live("fit_home", mask)
        heads = blocks.shape[-3]
        flat = blocks.reshape(-1, *blocks.shape[-2:])
        totals = np.zeros(_up(heads, ulysses), np.int64)
        if ulysses > 1:
            totals[:heads] = pack(flat).rows.sum(1).reshape(-1, heads).sum(0)
        for group, members in enumerate(head_groups(totals, ulysses, method="refined", seed=seed)):
            of_group = np.flatnonzero(np.isin(np.arange(flat.shape[0]) % heads, members))
            fine, _ = sum_of_heads(flat, of_group, count * q_ratio, count * kv_ratio)
            work[number, group] = fine.reshape(count, q_ratio, count, kv_ratio).sum((1, 3))
    work, weight, given = _with_kin(work)
    turned = np.ascontiguousarray(work.swapaxes(1, 2))

    def ratio(shards: Int64[np.ndarray, " blocks"]) -> float:
        return swap_tokens(work, turned, given, shards, ring, 1, 0, seed)

    homes = [shards_of(order, ring) for order in (striped(count, ring), np.arange(count))]
    for stretch in (STRETCH * ring, count):
        homes.append(homes[0].copy())
        swaps = evaluations // (2 * len(work))
        swap_tokens(work, turned, weight, homes[-1], ring, stretch, swaps, seed)
    return order_of(min(homes, key=ratio))


def _with_kin(
    work: Int[np.ndarray, "masks groups n n"],
) -> tuple[Int[np.ndarray, "all n n"], Float[np.ndarray, " all"], Float[np.ndarray, " all"]]:
    """Each different mask of each group once, then every group's sum moved both ways and grown.

    Behind them the weights of all, and the weights that count the given masks alone.
    """
    count = work.shape[2]
    different = collections.Counter(one.tobytes() for one in work.reshape(-1, count, count))
    times = np.array(list(different.values()))
    flat = np.stack([np.frombuffer(one, work.dtype) for one in different])
    total = work.sum(0)
    padded = np.pad(total, ((0, 0), (1, 1), (0, 0)), mode="edge")
    before, after = padded[:, :-2], padded[:, 2:]
    kin = np.concatenate([before, after, np.maximum(total, np.maximum(before, after))])
    given = np.concatenate([times / times.sum(), np.zeros(len(kin))])
    weight = (given + (given == 0) / len(kin)) / 2
    every = np.concatenate([flat.reshape(-1, count, count), kin])
    return every.astype(np.int32), weight, given


def _up(size: int, devices: int) -> int:
    return -(-size // devices) * devices


def _padded(order: Int[np.ndarray, " given"], size: int, padded: int) -> Int64[np.ndarray, " all"]:
    order = np.asarray(order)
    if order.ndim != 1 or order.size not in (size, padded):
        raise ValueError(
            f"plan: a home order must hold {size} blocks, or {padded} with padding, got shape "
            f"{order.shape}."
        )
    if not np.array_equal(np.sort(order), np.arange(order.size)):
        raise ValueError(f"plan: a home order must be a permutation of 0..{order.size - 1}.")
    return np.concatenate([order, np.arange(order.size, padded)]).astype(np.int64)


def _expanded(order: Int64[np.ndarray, " units"], ratio: int) -> Int64[np.ndarray, " blocks"]:
    return (order[:, None] * ratio + np.arange(ratio)).reshape(-1)
