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
from jaxlab.blocksparse.rows import Members, sort_rows, take, tiling, walk
from jaxlab.blocksparse.varying import vary, varying_axes


def forward(
    q: Queries, k: Keys, v: Values, mask: BlockMask, *, scale: float
) -> tuple[Outputs, PerQuery, Trips]:
    """Implements ``Implementation.forward``.

    The trips are those of the longest row of the group, rounded up to whole chunks.
    """
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    batch, _, heads, _ = q.shape
    queries_of = _blocks(q, mask.q_block)
    keys_of, values_of = (_blocks(x, mask.kv_block) for x in (k, v))
    q_positions, kv_positions = _block_positions(mask)
    q_blocks, kv_blocks = mask.blocks.shape[-2:]
    sizes = tiling(batch * heads * q_blocks, mask.q_block, kv_blocks, mask.kv_block)
    group = sizes.group
    rows = sort_rows(mask.kv_lists(), batch, heads, k.shape[2], group)
    value_dim = v.shape[-1]

    def process(number: Array, results: tuple) -> tuple:
        members = rows.members(number)
        queries = _gather(queries_of, members.row, dtype) * scale
        query_position = take(q_positions, members.block)

        def trip(chunk: int) -> Callable:
            def attend(first: Array, state: tuple) -> tuple:
                running_max, weight, total = state
                column, valid = members.chunk(first, chunk)
                keys = _gather(keys_of, column, dtype).reshape(group, -1, k.shape[-1])
                values = _gather(values_of, column, dtype).reshape(group, -1, value_dim)
                allowed = _allowed(
                    mask,
                    valid[:, None, :, None],
                    query_position[:, :, None, None],
                    take(kv_positions, column % kv_blocks)[:, None],
                )
                scores = jnp.einsum("gqd,gkd->gqk", queries, keys)
                scores = scores.reshape(group, mask.q_block, chunk, mask.kv_block)
                scores = jnp.where(allowed, scores, -jnp.inf)
                new_max = scores.max((2, 3))
                if running_max is not None:
                    new_max = jnp.maximum(running_max, new_max)
                shift = jnp.where(new_max == -jnp.inf, 0, new_max)
                probs = jnp.exp(scores - shift[..., None, None])
                new_weight = _over_blocks(jnp.add, probs)
                new_total = jnp.einsum(
                    "gqk,gkd->gqd", probs.reshape(group, mask.q_block, -1), values
                )
                if running_max is not None:
                    decay = jnp.exp(running_max - shift)[..., None]
                    new_weight = weight * decay + new_weight
                    new_total = total * decay + new_total
                return new_max, new_weight, new_total

            return attend

        (row_max, weight, total), computed = walk(members, sizes, trip, (None, None, None))
        weight = weight.sum(-1)
        empty = weight == 0
        weight = jnp.where(empty, 1, weight)
        out, lse, trips = results
        attended = jnp.where(empty[..., None], 0, total / weight[..., None])
        log_weight = jnp.where(empty, -jnp.inf, row_max + jnp.log(weight))
        out, lse = _put((out, lse), members, (attended, log_weight))
        computed = jnp.broadcast_to(computed, (group,))
        return out, lse, lax.dynamic_update_slice_in_dim(trips, computed, number * group, 0)

    axes = varying_axes(q)
    shape = (batch, q_blocks, mask.q_block, heads)
    results = (
        vary(jnp.zeros((*shape, value_dim), q.dtype), axes),
        vary(jnp.full(shape, -jnp.inf, dtype), axes),
        vary(jnp.zeros(rows.order.size, jnp.int32), axes),
    )
    out, lse, trips = lax.fori_loop(0, rows.groups(), process, results)
    out, lse = (_tokens(part, mask.q_len) for part in (out, lse))
    trips = take(trips, rows.place).reshape(batch, heads, q_blocks)
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
    queries_of, d_outs_of, deltas_of, lse_of = (
        _blocks(x, mask.q_block) for x in (q, d_out, delta, lse)
    )
    keys_of, values_of = (_blocks(x, mask.kv_block) for x in (k, v))
    q_positions, kv_positions = _block_positions(mask)
    q_blocks, kv_blocks = mask.blocks.shape[-2:]
    lists = _query_lists(mask, kv_heads)
    columns = lists.indices.shape[-1]
    sizes = tiling(batch * kv_heads * kv_blocks, mask.kv_block, columns, mask.q_block)
    group = sizes.group
    rows = sort_rows(lists, batch, kv_heads, kv_heads, group)

    def process(number: Array, results: tuple) -> tuple:
        dq, dk, dv = results
        members = rows.members(number)
        keys, values = (_gather(x, members.row, dtype) for x in (keys_of, values_of))
        keys_by_dim = keys.swapaxes(1, 2)
        key_position = take(kv_positions, members.block)

        def trip(chunk: int) -> Callable:
            def differentiate(first: Array, state: tuple) -> tuple:
                dq, dk, dv = state
                column, valid = members.chunk(first, chunk)
                queries = (_gather(queries_of, column, dtype) * scale).reshape(group, -1, dim)
                d_outs = _gather(d_outs_of, column, dtype).reshape(group, -1, value_dim)
                allowed = _allowed(
                    mask,
                    valid[:, None, :, None],
                    take(q_positions, column % q_blocks)[:, None],
                    key_position[:, :, None, None],
                )
                shape = (group, mask.kv_block, chunk, mask.q_block)
                scores = jnp.einsum("gkd,gqd->gkq", keys, queries).reshape(shape)
                probs = jnp.exp(scores - _gather(lse_of, column, dtype)[:, None])
                probs = jnp.where(allowed, probs, 0)
                d_probs = jnp.einsum("gkd,gqd->gkq", values, d_outs).reshape(shape)
                d_scores = probs * (d_probs - _gather(deltas_of, column, dtype)[:, None])
                probs = probs.reshape(group, mask.kv_block, -1)
                d_scores = d_scores.reshape(group, mask.kv_block, -1)
                new_dv = jnp.einsum("gkq,gqd->gkd", probs, d_outs)
                new_dk = jnp.einsum("gkq,gqd->gkd", d_scores, queries)
                if dk is not None:
                    new_dk, new_dv = dk + new_dk, dv + new_dv
                part = jnp.einsum("gdk,gkq->gdq", keys_by_dim, d_scores)
                part = part.reshape(group, dim, chunk, mask.q_block)
                return _add_blocks(dq, column, part), new_dk, new_dv

            return differentiate

        (dq, dk_rows, dv_rows), _ = walk(members, sizes, trip, (dq, None, None))
        return dq, *_put((dk, dv), members, (dk_rows, dv_rows))

    axes = varying_axes(q)
    shape = (batch, kv_blocks, mask.kv_block, kv_heads)
    results = (
        vary(jnp.zeros((batch * heads * q_blocks, dim, mask.q_block), dtype), axes),
        vary(jnp.zeros((*shape, dim), k.dtype), axes),
        vary(jnp.zeros((*shape, value_dim), v.dtype), axes),
    )
    dq, dk, dv = lax.fori_loop(0, rows.groups(), process, results)
    dq = dq.reshape(batch, heads, q_blocks, dim, mask.q_block).transpose(0, 2, 4, 1, 3) * scale
    return (
        _tokens(dq, mask.q_len).astype(q.dtype),
        _tokens(dk, mask.kv_len),
        _tokens(dv, mask.kv_len),
    )


def _query_lists(mask: BlockMask, kv_heads: int) -> BlockLists:
    """For every block of a key head, the live query blocks of all heads that read it, in a row."""
    live = mask.live_blocks()
    batch, heads, q_blocks, kv_blocks = live.shape
    live = live.reshape(batch, kv_heads, heads // kv_heads * q_blocks, kv_blocks)
    return compress(live.swapaxes(-1, -2))


def _blocks(tokens: Array, block: int) -> Array:
    """``[batch, seq, ...]`` to ``[batch, blocks, block, ...]``, filled up."""
    tokens = tiles.pad_tokens(tokens, block)
    return tokens.reshape(tokens.shape[0], -1, block, *tokens.shape[2:])


def _tokens(blocks: Array, length: int) -> Array:
    """``[batch, blocks, block, ...]`` to ``[batch, length, ...]``."""
    return blocks.reshape(blocks.shape[0], -1, *blocks.shape[3:])[:, :length]


def _place(blocks: Array, number: Array) -> tuple[Array, Array, Array]:
    """Batch, block and head of blocks numbered over batch, heads and blocks."""
    _, count, _, heads, *_ = blocks.shape
    return number // (heads * count), number % count, number // count % heads


def _gather(blocks: Array, number: Array, dtype: jnp.dtype) -> Array:
    """Blocks by number, ``[*number, block, ...]``, straight from where the tokens stand."""
    batch, block, head = _place(blocks, number)
    return blocks.at[batch, block, :, head].get(mode="promise_in_bounds").astype(dtype)


def _put(results: tuple, members: Members, parts: tuple) -> tuple:
    """Writes a group's rows in place, but for those that met nothing."""

    def put(i: Array, results: tuple) -> tuple:
        def put_one(whole: Array, part: Array) -> Array:
            batch, block, head = _place(whole, members.row[i])
            part = lax.dynamic_index_in_dim(part, i)[None, :, :, None].astype(whole.dtype)
            zero = jnp.zeros_like(batch)
            start = (batch, block, zero, head, zero)[: whole.ndim]
            return lax.dynamic_update_slice(whole, part, start)

        return tuple(map(put_one, results, parts))

    return lax.fori_loop(0, (members.counts > 0).sum(dtype=jnp.int32), put, results)


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


def _over_blocks(combine: Callable, scores: Array) -> Array:
    """Reduces ``[group, rows, chunk, columns]`` over the chunk, column by column.

    Spelled out, it fuses with what made the scores and runs at full vector width.
    """
    return functools.reduce(combine, (scores[:, :, i] for i in range(scores.shape[2])))
