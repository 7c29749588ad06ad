"""Block-sparse attention in plain XLA: loops whose trip counts follow the mask.

A row is one block of queries of one head (forward) or one block of keys of one head (backward).
Rows are sorted by how many blocks they meet and processed ``GROUP`` neighbors at a time, so that
the rows of a group need nearly the same number of trips and every matrix product is a batch over
the group, which XLA spreads over the cores. A trip gathers ``chunk`` blocks of each row's list
into one operand; what is left of a list goes through shorter trips. Skipped blocks are never
gathered, so time follows the number of active blocks.

The forward pass keeps a running maximum (online softmax). The backward pass visits each block once:
it recomputes the probabilities from ``lse``, sums ``dk`` and ``dv`` in the loop's carry and adds
``dq`` into place.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxlab.blocksparse.mask import BlockLists, BlockMask


class Tiling(NamedTuple):
    """How many rows and blocks one trip takes.

    Attributes:
      group: rows processed together.
      chunk: blocks a trip takes from each row's list.
      openings: what the first trip of a list may take instead, ascending; the last is ``chunk``.
    """

    group: int
    chunk: int
    openings: tuple[int, ...]


def tiling(rows: int, row_block: int, columns: int, column_block: int) -> Tiling:
    """Chooses group and chunk sizes from the shapes alone.

    A trip's scores should stay in the caches of a few cores (2^18 to 2^19 numbers), the inner
    products should be about 512 long, and a group needs several rows for the cores to share.

    Args:
      rows: rows of blocks, over batch and heads.
      row_block: tokens in a row.
      columns: blocks in a full row.
      column_block: tokens in a column.

    Returns:
      The sizes.
    """
    chunk = max(1, min(columns, 512 // column_block))
    group = max(1, min(rows, max(4, 2**18 // (row_block * chunk * column_block))))
    return Tiling(group, chunk, tuple(range(1, chunk + 1)))


def forward(
    q: Float[Array, "batch q_len heads dim"],
    k: Float[Array, "batch kv_len kv_heads dim"],
    v: Float[Array, "batch kv_len kv_heads value_dim"],
    mask: BlockMask,
    *,
    scale: float,
) -> tuple[
    Float[Array, "batch q_len heads value_dim"],
    Float[Array, "batch q_len heads"],
    Int[Array, "batch heads q_blocks"],
]:
    """Attention over the active blocks.

    Args:
      q: queries ``[batch, q_len, heads, dim]``.
      k: keys ``[batch, kv_len, kv_heads, dim]``.
      v: values ``[batch, kv_len, kv_heads, value_dim]``.
      mask: which blocks attend.
      scale: factor on the scores.

    Returns:
      ``out`` of q's dtype, ``lse``, and ``trips``, the key blocks computed for each row of blocks
      (those of the longest row of its group, rounded up to whole chunks).
    """
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    batch, _, heads, _ = q.shape
    query_blocks = _blocks(q.astype(dtype) * scale, mask.q_block, mask.q_positions)
    key_blocks = _blocks(k.astype(dtype), mask.kv_block, mask.kv_positions)
    value_blocks = _blocks(v.astype(dtype), mask.kv_block, mask.kv_positions)
    q_positions, kv_positions = _positions(mask)
    rows = _sorted_rows(mask.kv_lists(), batch, heads, k.shape[2])
    sizes = tiling(rows.counts.size, mask.q_block, rows.columns, mask.kv_block)
    group = sizes.group
    rows = rows.padded(group)
    value_dim = v.shape[-1]

    def process(start: Array, results: tuple) -> tuple:
        members = rows.group(start, group)
        queries = _take(query_blocks, members.row)
        query_position = _take(q_positions, members.block)

        def trip(chunk: int) -> Callable:
            def attend(first: Array, state: tuple) -> tuple:
                running_max, weight, total = state
                column, valid = members.chunk(first, chunk)
                keys = _take(key_blocks, column).reshape(group, -1, k.shape[-1])
                values = _take(value_blocks, column).reshape(group, -1, value_dim)
                allowed = _allowed(
                    mask,
                    valid[:, None, :, None],
                    query_position[:, :, None, None],
                    _take(kv_positions, column % rows.columns)[:, None],
                )
                scores = jnp.einsum("gqd,gkd->gqk", queries, keys)
                scores = scores.reshape(group, mask.q_block, chunk, mask.kv_block)
                scores = jnp.where(allowed, scores, -jnp.inf)
                new_max = scores.max((2, 3))
                if running_max is not None:
                    new_max = jnp.maximum(running_max, new_max)
                shift = jnp.where(new_max == -jnp.inf, 0, new_max)
                probs = jnp.exp(scores - shift[..., None, None])
                new_weight = _sum_blocks(probs)
                new_total = jnp.einsum(
                    "gqk,gkd->gqd", probs.reshape(group, mask.q_block, -1), values
                )
                if running_max is not None:
                    decay = jnp.exp(running_max - shift)[..., None]
                    new_weight = weight * decay + new_weight
                    new_total = total * decay + new_total
                return new_max, new_weight, new_total

            return attend

        (row_max, weight, total), computed = _walk(members.longest, sizes, trip, (None, None, None))
        weight = weight.sum(-1)
        empty = weight == 0
        weight = jnp.where(empty, 1, weight)
        done = (
            jnp.where(empty[..., None], 0, total / weight[..., None]),
            jnp.where(empty, -jnp.inf, row_max + jnp.log(weight)),
            jnp.broadcast_to(computed, (group,)),
        )
        return jax.tree.map(
            lambda whole, part: lax.dynamic_update_slice_in_dim(whole, part, start * group, 0),
            results,
            done,
        )

    results = (
        _varying(jnp.zeros((rows.row.size, mask.q_block, value_dim), dtype), q),
        _varying(jnp.full((rows.row.size, mask.q_block), -jnp.inf, dtype), q),
        _varying(jnp.zeros(rows.row.size, jnp.int32), q),
    )
    results = lax.fori_loop(0, rows.groups(group), process, results)
    out, lse, trips = (_take(part, rows.place) for part in results)
    out = _tokens(out, batch, heads, mask.q_len)
    lse = _tokens(lse, batch, heads, mask.q_len)
    if mask.q_positions is not None:
        present = (mask.query_positions() >= 0)[None, :, None]
        out = jnp.where(present[..., None], out, 0)
        lse = jnp.where(present, lse, -jnp.inf)
    return out.astype(q.dtype), lse, trips.reshape(batch, heads, -1)


def backward(
    q: Float[Array, "batch q_len heads dim"],
    k: Float[Array, "batch kv_len kv_heads dim"],
    v: Float[Array, "batch kv_len kv_heads value_dim"],
    mask: BlockMask,
    out: Float[Array, "batch q_len heads value_dim"],
    lse: Float[Array, "batch q_len heads"],
    d_out: Float[Array, "batch q_len heads value_dim"],
    d_lse: Float[Array, "batch q_len heads"],
    *,
    scale: float,
) -> tuple[
    Float[Array, "batch q_len heads dim"],
    Float[Array, "batch kv_len kv_heads dim"],
    Float[Array, "batch kv_len kv_heads value_dim"],
]:
    """Gradients of ``forward``, from cotangents of both ``out`` and ``lse``.

    With probabilities ``P = exp(S - lse)`` and ``dP = d_out V^T``, the scores' cotangent is
    ``dS = P (dP - sum(d_out * out) + d_lse)``.

    Args:
      q: queries ``[batch, q_len, heads, dim]``.
      k: keys ``[batch, kv_len, kv_heads, dim]``.
      v: values ``[batch, kv_len, kv_heads, value_dim]``.
      mask: which blocks attend.
      out: result of ``forward``.
      lse: result of ``forward``.
      d_out: cotangent of ``out``.
      d_lse: cotangent of ``lse``.
      scale: factor on the scores.

    Returns:
      ``dq``, ``dk``, ``dv``, each of its input's dtype.
    """
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    batch, _, heads, dim = q.shape
    kv_heads, value_dim = k.shape[2], v.shape[-1]
    d_out = d_out.astype(dtype)
    offset = (d_out * out.astype(dtype)).sum(-1) - d_lse
    query_blocks = _blocks(q.astype(dtype) * scale, mask.q_block, mask.q_positions)
    d_out_blocks = _blocks(d_out, mask.q_block, mask.q_positions)
    offset_blocks = _blocks(offset[..., None], mask.q_block, mask.q_positions)[..., 0]
    # A query that attends to nothing gets lse = +inf here, hence probability 0 without a test.
    lse = jnp.where(lse == -jnp.inf, jnp.inf, lse)
    lse_blocks = _blocks(lse[..., None], mask.q_block, None)[..., 0]
    key_blocks = _blocks(k.astype(dtype), mask.kv_block, mask.kv_positions)
    value_blocks = _blocks(v.astype(dtype), mask.kv_block, mask.kv_positions)
    q_positions, kv_positions = _positions(mask)
    rows = _sorted_rows(mask.q_lists(), batch, heads, heads)
    kv_blocks = mask.blocks.shape[-1]
    sizes = tiling(rows.counts.size, mask.kv_block, rows.columns, mask.q_block)
    group = sizes.group
    rows = rows.padded(group)

    def process(start: Array, results: tuple) -> tuple:
        dq, dk, dv = results
        members = rows.group(start, group)
        head = members.row // kv_blocks
        kv_row = (head // (heads // kv_heads)) * kv_blocks + members.block
        keys, values = _take(key_blocks, kv_row), _take(value_blocks, kv_row)
        key_position = _take(kv_positions, members.block)

        def trip(chunk: int) -> Callable:
            def differentiate(first: Array, state: tuple) -> tuple:
                dq, dk, dv = state
                column, valid = members.chunk(first, chunk)
                queries = _take(query_blocks, column).reshape(group, -1, dim)
                d_outs = _take(d_out_blocks, column).reshape(group, -1, value_dim)
                allowed = _allowed(
                    mask,
                    valid[:, None, :, None],
                    _take(q_positions, column % rows.columns)[:, None],
                    key_position[:, :, None, None],
                )
                shape = (group, mask.kv_block, chunk, mask.q_block)
                scores = jnp.einsum("gkd,gqd->gkq", keys, queries).reshape(shape)
                probs = jnp.exp(scores - _take(lse_blocks, column)[:, None])
                probs = jnp.where(allowed, probs, 0)
                d_probs = jnp.einsum("gkd,gqd->gkq", values, d_outs).reshape(shape)
                d_scores = probs * (d_probs - _take(offset_blocks, column)[:, None])
                probs = probs.reshape(group, mask.kv_block, -1)
                d_scores = d_scores.reshape(group, mask.kv_block, -1)
                new_dv = jnp.einsum("gkq,gqd->gkd", probs, d_outs)
                new_dk = jnp.einsum("gkq,gqd->gkd", d_scores, queries)
                if dk is not None:
                    new_dk, new_dv = dk + new_dk, dv + new_dv
                part = jnp.einsum("gkq,gkd->gqd", d_scores, keys)
                part = part.reshape(group * chunk, mask.q_block, dim)
                return _add_blocks(dq, column.reshape(-1), part), new_dk, new_dv

            return differentiate

        (dq, dk_rows, dv_rows), _ = _walk(members.longest, sizes, trip, (dq, None, None))
        return (
            dq,
            lax.dynamic_update_slice_in_dim(dk, dk_rows, start * group, 0),
            lax.dynamic_update_slice_in_dim(dv, dv_rows, start * group, 0),
        )

    results = (
        _varying(jnp.zeros(query_blocks.shape, dtype), q),
        _varying(jnp.zeros((rows.row.size, mask.kv_block, dim), dtype), q),
        _varying(jnp.zeros((rows.row.size, mask.kv_block, value_dim), dtype), q),
    )
    dq, dk, dv = lax.fori_loop(0, rows.groups(group), process, results)
    dq = _tokens(dq, batch, heads, mask.q_len) * scale

    def over_heads(gradient: Array) -> Array:
        gradient = _tokens(_take(gradient, rows.place), batch, heads, mask.kv_len)
        gradient = gradient.reshape(*gradient.shape[:2], kv_heads, heads // kv_heads, -1)
        return gradient.sum(3)

    return dq.astype(q.dtype), over_heads(dk).astype(k.dtype), over_heads(dv).astype(v.dtype)


class Members(NamedTuple):
    """The rows of one group: their numbers, lists and lengths."""

    row: Int[Array, " group"]
    block: Int[Array, " group"]
    columns: Int[Array, "group columns"]
    counts: Int[Array, " group"]

    @property
    def longest(self) -> Int[Array, ""]:
        return self.counts[0]

    def chunk(
        self, first: Int[Array, ""], size: int
    ) -> tuple[Int[Array, "group chunk"], Bool[Array, "group chunk"]]:
        # Past the end of its list a row repeats its last block: in range, and no other data.
        slot = first + jnp.arange(size, dtype=jnp.int32)
        last = jnp.maximum(self.counts - 1, 0)[:, None]
        column = jnp.take_along_axis(self.columns, jnp.minimum(slot[None], last), axis=1)
        return column, slot[None] < self.counts[:, None]


class Rows(NamedTuple):
    """All rows of blocks, longest list first.

    Attributes:
      row: number of each row, over batch, heads and blocks.
      place: where each row stands in ``row``.
      counts: list lengths, by row number.
      lists: what each row meets, by row number: blocks numbered over batch, heads and blocks.
      columns: blocks in a full row.
      blocks: rows of a head.
    """

    row: Int[Array, " padded"]
    place: Int[Array, " rows"]
    counts: Int[Array, " rows"]
    lists: Int[Array, "rows columns"]
    columns: int
    blocks: int

    def padded(self, group: int) -> "Rows":
        return self._replace(row=jnp.pad(self.row, (0, -self.row.size % group), mode="edge"))

    def groups(self, group: int) -> Int[Array, ""]:
        return -(-(self.counts > 0).sum(dtype=jnp.int32) // group)

    def group(self, number: Int[Array, ""], group: int) -> Members:
        row = lax.dynamic_slice_in_dim(self.row, number * group, group)
        return Members(row, row % self.blocks, _take(self.lists, row), _take(self.counts, row))


def _sorted_rows(lists: BlockLists, batch: int, heads: int, column_heads: int) -> Rows:
    blocks, columns = lists.indices.shape[-2:]
    counts = jnp.broadcast_to(lists.counts, (batch, heads, blocks)).reshape(-1)
    head = jnp.arange(batch * column_heads, dtype=jnp.int32).reshape(batch, column_heads)
    head = jnp.repeat(head, heads // column_heads, axis=1)[:, :, None, None]
    numbered = (lists.indices + head * columns).reshape(-1, columns)
    row = jnp.argsort(-counts).astype(jnp.int32)
    place = jnp.zeros_like(row).at[row].set(jnp.arange(row.size, dtype=jnp.int32))
    return Rows(row, place, counts, numbered, columns, blocks)


def _walk(longest: Array, sizes: Tiling, trip: Callable, state: tuple) -> tuple:
    """Runs ``trip(chunk)(first, state)`` over a list; counts the blocks.

    The first trip takes what whole chunks leave over, so that no list ends in a mostly empty one.
    """
    chunk, openings = sizes.chunk, jnp.array(sizes.openings, jnp.int32)
    left_over = (longest - 1) % chunk + 1
    which = (openings < left_over).sum()
    first = openings[which]
    start = jnp.zeros_like(first)
    branches = [functools.partial(trip(size), start) for size in sizes.openings]
    state = lax.switch(which, branches, state)
    times = -(-(longest - first) // chunk)
    body = trip(chunk)
    state = lax.fori_loop(0, times, lambda i, state: body(first + i * chunk, state), state)
    return state, first + times * chunk


def _blocks(tokens: Array, block: int, positions: Array | None) -> Array:
    """``[batch, seq, heads, dim]`` to ``[batch * heads * blocks, block, dim]``, padding zeroed."""
    if positions is not None:
        tokens = jnp.where((jnp.asarray(positions) >= 0)[None, :, None, None], tokens, 0)
    tokens = jnp.pad(tokens, ((0, 0), (0, -tokens.shape[1] % block), (0, 0), (0, 0)))
    batch, length, heads, dim = tokens.shape
    tokens = tokens.reshape(batch, length // block, block, heads, dim)
    return tokens.transpose(0, 3, 1, 2, 4).reshape(-1, block, dim)


def _tokens(blocks: Array, batch: int, heads: int, length: int) -> Array:
    """``[batch * heads * blocks, block, *dim]`` to ``[batch, length, heads, *dim]``."""
    per_head = blocks.reshape(batch, heads, -1, *blocks.shape[2:])[:, :, :length]
    return jnp.moveaxis(per_head, 1, 2)


def _positions(mask: BlockMask) -> tuple[Array, Array]:
    def padded(positions: Array, block: int) -> Array:
        fill = -positions.shape[0] % block
        return jnp.pad(positions, (0, fill), constant_values=-1).reshape(-1, block)

    return (
        padded(mask.query_positions(), mask.q_block),
        padded(mask.key_positions(), mask.kv_block),
    )


def _allowed(mask: BlockMask, active: Array, q_position: Array, kv_position: Array) -> Array:
    """Which pairs attend; compares positions only where the mask's static part asks for it."""
    allowed = active
    if mask.causal:
        allowed = allowed & (kv_position <= q_position)
    if mask.kv_positions is not None or mask.kv_len % mask.kv_block:
        allowed = allowed & (kv_position >= 0)
    return allowed


def _add_blocks(total: Array, index: Array, parts: Array) -> Array:
    """Adds ``parts[i]`` to ``total[index[i]]``, in place and in order."""

    def add(i: Array, total: Array) -> Array:
        block = lax.dynamic_index_in_dim(total, index[i], keepdims=True)
        part = lax.dynamic_index_in_dim(parts, i, keepdims=True)
        return lax.dynamic_update_slice_in_dim(total, block + part, index[i], 0)

    return lax.fori_loop(0, index.size, add, total)


def _sum_blocks(probs: Array) -> Array:
    total = probs[:, :, 0]
    for i in range(1, probs.shape[2]):
        total = total + probs[:, :, i]
    return total


def _take(blocks: Array, index: Array) -> Array:
    return blocks.at[index].get(mode="promise_in_bounds")


def _varying(value: Array, like: Array) -> Array:
    """Marks a loop's initial value as differing between devices wherever ``like`` does.

    Only `shard_map` looks at the mark; a loop's state must carry it from the start.
    """
    axes = tuple(jax.typeof(like).mat.varying - jax.typeof(value).mat.varying)
    return lax.pcast(value, axes, to="varying") if axes else value
