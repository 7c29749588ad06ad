"""How many bytes the layer's forward pass sends: what a plan needs, and what static shapes cost."""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int64

from jaxlab.blocksparse import BlockMask
from jaxlab.dbsp.device_plan import device_plan
from jaxlab.dbsp.plan import Plan
from jaxlab.dbsp.shapes import check_arrays, check_sizes


class Bytes(NamedTuple):
    """Bytes that all devices together send to others.

    Attributes:
      needed: true tokens and heads alone, each key head once for the query heads that share it.
      sent: what the compiled program sends: padding heads, tokens and exchange slots included.
    """

    needed: int
    sent: int


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Communication of one forward pass of ``sharded_attention``, by stage.

    Attributes:
      ulysses: all-to-alls of q, k, v and the output.
      exchange: block exchanges of the same inside the ring.
      ring: hops of keys and values.
      devices: how many share it; the program sends the same from each.
    """

    ulysses: Bytes
    exchange: Bytes
    ring: Bytes
    devices: int

    @property
    def total(self) -> Bytes:
        """All stages together."""
        stages = (self.ulysses, self.exchange, self.ring)
        return Bytes(*(sum(part) for part in zip(*stages, strict=True)))


def traffic(
    q: Float[Array, "batch q_len heads dim"] | jax.ShapeDtypeStruct | np.ndarray,
    k: Float[Array, "batch kv_len kv_heads dim"] | jax.ShapeDtypeStruct | np.ndarray,
    v: Float[Array, "batch kv_len kv_heads value_dim"] | jax.ShapeDtypeStruct | np.ndarray,
    mask: BlockMask,
    plan: Plan,
    *,
    capacities: tuple[int, int] | None = None,
) -> Traffic:
    """Counts the bytes of one forward pass, on the host.

    Args:
      q: as for ``sharded_attention``; only shape and dtype matter.
      k: likewise.
      v: likewise.
      mask: likewise; its lengths tell true tokens from padding.
      plan: where heads and blocks go.
      capacities: as for ``device_plan``.

    Returns:
      The bytes of every stage. ``sent`` equals the ``wire_bytes`` of the compiled program's
      collectives, summed over devices.

    Raises:
      TypeError: the mask is no BlockMask.
      ValueError: arrays, mask and plan do not fit each other, or a capacity is too small.

    Example:
      >>> q = jax.ShapeDtypeStruct((1, 64, 4, 16), np.float32)
      >>> mask = BlockMask(np.ones((4, 8, 8), bool), 8, 8, q_len=64, kv_len=64)
      >>> plan = Plan.contiguous(heads=4, q_blocks=8, kv_blocks=8, ulysses=2, ring=2)
      >>> traffic(q, q, q, mask, plan).total
      Bytes(needed=65536, sent=65536)
    """
    check_arrays("traffic", q, k, v)
    batch, _, heads, dim = q.shape
    kv_heads, width = k.shape[2], dim + v.shape[-1]
    element = batch * width * np.dtype(q.dtype).itemsize  # of q and out, or of k and v
    shared = heads // kv_heads
    lowered = device_plan(plan, sharing=shared, capacities=capacities)
    check_sizes("traffic", q, k, v, mask, lowered, placed=False)
    ulysses, ring = plan.ulysses, plan.ring

    members = [row[row < heads] for row in np.asarray(lowered.heads)]
    true_heads = np.array([row.size for row in members])
    true_kv_heads = np.array([np.unique(row // shared).size for row in members])
    placed_heads = lowered.heads.size if ulysses > 1 else heads
    placed_kv_heads = lowered.heads.size // lowered.sharing if ulysses > 1 else kv_heads

    to_groups, moved = Bytes(0, 0), Bytes(0, 0)
    for home, order, block, length, capacity, here, placed in (
        (plan.q_home, plan.q_order, mask.q_block, mask.q_len,
         lowered.capacities[0], true_heads, placed_heads),
        (plan.kv_home, plan.kv_order, mask.kv_block, mask.kv_len,
         lowered.capacities[1], true_kv_heads, placed_kv_heads),
    ):  # fmt: skip
        tokens = np.clip(length - home * block, 0, block)
        padded = home.size * block
        by_device = np.repeat(home, block) * block + np.tile(np.arange(block), home.size)
        by_device = (by_device < length).reshape(ring, ulysses, -1).sum((0, 2))
        to_groups = _add(
            to_groups,
            element * int((by_device * (here.sum() - here)).sum()),
            element * padded * placed * (ulysses - 1) // ulysses,
        )
        moved = _add(
            moved,
            element * int((_leaving(home, order, ring, tokens) * here).sum()),
            element * ring * (ring - 1) * capacity * block * placed,
        )
    around = Bytes(
        element * (ring - 1) * mask.kv_len * int(true_kv_heads.sum()),
        element * (ring - 1) * plan.kv_home.size * mask.kv_block * placed_kv_heads,
    )
    return Traffic(to_groups, moved, around, ulysses * ring)


def _leaving(
    home: Int64[np.ndarray, " blocks"],
    order: Int64[np.ndarray, "ulysses blocks"],
    ring: int,
    tokens: Int64[np.ndarray, " blocks"],
) -> Int64[np.ndarray, " ulysses"]:
    """True tokens that leave their home shard, for every group; ``tokens`` go with ``home``."""
    shard = np.arange(home.size) * ring // home.size
    target = np.empty_like(order)
    np.put_along_axis(target, order, shard[None], axis=1)
    return ((target[:, home] != shard) * tokens).sum(1)


def _add(total: Bytes, needed: int, sent: int) -> Bytes:
    return Bytes(total.needed + needed, total.sent + sent)
