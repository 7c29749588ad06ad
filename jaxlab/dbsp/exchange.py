"""Moving token blocks between ring shards: how many move is data, the shapes are static.

Every shard sends the same number of blocks, the capacity, to every other shard; what a plan does
not fill is padding. Blocks that stay never travel and keep their slot; arriving blocks take the
slots of those that left. One table of slots therefore serves both directions, and a plan that moves
nothing costs nothing.
"""

import dataclasses
import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int32, Int64


@jax.tree_util.register_dataclass
@typing.no_type_check
@dataclasses.dataclass(frozen=True)
class Route:
    """Which slots of a shard empty and fill in each round; round ``r`` goes to shard ``i + r``.

    Attributes:
      leave: int32 ``[U, R, R - 1, capacity]``, slots whose blocks leave, by group, shard and round;
        slots beyond a shard's last are padding.
      land: int32, the same shape, slots that what arrives in a round fills, in the order sent.
    """

    leave: Int32[Array, "ulysses ring rounds capacity"] | Int32[np.ndarray, "..."]
    land: Int32[Array, "ulysses ring rounds capacity"] | Int32[np.ndarray, "..."]

    @property
    def capacity(self) -> int:
        """Blocks on the wire for every ordered pair of shards, padding included; static."""
        return self.leave.shape[-1]


def bucket(count: int) -> int:
    """The least of 0, 1, 2, 3, 4, 6, 8, 12, 16, 24, ... that holds a count.

    Args:
      count: blocks, not negative.

    Returns:
      The capacity, at most half as large again as the count, so that plans which move nearly equal
      numbers of blocks share one compiled program.

    Example:
      >>> [bucket(count) for count in (0, 3, 5, 7, 9, 100)]
      [0, 3, 6, 8, 12, 128]
    """
    power = 1 << max(0, count - 1).bit_length()
    return 0 if count == 0 else power * 3 // 4 if power >= 4 and count <= power * 3 // 4 else power


def route(
    home: Int64[np.ndarray, " blocks"],
    order: Int64[np.ndarray, "ulysses blocks"],
    ring: int,
    capacity: int | None = None,
) -> tuple[Route, Int32[np.ndarray, "ulysses ring slots"]]:
    """Finds the slots for an exchange from a home order to the orders of a plan.

    Args:
      home: int64 ``[blocks]``, the order in which blocks arrive; slice ``i`` is on shard ``i``.
      order: int64 ``[U, blocks]``, where each group wants them; only the shard matters.
      ring: number of shards.
      capacity: blocks for every ordered pair of shards; None for the bucket of the largest count.

    Returns:
      The route, and int32 ``[U, R, blocks / R]``: the block in every slot after the exchange.

    Raises:
      ValueError: the capacity is below the number of blocks that a shard sends to another.
    """
    slots = home.size // ring
    groups = order.shape[0]
    place = np.argsort(home)
    source = np.tile(place // slots, (groups, 1)).reshape(-1)
    target = np.argsort(order, axis=1).reshape(-1) // slots
    group, block = np.divmod(np.arange(groups * home.size), home.size)
    moving = np.flatnonzero(source != target)
    group, block, source, target = (x[moving] for x in (group, block, source, target))
    slot, turn = place[block] % slots, (target - source) % ring - 1

    sent = np.lexsort((slot, turn, source, group))
    pair = ((group * ring + source) * ring + turn)[sent]
    _, first, member = np.unique(pair, return_index=True, return_inverse=True)
    column = np.empty_like(slot)
    column[sent] = np.arange(sent.size) - first[member]
    largest = int(column.max(initial=-1)) + 1
    capacity = min(bucket(largest), slots) if capacity is None else capacity
    if capacity < largest:
        raise ValueError(
            f"exchange: capacity {capacity} is too small, a shard sends {largest} blocks to "
            f"another; pass at least {largest} or None."
        )

    # A shard receives as many blocks as it sends, so both lists run over the shards in step.
    arriving = np.lexsort((column, turn, target, group))
    vacated = slot[np.lexsort((slot, source, group))]
    leave = np.full((groups, ring, ring - 1, capacity), slots, np.int32)
    land = leave.copy()
    leave[group, source, turn, column] = slot
    land[tuple(x[arriving] for x in (group, target, turn, column))] = vacated
    placed = np.tile(home.astype(np.int32).reshape(ring, slots), (groups, 1, 1))
    placed[group[arriving], target[arriving], vacated] = block[arriving]
    return Route(leave, land), placed


def exchange(
    tokens: Float[Array, "batch length heads dim"], path: Route, block: int, *, back: bool = False
) -> Float[Array, "batch length heads dim"]:
    """Sends the blocks of one shard where they belong, inside ``shard_map``.

    Args:
      tokens: ``[batch, length, heads, dim]``, this shard's tokens, whole blocks.
      path: this shard's part of the route, leaves ``[1, 1, R - 1, capacity]``.
      block: tokens in a block.
      back: undo the exchange instead.

    Returns:
      The tokens of the blocks that are here afterwards. The derivative is the opposite exchange.
    """
    if 0 in path.leave.shape:
        return tokens
    batch, length, *rest = tokens.shape
    blocks = tokens.reshape(batch, length // block, block, *rest)
    return _swap(back, blocks, path).reshape(tokens.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _swap(back: bool, blocks: Array, path: Route) -> Array:
    leave, land = path.leave[0, 0], path.land[0, 0]
    if back:
        leave, land = land, leave
    ring = leave.shape[0] + 1
    arrived = []
    for turn in range(1, ring):
        shift = ring - turn if back else turn
        onward = [(rank, (rank + shift) % ring) for rank in range(ring)]
        outgoing = jnp.take(blocks, leave[turn - 1], axis=1, mode="clip")
        arrived.append(lax.ppermute(outgoing, "ring", onward))
    here = jnp.concatenate(arrived, axis=1)
    return blocks.at[:, land.reshape(-1)].set(here, mode="drop")


def _swap_forward(back: bool, blocks: Array, path: Route) -> tuple[Array, Route]:
    return _swap(back, blocks, path), path


def _swap_backward(back: bool, path: Route, cotangent: Array) -> tuple[Array, None]:
    return _swap(not back, cotangent, path), None


_swap.defvjp(_swap_forward, _swap_backward)
