"""Rows of blocks in the order they are processed: longest list first, a group at a time."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

from jaxlab.blocksparse.mask import BlockLists


class Tiling(NamedTuple):
    """How many rows and blocks one trip takes.

    Attributes:
      group: rows processed together.
      chunk: blocks a trip takes from each row's list.
      rest: blocks that the trips after the last whole chunk take.
    """

    group: int
    chunk: int
    rest: int


class Trip(NamedTuple):
    """What a trip of one pass should hold.

    Much more falls out of the caches, much less pays for the start of every operation.

    Attributes:
      length: tokens of each row's list.
      scores: pairs of tokens, over the group.
      rows: rows of the group, even if that makes more pairs.
    """

    length: int
    scores: int
    rows: int


# Measured on two cores with half a MiB of second-level cache each. Short lists, low densities, want
# short trips in the forward pass: what a list leaves of its last trip is computed for nothing. The
# backward pass has five products a trip and adds to dq after each, and is best with longer ones.
FORWARD = Trip(length=256, scores=2**18, rows=16)
BACKWARD = Trip(length=512, scores=2**19, rows=4)


def tiling(rows: int, row_block: int, columns: int, column_block: int, wanted: Trip) -> Tiling:
    """Chooses group and chunk sizes from the shapes alone.

    Args:
      rows: rows of blocks, over batch and heads.
      row_block: tokens in a row.
      columns: blocks in a full row.
      column_block: tokens in a column.
      wanted: what a trip should hold.

    Returns:
      The sizes.
    """
    chunk = max(1, min(columns, 16, wanted.length // column_block))
    group = min(rows, max(wanted.rows, wanted.scores // (row_block * chunk * column_block)))
    return Tiling(group, chunk, max(1, chunk // 4))


class Members(NamedTuple):
    """The rows of one group.

    Attributes:
      row: int32 ``[group]``, number of each row, over batch, heads and blocks.
      block: int32 ``[group]``, number within the head.
      lists: int32 ``[group, columns]``, blocks each row meets.
      counts: int32 ``[group]``, list lengths, longest first; 0 where the last group is not full.
    """

    row: Int[Array, " group"]
    block: Int[Array, " group"]
    lists: Int[Array, "group columns"]
    counts: Int[Array, " group"]

    def busy(self) -> Int[Array, ""]:
        """How many rows, the first ones, have anything to do."""
        return (self.counts > 0).sum(dtype=jnp.int32)

    def chunk(
        self, first: Int[Array, ""], size: int
    ) -> tuple[Int[Array, "group chunk"], Bool[Array, "group chunk"]]:
        """Blocks ``first, first + 1, ...`` of every list, and which of them exist.

        Past the end of its list a row repeats its last block: in range, and no other data.
        """
        slot = first + jnp.arange(size, dtype=jnp.int32)
        last = jnp.maximum(self.counts - 1, 0)[:, None]
        column = jnp.take_along_axis(
            self.lists, jnp.minimum(slot[None], last), axis=1, mode="promise_in_bounds"
        )
        return column, slot[None] < self.counts[:, None]


class Rows(NamedTuple):
    """All rows of blocks.

    Attributes:
      order: int32 ``[padded]``, row numbers, longest list first, filled up to whole groups.
      counts: int32 ``[rows]``, list lengths, by row number.
      lists: int32 ``[rows, columns]``, what each row meets, by row number: blocks numbered over
        batch, heads and blocks.
      blocks: rows of a head.
      group: rows processed together.
    """

    order: Int[Array, " padded"]
    counts: Int[Array, " rows"]
    lists: Int[Array, "rows columns"]
    blocks: int
    group: int

    def groups(self) -> Int[Array, ""]:
        """Groups with anything to do."""
        return -(-(self.counts > 0).sum(dtype=jnp.int32) // self.group)

    def members(self, number: Int[Array, ""]) -> Members:
        """The rows of a group.

        A row with nothing to do stands in for the first: what it reads is then data that belongs to
        some active block, and never what a mask leaves out.
        """
        start = number * self.group
        row = lax.dynamic_slice_in_dim(self.order, start, self.group)
        real = start + jnp.arange(self.group, dtype=jnp.int32) < self.counts.size
        counts = jnp.where(real, take(self.counts, row), 0)
        row = jnp.where(counts > 0, row, row[0])
        return Members(row, row % self.blocks, take(self.lists, row), counts)


def sort_rows(lists: BlockLists, batch: int, heads: int, column_heads: int, group: int) -> Rows:
    """Sorts rows by how many blocks they meet.

    Args:
      lists: blocks each row meets, ``[batch or 1, heads, rows, columns]``.
      batch: batch size.
      heads: heads of the rows.
      column_heads: heads of what the rows meet; divides ``heads``.
      group: rows processed together.

    Returns:
      The rows.
    """
    blocks, columns = lists.indices.shape[-2:]
    counts = jnp.broadcast_to(lists.counts, (batch, heads, blocks)).reshape(-1)
    head = jnp.arange(batch * column_heads, dtype=jnp.int32).reshape(batch, column_heads)
    head = jnp.repeat(head, heads // column_heads, axis=1)[:, :, None, None]
    numbered = (lists.indices + head * columns).reshape(-1, columns)
    order = jnp.argsort(-counts).astype(jnp.int32)
    order = jnp.pad(order, (0, -order.size % group), mode="edge")
    return Rows(order, counts, numbered, blocks, group)


def walk(members: Members, sizes: Tiling, trip: Callable, state: Any) -> tuple[Any, Array]:
    """Runs ``trip(size)(first, state)`` over the lists of a group.

    Whole chunks first, then shorter trips, so that no list ends in a mostly empty one. Only two
    sizes: every further one would be compiled as well.

    Args:
      members: the rows.
      sizes: blocks a trip takes.
      trip: makes the trip of a size, which gets what the one before returned.
      state: where the first trip starts.

    Returns:
      The last state, and the blocks computed for each row.
    """
    longest, done = members.counts[0], jnp.zeros_like(members.counts[0])
    for size in dict.fromkeys((sizes.chunk, sizes.rest)):
        left = longest - done
        times = left // size if size > sizes.rest else -(-left // size)

        def step(number: Array, state: Any, size: int = size, start: Array = done) -> Any:
            return trip(size)(start + number * size, state)

        state = lax.fori_loop(0, times, step, state)
        done = done + times * size
    return state, done


def take(blocks: Array, index: Any) -> Array:
    """``blocks[index]`` for indices known to be in range, which nothing need be computed for."""
    return blocks.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)
