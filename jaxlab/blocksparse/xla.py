"""Block-sparse attention in plain XLA: loops whose trip counts follow the mask.

A row is one block of queries of one head (forward) or one block of keys of one key head (backward,
where it meets the queries of every head that reads it).
Rows are sorted by how many blocks they meet and processed in groups, so that the rows of a group
need nearly the same number of trips and every matrix product is a batch over the group, which XLA
spreads over the cores. A trip gathers a chunk of each row's list into one operand. Skipped blocks
are never gathered, so time follows the number of active blocks.

The forward pass keeps a running maximum (online softmax). The backward pass visits each block once,
key block by key block: it recomputes the probabilities from ``lse``, sums ``dk`` and ``dv`` in the
loop's state and adds ``dq`` into place. Products are arranged so that none contracts the first
dimension of both operands: XLA's fast CPU kernels do not take those.
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxlab.blocksparse import tiles
from jaxlab.blocksparse.implementation import Keys, Outputs, PerQuery, Queries, Trips, Values
from jaxlab.blocksparse.mask import BlockLists, BlockMask, compress
from jaxlab.blocksparse.rows import BACKWARD, FORWARD, sort_rows, take, tiling, walk
from jaxlab.blocksparse.varying import vary, varying_axes


def forward(
    q: Queries, k: Keys, v: Values, mask: BlockMask, *, scale: float
) -> tuple[Outputs, PerQuery, Trips]:
    """Implements ``Implementation.forward``.

    The trips are those of the longest row of the group, rounded up to what the last trips take.
    """
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    batch, _, heads, _ = q.shape
    query_tiles = _tiles(q, mask.q_block)
    key_blocks = _blocks(k.astype(dtype), mask.kv_block)
    value_blocks = _blocks(v.astype(dtype), mask.kv_block)
    q_positions, kv_positions = _block_positions(mask)
    q_blocks, kv_blocks = mask.blocks.shape[-2:]
    sizes = tiling(batch * heads * q_blocks, mask.q_block, kv_blocks, mask.kv_block, FORWARD)
    group = sizes.group
    rows = sort_rows(mask.kv_lists(), batch, heads, k.shape[2], group)
    value_dim, axes = v.shape[-1], varying_axes(q)
    start = (
        vary(jnp.full((group, mask.q_block), -jnp.inf, dtype), axes),
        vary(jnp.zeros((group, mask.q_block, mask.kv_block), dtype), axes),
        vary(jnp.zeros((group, mask.q_block, value_dim), dtype), axes),
    )
    some_left_out = tiles.leaves_out_pairs(mask)

    def process(number: Array, results: tuple) -> tuple:
        members = rows.members(number)
        where = _where(members.row, heads, q_blocks)
        queries = _read(query_tiles, *where).astype(dtype) * scale
        query_position = take(q_positions, members.block)

        def trip(chunk: int) -> Callable:
            def attend(first: Array, state: tuple) -> tuple:
                running_max, weight, total = state
                column, valid = members.chunk(first, chunk)
                keys = take(key_blocks, column).reshape(group, -1, k.shape[-1])
                values = take(value_blocks, column).reshape(group, -1, value_dim)
                allowed = _allowed(
                    mask,
                    valid[:, None, :, None],
                    query_position[:, :, None, None],
                    take(kv_positions, column % kv_blocks)[:, None],
                )
                scores = jnp.einsum("gqd,gkd->gqk", queries, keys)
                scores = scores.reshape(group, mask.q_block, chunk, mask.kv_block)
                # Past its end a list repeats a block of its own, which changes no maximum.
                seen = jnp.where(allowed, scores, -jnp.inf) if some_left_out else scores
                new_max = jnp.maximum(running_max, seen.max((2, 3)))
                shift = jnp.where(new_max == -jnp.inf, 0, new_max)
                probs = jnp.where(allowed, jnp.exp(scores - shift[..., None, None]), 0)
                decay = jnp.exp(running_max - shift)[..., None]
                weight = weight * decay + _sum_over_blocks(probs)
                part = jnp.einsum("gqk,gkd->gqd", probs.reshape(group, mask.q_block, -1), values)
                return new_max, weight, total * decay + part

            return attend

        (row_max, weight, total), computed = walk(members, sizes, trip, start)
        weight = weight.sum(-1)
        empty = weight == 0
        weight = jnp.where(empty, 1, weight)
        done = (
            jnp.where(empty[..., None], 0, total / weight[..., None]),
            jnp.where(empty, -jnp.inf, row_max + jnp.log(weight)),
            jnp.broadcast_to(computed, (group, 1)),
        )
        return _write(results, done, *where, members.busy())

    tiles_of_queries = query_tiles.shape[0]
    results = (
        vary(jnp.zeros((tiles_of_queries, mask.q_block, heads, value_dim), dtype), axes),
        vary(jnp.full((tiles_of_queries, mask.q_block, heads), -jnp.inf, dtype), axes),
        vary(jnp.zeros((tiles_of_queries, 1, heads), jnp.int32), axes),
    )
    results = lax.fori_loop(0, rows.groups(), process, results)
    out, lse = (_untiled(part, batch, mask.q_len) for part in results[:2])
    trips = results[2].reshape(batch, q_blocks, heads).swapaxes(1, 2)
    if mask.q_positions is not None:
        present = (mask.query_positions() >= 0)[None, :, None]
        out = jnp.where(present[..., None], out, 0)
        lse = jnp.where(present, lse, -jnp.inf)
    return out, lse, trips


def backward(
    q: Queries,
    k: Keys,
    v: Values,
    mask: BlockMask,
    out: Outputs,
    lse: PerQuery,
    d_out: Outputs,
    d_lse: PerQuery,
    *,
    scale: float,
) -> tuple[Queries, Keys, Values]:
    """Implements ``Implementation.backward``."""
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    batch, _, heads, dim = q.shape
    kv_heads, value_dim = k.shape[2], v.shape[-1]
    d_out = d_out.astype(dtype)
    delta = (d_out * out.astype(dtype)).sum(-1) - d_lse
    # lse = +inf gives a query that attends to nothing probability 0 without a test.
    lse = jnp.where(lse == -jnp.inf, jnp.inf, lse)
    query_blocks = _blocks(q.astype(dtype) * scale, mask.q_block)
    d_out_blocks = _blocks(d_out, mask.q_block)
    delta_blocks = _blocks(delta[..., None], mask.q_block)[..., 0]
    lse_blocks = _blocks(lse[..., None], mask.q_block)[..., 0]
    key_tiles, value_tiles = _tiles(k, mask.kv_block), _tiles(v, mask.kv_block)
    q_positions, kv_positions = _block_positions(mask)
    q_blocks, kv_blocks = mask.blocks.shape[-2:]
    lists = _query_lists(mask, kv_heads)
    columns = lists.indices.shape[-1]
    sizes = tiling(batch * kv_heads * kv_blocks, mask.kv_block, columns, mask.q_block, BACKWARD)
    group = sizes.group
    rows = sort_rows(lists, batch, kv_heads, kv_heads, group)
    axes = varying_axes(q)
    start = (
        vary(jnp.zeros((group, mask.kv_block, dim), dtype), axes),
        vary(jnp.zeros((group, mask.kv_block, value_dim), dtype), axes),
    )

    def process(number: Array, results: tuple) -> tuple:
        dq, dk, dv = results
        members = rows.members(number)
        where = _where(members.row, kv_heads, kv_blocks)
        keys = _read(key_tiles, *where).astype(dtype)
        values = _read(value_tiles, *where).astype(dtype)
        keys_by_dim = keys.swapaxes(1, 2)
        key_position = take(kv_positions, members.block)

        def trip(chunk: int) -> Callable:
            def differentiate(first: Array, state: tuple) -> tuple:
                dq, dk, dv = state
                column, valid = members.chunk(first, chunk)
                queries = take(query_blocks, column).reshape(group, -1, dim)
                d_outs = take(d_out_blocks, column).reshape(group, -1, value_dim)
                allowed = _allowed(
                    mask,
                    valid[:, None, :, None],
                    take(q_positions, column % q_blocks)[:, None],
                    key_position[:, :, None, None],
                )
                shape = (group, mask.kv_block, chunk, mask.q_block)
                scores = jnp.einsum("gkd,gqd->gkq", keys, queries).reshape(shape)
                probs = jnp.exp(scores - take(lse_blocks, column)[:, None])
                probs = jnp.where(allowed, probs, 0)
                d_probs = jnp.einsum("gkd,gqd->gkq", values, d_outs).reshape(shape)
                d_scores = probs * (d_probs - take(delta_blocks, column)[:, None])
                probs = probs.reshape(group, mask.kv_block, -1)
                d_scores = d_scores.reshape(group, mask.kv_block, -1)
                dv = dv + jnp.einsum("gkq,gqd->gkd", probs, d_outs)
                dk = dk + jnp.einsum("gkq,gqd->gkd", d_scores, queries)
                part = jnp.einsum("gdk,gkq->gdq", keys_by_dim, d_scores)
                part = part.reshape(group, dim, chunk, mask.q_block)
                return _add_blocks(dq, column, part), dk, dv

            return differentiate

        (dq, *parts), _ = walk(members, sizes, trip, (dq, *start))
        return dq, *_write((dk, dv), tuple(parts), *where, members.busy())

    tiles_of_keys = key_tiles.shape[0]
    results = (
        vary(jnp.zeros((query_blocks.shape[0], dim, mask.q_block), dtype), axes),
        vary(jnp.zeros((tiles_of_keys, mask.kv_block, kv_heads, dim), dtype), axes),
        vary(jnp.zeros((tiles_of_keys, mask.kv_block, kv_heads, value_dim), dtype), axes),
    )
    dq, dk, dv = lax.fori_loop(0, rows.groups(), process, results)
    dq = _tokens(dq.swapaxes(1, 2), batch, heads, mask.q_len) * scale
    dk, dv = (_untiled(x, batch, mask.kv_len) for x in (dk, dv))
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype)


def _query_lists(mask: BlockMask, kv_heads: int) -> BlockLists:
    """For every block of a key head, the live query blocks of all heads that read it, in a row."""
    live = mask.live_blocks()
    batch, heads, q_blocks, kv_blocks = live.shape
    live = live.reshape(batch, kv_heads, heads // kv_heads * q_blocks, kv_blocks)
    return compress(live.swapaxes(-1, -2))


def _blocks(tokens: Array, block: int) -> Array:
    """``[batch, seq, heads, dim]`` to ``[batch * heads * blocks, block, dim]``, filled up."""
    tokens = tiles.pad_tokens(tokens, block)
    batch, length, heads, dim = tokens.shape
    tokens = tokens.reshape(batch, length // block, block, heads, dim)
    return tokens.transpose(0, 3, 1, 2, 4).reshape(-1, block, dim)


def _tokens(blocks: Array, batch: int, heads: int, length: int) -> Array:
    """``[batch * heads * blocks, block, *dim]`` to ``[batch, length, heads, *dim]``."""
    per_head = blocks.reshape(batch, heads, -1, *blocks.shape[2:])[:, :, :length]
    return jnp.moveaxis(per_head, 1, 2)


def _tiles(tokens: Array, block: int) -> Array:
    """``[batch, seq, heads, dim]`` to ``[batch * blocks, block, heads, dim]``, no copy if whole."""
    tokens = tiles.pad_tokens(tokens, block)
    return tokens.reshape(-1, block, *tokens.shape[2:])


def _untiled(blocks: Array, batch: int, length: int) -> Array:
    """``[batch * blocks, block, *rest]`` to ``[batch, length, *rest]``."""
    return blocks.reshape(batch, -1, *blocks.shape[2:])[:, :length]


def _where(row: Array, heads: int, blocks: int) -> tuple[Array, Array]:
    """Tile and head of rows that are numbered over batch, heads and blocks."""
    head = row // blocks
    return head // heads * blocks + row % blocks, head % heads


def _read(tokens: Array, tile: Array, head: Array) -> Array:
    """Rows of one head each, ``[group, block, dim]``."""
    return take(tokens, (tile, slice(None), head))


def _write(
    wholes: tuple[Array, ...], parts: tuple[Array, ...], tile: Array, head: Array, count: Array
) -> tuple[Array, ...]:
    """Puts the first ``count`` rows of a group where their tokens stand, in place."""

    def put(i: Array, wholes: tuple[Array, ...]) -> tuple[Array, ...]:
        zero = jnp.zeros_like(tile[i])
        return tuple(
            lax.dynamic_update_slice(
                whole, part[i][None, :, None], (tile[i], zero, head[i], *[zero] * (whole.ndim - 3))
            )
            for whole, part in zip(wholes, parts, strict=True)
        )

    return lax.fori_loop(0, count, put, wholes)


def _block_positions(mask: BlockMask) -> tuple[Array, Array]:
    queries, keys = tiles.padded_positions(mask)
    return queries.reshape(-1, mask.q_block), keys.reshape(-1, mask.kv_block)


def _allowed(mask: BlockMask, active: Array, q_position: Array, kv_position: Array) -> Array:
    """Which pairs attend; compares positions only where the mask's static part asks for it."""
    allowed = active
    if mask.causal:
        allowed = allowed & (kv_position <= q_position)
    if mask.kv_positions is not None or mask.kv_len % mask.kv_block:
        allowed = allowed & (kv_position >= 0)
    return allowed


def _add_blocks(total: Array, index: Array, parts: Array) -> Array:
    """Adds ``parts[i, :, j]`` to ``total[index[i, j]]``, in place and in order."""
    group, dim, chunk, block = parts.shape

    def add(n: Array, total: Array) -> Array:
        i, j = n // chunk, n % chunk
        part = lax.dynamic_slice(parts, (i, 0, j, 0), (1, dim, 1, block))[:, :, 0]
        here = lax.dynamic_index_in_dim(total, index[i, j], keepdims=True)
        return lax.dynamic_update_slice_in_dim(total, here + part, index[i, j], 0)

    return lax.fori_loop(0, group * chunk, add, total)


def _sum_over_blocks(probs: Array) -> Array:
    """Sums ``[group, rows, chunk, columns]`` over the chunk, column by column.

    Spelled out, it fuses with what follows and runs at full vector width.
    """
    return functools.reduce(jnp.add, (probs[:, :, i] for i in range(probs.shape[2])))
