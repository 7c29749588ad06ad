"""From a mask to a plan: heads into groups, blocks onto shards, work and movement in view."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from jaxlab.dbsp.blocks import (
    BLOCK_METHODS,
    BlockMethod,
    block_groups,
    order_of,
    refined_blocks,
    shards_of,
)
from jaxlab.dbsp.heads import (
    HEAD_METHODS,
    HeadMethod,
    expand_kv_groups,
    head_groups,
    refined_groups,
)
from jaxlab.dbsp.home import Home, Masks, home_orders, live
from jaxlab.dbsp.plan import Plan


def plan(
    mask: Masks,
    *,
    ulysses: int,
    ring: int,
    heads: HeadMethod = "refined",
    blocks: BlockMethod = "refined",
    home: Home = "contiguous",
    home_reward: int | float = 2,
    movement_weight: int | float = 0.02,
    q_cap: int | float = 0.2,
    kv_cap: int | float = 0.25,
    kv_heads: int | None = None,
    evaluations: int = 200_000,
    seed: int = 0,
) -> Plan:
    """Places heads and token blocks so that all devices finish together.

    Heads: ``"none"``, ``"snake"``, ``"greedy"`` or ``"refined"``, see ``head_groups``; with a ring,
    ``"refined"`` looks at the tiles of the ring as well as at the totals.

    Blocks: ``"none"`` leaves them at home; ``"striped"`` puts block ``k`` on shard ``k mod R``;
    ``"greedy"`` is ``block_groups`` on the marginals of all heads, one placement for all Ulysses
    groups; ``"refined"`` anneals swaps of blocks from their home, for every Ulysses group on its
    own, on the critical path with its barrier at every ring step, within hard caps on movement.

    Args:
      mask: a BlockMask (causal blocks that attend to nothing count as inactive) or bool
        ``[*batch, heads, q_blocks, kv_blocks]``; a batch shares the plan and adds up.
      ulysses: U, head groups; heads are padded up to a multiple of it.
      ring: R, sequence shards; blocks are padded up to a multiple of ``U R``. Where query and key
        blocks differ in size, the larger ones are.
      heads: how heads are grouped.
      blocks: how blocks are placed.
      home: where blocks live before any exchange: ``"contiguous"``, ``"striped"``, or an order
        ``[n]`` (from ``fit_home``) whose ``i``-th equal slice lives on shard ``i``, with or without
        the padding. One order counts the larger of query and key blocks, and the smaller ones
        follow their tokens. Sides that do not nest (cross attention) take a pair
        ``(q_order, kv_order)``.
      home_reward: R_b of ``"greedy"``.
      movement_weight: for ``"refined"``, what moving all blocks of one side may cost, as a part of
        the perfect time: a fraction f moved is worth a drop of ``movement_weight * f`` in the
        imbalance ratio.
      q_cap: for ``"refined"``, largest fraction of query blocks that leave home in any group.
      kv_cap: the same for key blocks.
      kv_heads: number of key and value heads of grouped-query attention; their query heads stay
        together, in order, and KV heads are padded up to a multiple of U. None plans every head by
        itself.
      evaluations: for ``"refined"``, swaps to try in every group: 0.2 to 0.4 microseconds each
        at R = 8. It is the time budget, and unlike seconds it gives the same plan everywhere.
      seed: decides the draws of ``"refined"``.

    Returns:
      The plan; ``imbalance_ratio(work_table(blocks, plan))`` says how good it is.

    Raises:
      ValueError: the mask is no mask, or an argument is out of range or does not fit it.

    Source: db-SP 4.2.1 and 4.2.2 (``"greedy"``); ``"refined"`` is ours.

    Example:
      >>> lower = np.tri(8, dtype=bool)[None].repeat(2, 0)
      >>> print(plan(lower, ulysses=1, ring=2, blocks="greedy", home_reward=0))
      Plan(U1R2, heads=2, blocks=8x8, moved 50.0% of Q and 50.0% of KV)
    """
    from jaxlab.dbsp.bits import in_parts, pack, sum_of_heads, tables

    live_blocks = live("plan", mask)
    _check(ulysses, ring, heads, blocks, home_reward, movement_weight, q_cap, kv_cap, evaluations)
    count, q_blocks, kv_blocks = live_blocks.shape[-3:]
    units = _units("plan", count, kv_heads)
    flat = live_blocks.reshape(-1, q_blocks, kv_blocks)
    kv_head = np.arange(flat.shape[0]) % count // (count // units)
    orders = home_orders(mask, home, ulysses=ulysses, ring=ring)
    homes = tuple(shards_of(order, ring) for order in orders)
    weights = np.zeros(-(-units // ulysses) * ulysses, np.int64)
    placement = homes
    if blocks == "striped":
        placement = tuple(np.arange(order.size) % ring for order in orders)
    # one group without a greedy needs no counts
    bits = pack(flat) if ulysses > 1 or blocks == "greedy" else None
    if bits:
        np.add.at(weights, kv_head, bits.rows.sum(1))
    if bits and blocks == "greedy":
        marginals = (bits.rows.sum(0), bits.columns)
        placement = tuple(
            block_groups(_filled(weight, at.size), at, ring=ring, home_reward=home_reward)
            for weight, at in zip(marginals, homes, strict=True)
        )
    groups = head_groups(weights, ulysses, method=heads, seed=seed)
    if bits and heads == "refined" and ring > 1 and ulysses > 1:
        at = (kv_head, placement[0][:q_blocks], placement[1][:kv_blocks])
        of_heads = tables(bits, [at], [(units, ring)])[0]
        groups = refined_groups(of_heads, groups, seed=seed)

    placements = [placement]
    if blocks == "refined" and ring > 1:
        caps = (int(q_cap * homes[0].size + 1e-9), int(kv_cap * homes[1].size + 1e-9))
        works = [
            sum_of_heads(flat, np.flatnonzero(np.isin(kv_head, members)), *map(len, homes))
            for members in groups
        ]

        def refine(start: int, stop: int) -> list[tuple[np.ndarray, np.ndarray]]:
            return [
                refined_blocks(
                    *works[group],
                    *homes,
                    ring=ring,
                    caps=caps,
                    movement_weight=movement_weight,
                    evaluations=evaluations,
                    seed=seed * ulysses + group,
                )
                for group in range(start, stop)
            ]

        placements = [each for part in in_parts(refine, ulysses) for each in part]
    return _assembled(ulysses, ring, expand_kv_groups(groups, count // units), placements, orders)


def greedy_plans(
    mask: Masks,
    *,
    degrees: Sequence[tuple[int, int]],
    home: Home = "contiguous",
    home_reward: int | float = 2,
    kv_heads: int | None = None,
) -> dict[tuple[int, int], tuple[Plan, Int64[np.ndarray, "ulysses ring ring"]]]:
    """The greedy plans of several degrees and their work, reading the mask only once.

    The plans are those of ``plan(..., heads="greedy", blocks="greedy")`` and the work is that of
    ``work_table``; this is the quick way to all of them, for choosing degrees layer by layer.

    Args:
      mask: as in ``plan``.
      degrees: pairs (U, R).
      home: as in ``plan``.
      home_reward: as in ``plan``.
      kv_heads: as in ``plan``.

    Returns:
      For every pair, the plan and its work table.

    Raises:
      ValueError: as ``plan``.

    Example:
      >>> mask = np.tri(8, dtype=bool)[None].repeat(2, 0)
      >>> {at: work.tolist() for at, (_, work) in greedy_plans(mask, degrees=[(2, 1)]).items()}
      {(2, 1): [[[36]], [[36]]]}
    """
    from jaxlab.dbsp.bits import pack, tables
    from jaxlab.dbsp.fill import fill_from_home

    live_blocks = live("greedy_plans", mask)
    count, q_blocks, kv_blocks = live_blocks.shape[-3:]
    units = _units("greedy_plans", count, kv_heads)
    bits = pack(live_blocks.reshape(-1, q_blocks, kv_blocks))
    kv_head = np.arange(bits.rows.shape[0]) % count // (count // units)
    weights = np.bincount(kv_head, bits.rows.sum(1), units).astype(np.int64)
    marginals = (bits.rows.sum(0), bits.columns)
    # as ``block_groups``, but sorted once for all degrees
    heaviest_first = [np.argsort(-weight, kind="stable") for weight in marginals]
    plans, placements = [], []
    for ulysses, ring in degrees:
        _check(ulysses, ring, "greedy", "greedy", home_reward)
        orders = home_orders(mask, home, ulysses=ulysses, ring=ring)
        placement = [
            fill_from_home(weight, first, order, ring, float(home_reward))
            for weight, first, order in zip(marginals, heaviest_first, orders, strict=True)
        ]
        groups = head_groups(_filled(weights, -(-units // ulysses) * ulysses), ulysses)
        group_of = np.argsort(groups.reshape(-1)) // groups.shape[1]
        placements.append((group_of[kv_head], placement[0][:q_blocks], placement[1][:kv_blocks]))
        heads = expand_kv_groups(groups, count // units)
        plans.append(_assembled(ulysses, ring, heads, [placement], orders))
    works = tables(bits, placements, degrees)
    return dict(zip(degrees, zip(plans, works, strict=True), strict=True))


def _assembled(
    ulysses: int,
    ring: int,
    head_perm: Int64[np.ndarray, " heads"],
    placements: Sequence[Sequence[np.ndarray]],
    orders: tuple[np.ndarray, np.ndarray],
) -> Plan:
    q_order, kv_order = (
        np.stack([order_of(placement[side]) for placement in placements]) for side in range(2)
    )
    if len(placements) == 1:  # shared by all groups
        q_order, kv_order = q_order.repeat(ulysses, 0), kv_order.repeat(ulysses, 0)
    return Plan(ulysses, ring, head_perm, q_order, kv_order, *orders)


def _units(name: str, heads: int, kv_heads: int | None) -> int:
    """How many heads are placed: those of keys and values, or all."""
    units = heads if kv_heads is None else kv_heads
    if units < 1 or heads % units:
        raise ValueError(f"{name}: kv_heads={kv_heads} must divide the mask's {heads} heads.")
    return units


def _filled(weights: Int64[np.ndarray, " some"], size: int) -> Int64[np.ndarray, " all"]:
    filled = np.zeros(size, np.int64)
    filled[: weights.size] = weights
    return filled


def _check(
    ulysses: int,
    ring: int,
    heads: str,
    blocks: str,
    home_reward: int | float,
    movement_weight: int | float = 0,
    q_cap: int | float = 0,
    kv_cap: int | float = 0,
    evaluations: int = 0,
) -> None:
    if ulysses < 1 or ring < 1:
        raise ValueError(f"plan: ulysses={ulysses} and ring={ring} must be positive.")
    if heads not in HEAD_METHODS:
        raise ValueError(f"plan: heads must be one of {HEAD_METHODS}, got {heads!r}.")
    if blocks not in BLOCK_METHODS:
        raise ValueError(f"plan: blocks must be one of {BLOCK_METHODS}, got {blocks!r}.")
    for name, value, most in (
        ("home_reward", home_reward, np.inf),
        ("movement_weight", movement_weight, np.inf),
        ("q_cap", q_cap, 1),
        ("kv_cap", kv_cap, 1),
    ):
        if not 0 <= value <= most or value == np.inf:
            raise ValueError(f"plan: {name} must lie in [0, {most}], got {value}.")
    if evaluations != int(evaluations) or evaluations < 0:
        raise ValueError(f"plan: evaluations must be 0 or more, got {evaluations}.")
