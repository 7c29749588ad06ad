"""A plan as the arrays that a compiled program reads, so that new plans need no new program."""

import dataclasses
import typing

import jax
import numpy as np
from jaxtyping import Array, Int32, Int64

from jaxlab.dbsp.exchange import Route, route
from jaxlab.dbsp.plan import Plan


@jax.tree_util.register_dataclass
@typing.no_type_check
@dataclasses.dataclass(frozen=True)
class DevicePlan:
    """A plan made ready for ``sharded_attention``; a pytree, to be an argument under ``jit``.

    Two of them with equal static fields, shapes and capacities run the same compiled program.

    Attributes:
      heads: int32 ``[U, heads / U]``, heads of every group, ascending; numbers beyond the true
        heads are padding.
      head_inv: int32 ``[heads]``, where every head stands in ``heads``.
      q_blocks: int32 ``[U, R, slots]``, the query block in every slot of every device.
      kv_blocks: int32 ``[U, R, slots]``, likewise for key blocks.
      q_route: how query blocks get from home there.
      kv_route: how key blocks get from home there.
      q_home: int32 ``[q_blocks]``, the order in which query blocks arrive.
      kv_home: int32 ``[kv_blocks]``, likewise for key blocks.
      original: whether both homes are the original order; static.
      sharing: query heads that share a key head and are kept together, 1 where keys and values are
        to be repeated or every query head has its own; static.
    """

    heads: Int32[Array, "ulysses heads"] | Int32[np.ndarray, "..."]
    head_inv: Int32[Array, " heads"] | Int32[np.ndarray, "..."]
    q_blocks: Int32[Array, "ulysses ring slots"] | Int32[np.ndarray, "..."]
    kv_blocks: Int32[Array, "ulysses ring slots"] | Int32[np.ndarray, "..."]
    q_route: Route
    kv_route: Route
    q_home: Int32[Array, " q_blocks"] | Int32[np.ndarray, "..."]
    kv_home: Int32[Array, " kv_blocks"] | Int32[np.ndarray, "..."]
    original: bool = dataclasses.field(metadata={"static": True})
    sharing: int = dataclasses.field(default=1, metadata={"static": True})

    @property
    def ulysses(self) -> int:
        """Head groups, U."""
        return self.q_blocks.shape[-3]

    @property
    def ring(self) -> int:
        """Sequence shards, R."""
        return self.q_blocks.shape[-2]

    @property
    def capacities(self) -> tuple[int, int]:
        """Query and key blocks on the wire for every ordered pair of shards."""
        return self.q_route.capacity, self.kv_route.capacity


def device_plan(
    plan: Plan, *, sharing: int = 1, capacities: tuple[int, int] | None = None
) -> DevicePlan:
    """Makes a plan ready for devices, on the host.

    Args:
      plan: where heads and blocks go.
      sharing: query heads that share one key head, ``heads // kv_heads``. If the plan has them all
        in one group, keys and values travel once for all of them; otherwise they are repeated for
        every query head, and so is their traffic.
      capacities: query and key blocks to reserve on the wire for every ordered pair of ring
        shards; None for the least bucket (0, 1, 2, 3, 4, 6, 8, 12, ...) that holds the plan's
        counts. Reserve the same for all plans of a run and it compiles once.

    Returns:
      The arrays, numpy.

    Raises:
      ValueError: a capacity is below the plan's count, or ``sharing`` is not positive.

    Example:
      >>> plan = Plan.contiguous(heads=4, q_blocks=8, kv_blocks=8, ulysses=2, ring=2)
      >>> device_plan(plan).capacities
      (0, 0)
    """
    if sharing < 1:
        raise ValueError(f"device_plan: sharing={sharing} must be positive, heads // kv_heads.")
    reserved = (None, None) if capacities is None else capacities
    heads = np.sort(plan.head_perm.reshape(plan.ulysses, -1), axis=1)
    q_route, q_blocks = route(plan.q_home, plan.q_order, plan.ring, reserved[0])
    kv_route, kv_blocks = route(plan.kv_home, plan.kv_order, plan.ring, reserved[1])
    return DevicePlan(
        heads.astype(np.int32),
        np.argsort(heads.reshape(-1)).astype(np.int32),
        q_blocks,
        kv_blocks,
        q_route,
        kv_route,
        plan.q_home.astype(np.int32),
        plan.kv_home.astype(np.int32),
        original=_ascending(plan.q_home) and _ascending(plan.kv_home),
        sharing=sharing if _kept_together(heads, sharing) else 1,
    )


def _ascending(home: Int64[np.ndarray, " blocks"]) -> bool:
    return bool((np.diff(home) > 0).all())


def _kept_together(heads: Int64[np.ndarray, "ulysses heads"], sharing: int) -> bool:
    if heads.shape[1] % sharing:
        return False
    sets = heads.reshape(-1, sharing) // sharing
    return bool((sets == sets[:, :1]).all())
