"""Block-sparse attention on NVIDIA Hopper: Pallas kernels for the Mosaic GPU backend.

A producer warpgroup reads the work list of a row of blocks and streams the listed blocks into
shared memory by TMA, as far ahead as there are buffers; one consumer warpgroup for every 64 rows
multiplies them with wgmma. Both loop as often as the list says: a block that is not listed is
neither loaded nor computed. Where a row has only 64 rows, a thread block works on two rows, each
with its own producer, so that one multiplies while the other takes exponentials.

Source: online softmax and its backward pass as in FlashAttention-2 (Dao, 2023); producer and
consumer warpgroups as in FlashAttention-3 (Shah et al., 2024).
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float, Int32

from jaxlab.blocksparse import tiles, warpgroups
from jaxlab.blocksparse.mask import BlockMask

WIDEST = 128
"""Largest head size whose accumulators fit the registers."""
LOG2E = math.log2(math.e)


def unsupported(q: Any, k: Any, v: Any, mask: BlockMask) -> str | None:
    """Why these kernels cannot run such inputs, or None when they can.

    Args:
      q: ``[batch, q_len, heads, dim]``; only the shape and type are looked at, here and below.
      k: ``[batch, kv_len, kv_heads, dim]``.
      v: ``[batch, kv_len, kv_heads, value_dim]``.
      mask: which blocks attend.
    """
    if not (q.dtype == k.dtype == v.dtype) or q.dtype not in (jnp.bfloat16, jnp.float16):
        return (
            f"the Hopper kernels multiply bfloat16 or float16, got q {q.dtype}, k {k.dtype}, "
            f"v {v.dtype}"
        )
    if max(q.shape[-1], v.shape[-1]) > WIDEST:
        return (
            f"the Hopper kernels hold head sizes up to {WIDEST}, got {q.shape[-1]}, {v.shape[-1]}"
        )
    for name, block in (("q_block", mask.q_block), ("kv_block", mask.kv_block)):
        if block not in (64, 128):
            return f"the Hopper kernels need {name} 64 or 128, got {block}"
    return None


def forward(
    q: Float[Array, "batch q_len heads dim"],
    k: Float[Array, "batch kv_len kv_heads dim"],
    v: Float[Array, "batch kv_len kv_heads value_dim"],
    mask: BlockMask,
    *,
    scale: float,
    interpret: Any = False,
) -> tuple[
    Float[Array, "batch q_len heads value_dim"],
    Float[Array, "batch q_len heads"],
    Int32[Array, "batch heads q_blocks"],
]:
    """Attends over the active blocks.

    Args:
      q: bfloat16 or float16 ``[batch, q_len, heads, dim]``.
      k: same type, ``[batch, kv_len, kv_heads, dim]``; ``heads`` is a multiple of ``kv_heads``.
      v: same type, ``[batch, kv_len, kv_heads, value_dim]``.
      mask: which blocks attend; blocks of 64 or 128 tokens.
      scale: factor of the scores.
      interpret: True or ``plgpu.InterpretGPUParams`` to run on the CPU, simulated.

    Returns:
      The output, of ``q``'s type, 0 for a query that attends to nothing; the logarithm of the sum
      of exponentials, float32, -inf there; and the trips of every query block's loop, counted by
      the kernel.

    Raises:
      ValueError: see ``unsupported``.
    """
    _check(q, k, v, mask)
    (batch, q_len, heads, _), value_dim = q.shape, v.shape[-1]
    group, width = heads // k.shape[2], _width(q, v)
    q, scale = tiles.fold_sign(q, scale)
    block, columns, masked = mask.q_block, mask.kv_block, tiles.leaves_out_pairs(mask)
    q, k, v = (_wide(a, width) for a in (q, k, v))
    k, v = (tiles.pad_tokens(a, columns) for a in (k, v))
    dtype, simulated = q.dtype, bool(interpret)
    team = warpgroups.plan_team(block, warpgroups.ROWS * width * 2, 2 * columns * width * 2)
    work = warpgroups.whole_teams(tiles.schedules(mask, batch).by_query, 1, 2, team)
    q = warpgroups.whole_teams(q, block, 1, team)
    q_at, k_at = tiles.padded_positions(mask)
    q_at = warpgroups.whole_teams(q_at, block, 0, team)
    factor = scale * LOG2E

    def kernel(
        q_ref, k_ref, v_ref, q_at_ref, k_at_ref, work_ref, out_ref, lse_ref, trips_ref,
        q_smem, k_smem, v_smem, lse_smem, q_at_smem, k_at_smem,
        q_ready, k_ready, v_ready, k_free, v_free,
    ):  # fmt: skip
        head, index = lax.axis_index("head"), lax.axis_index("batch")

        def produce(stream, row):
            def load(index_of_block, _, slot, wait):
                here = pl.ds(index_of_block * columns, columns)
                source = (index, here, head // group)
                wait(k_free)
                plgpu.copy_gmem_to_smem(k_ref.at[source], k_smem.at[slot], k_ready.at[slot])
                if masked:
                    plgpu.copy_gmem_to_smem(k_at_ref.at[here], k_at_smem.at[slot], k_ready.at[slot])
                wait(v_free)
                plgpu.copy_gmem_to_smem(v_ref.at[source], v_smem.at[slot], v_ready.at[slot])

            warpgroups.stream_blocks(
                lambda _: work_ref.at[index, head, row], 1, load, (k_free, v_free), team, stream
            )

        def consume(stream, row, rows, me):
            queries, ready = q_smem.at[me], q_ready.at[me]
            plgpu.copy_gmem_to_smem(q_ref.at[index, rows, head], queries, ready)
            if masked:
                plgpu.copy_gmem_to_smem(q_at_ref.at[rows], q_at_smem.at[me], ready)
            plgpu.barrier_wait(ready)

            def attend(carry, slot, *, some: bool):
                acc, top, total = carry
                plgpu.barrier_wait(k_ready.at[slot])
                scores = warpgroups.product(queries, k_smem.at[slot].transpose((1, 0)))
                if some:
                    shape = (warpgroups.ROWS, columns)
                    scores = warpgroups.mask_scores(
                        scores,
                        warpgroups.down(
                            plgpu.load(q_at_smem.at[me], layout=warpgroups.ALONG_ROWS), shape
                        ),
                        warpgroups.across(
                            plgpu.load(k_at_smem.at[slot], layout=warpgroups.ALONG_COLUMNS), shape
                        ),
                        mask.causal,
                    )
                warpgroups.release(k_free.at[slot], some)
                new_top = jnp.maximum(top, scores.max(axis=1) * factor)
                # A query without any key so far has top -inf; -inf minus -inf would be NaN.
                base = jnp.where(new_top == -jnp.inf, 0.0, new_top) if some else new_top
                weights = jnp.exp2(scores * factor - warpgroups.down(base, scores.shape))
                decay = jnp.exp2(top - base)
                total = total * decay + weights.sum(axis=1)
                acc = acc * warpgroups.down(decay, acc.shape)
                plgpu.barrier_wait(v_ready.at[slot])
                acc = warpgroups.accumulate(acc, weights.astype(dtype), v_smem.at[slot], simulated)
                warpgroups.release(v_free.at[slot], simulated)
                return acc, new_top, total

            carry = (
                warpgroups.constant((warpgroups.ROWS, width), 0.0, plgpu.Layout.WGMMA),
                warpgroups.constant((warpgroups.ROWS,), -jnp.inf, warpgroups.ALONG_ROWS),
                warpgroups.constant((warpgroups.ROWS,), 0.0, warpgroups.ALONG_ROWS),
            )
            work_row = work_ref.at[index, head, row]
            (acc, top, total), trips = warpgroups.over_work(
                work_row, attend, (carry, jnp.int32(0)), team, stream, masked
            )
            some_key = total > 0
            divisor = jnp.where(some_key, total, 1.0)
            queries[...] = (acc / warpgroups.down(divisor, acc.shape)).astype(dtype)
            lse = jnp.where(some_key, top / LOG2E + jnp.log(divisor), -jnp.inf)
            lse_smem.at[me][...] = lse
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(queries, out_ref.at[index, rows, head])
            plgpu.copy_smem_to_gmem(lse_smem.at[me], lse_ref.at[index, head, rows])
            plgpu.wait_smem_to_gmem(0)

            @pl.when(lax.rem(me, team.parts) == 0)
            def _report():
                trips_ref[index, head, row] = trips

        warpgroups.divide_work(team, block, produce, consume)

    buffers, both = team.streams * team.stages, 1 + masked
    out, lse, trips = warpgroups.hopper_call(
        kernel,
        (work.shape[2] // team.streams, heads, batch),
        team,
        out_type=(
            jax.ShapeDtypeStruct(q.shape, dtype),
            jax.ShapeDtypeStruct((batch, heads, q.shape[1]), jnp.float32),
            jax.ShapeDtypeStruct(work.shape[:3], jnp.int32),
        ),
        scratch=(
            warpgroups.tile((team.consumers, warpgroups.ROWS, width), dtype),
            warpgroups.tile((buffers, columns, width), dtype),
            warpgroups.tile((buffers, columns, width), dtype),
            plgpu.SMEM((team.consumers, warpgroups.ROWS), jnp.float32),
            plgpu.SMEM((team.consumers, warpgroups.ROWS), jnp.int32),
            plgpu.SMEM((buffers, columns), jnp.int32),
            plgpu.Barrier(num_arrivals=both, num_barriers=team.consumers),
            plgpu.Barrier(num_arrivals=both, num_barriers=buffers),
            plgpu.Barrier(num_barriers=buffers),
            plgpu.Barrier(num_arrivals=team.parts, num_barriers=buffers),
            plgpu.Barrier(num_arrivals=team.parts, num_barriers=buffers),
        ),
        interpret=interpret,
    )(q, k, v, q_at, k_at, work)
    trips = trips[..., : mask.blocks.shape[-2]]
    return out[:, :q_len, :, :value_dim], lse[..., :q_len].swapaxes(1, 2), trips


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
    interpret: Any = False,
) -> tuple[
    Float[Array, "batch q_len heads dim"],
    Float[Array, "batch kv_len kv_heads dim"],
    Float[Array, "batch kv_len kv_heads value_dim"],
]:
    """Gradients of ``forward``'s output and log-sum-exp, over the active blocks.

    Args:
      q: as for ``forward``.
      k: as for ``forward``.
      v: as for ``forward``.
      mask: as for ``forward``.
      out: ``forward``'s output.
      lse: ``forward``'s log-sum-exp.
      d_out: cotangent of ``out``.
      d_lse: cotangent of ``lse``.
      scale: as for ``forward``.
      interpret: as for ``forward``.

    Returns:
      The gradients of ``q``, ``k`` and ``v``, in their types.

    Raises:
      ValueError: see ``unsupported``.
    """
    _check(q, k, v, mask)
    batch, q_len, heads, dim = q.shape
    (kv_len, kv_heads), value_dim, width = k.shape[1:3], v.shape[-1], _width(q, v)
    sign = (scale > 0) - (scale < 0)
    q, scale = tiles.fold_sign(q, scale)
    lse, delta = tiles.row_statistics(out, lse, d_out, d_lse, mask.q_block)
    lists = tiles.schedules(mask, batch)
    q, k, v, d_out = (_wide(a, width) for a in (q, k, v, d_out.astype(q.dtype)))
    q, d_out = (tiles.pad_tokens(a, mask.q_block) for a in (q, d_out))
    k, v = (tiles.pad_tokens(a, mask.kv_block) for a in (k, v))
    operands = (q, k, v, d_out, lse * LOG2E, delta, *tiles.padded_positions(mask))
    settings = {"scale": scale, "interpret": interpret, "group": heads // kv_heads}
    dq = _query_gradient(operands, lists.by_query, mask, **settings)[:, :q_len, :, :dim]
    dk, dv = _key_gradients(operands, lists.by_key, mask, **settings)
    return dq * sign, dk[:, :kv_len, :, :dim], dv[:, :kv_len, :, :value_dim]


def _query_gradient(operands, work, mask, *, scale, interpret, group) -> Array:
    q, k, v, d_out, lse, delta, q_at, k_at = operands
    block, columns, masked = mask.q_block, mask.kv_block, tiles.leaves_out_pairs(mask)
    (batch, _, heads, width), dtype, simulated = q.shape, q.dtype, bool(interpret)
    team = warpgroups.plan_team(block, 2 * warpgroups.ROWS * width * 2, 2 * columns * width * 2)
    work = warpgroups.whole_teams(work, 1, 2, team)
    q, d_out = (warpgroups.whole_teams(a, block, 1, team) for a in (q, d_out))
    lse, delta = (warpgroups.whole_teams(a, block, 2, team) for a in (lse, delta))
    q_at = warpgroups.whole_teams(q_at, block, 0, team)

    def kernel(
        q_ref, k_ref, v_ref, d_out_ref, lse_ref, delta_ref, q_at_ref, k_at_ref, work_ref, dq_ref,
        q_smem, d_out_smem, lse_smem, delta_smem, q_at_smem, k_smem, v_smem, k_at_smem,
        q_ready, ready, free,
    ):  # fmt: skip
        head, index = lax.axis_index("head"), lax.axis_index("batch")

        def produce(stream, row):
            def load(index_of_block, _, slot, wait):
                here = pl.ds(index_of_block * columns, columns)
                source = (index, here, head // group)
                wait(free)
                plgpu.copy_gmem_to_smem(k_ref.at[source], k_smem.at[slot], ready.at[slot])
                plgpu.copy_gmem_to_smem(v_ref.at[source], v_smem.at[slot], ready.at[slot])
                if masked:
                    plgpu.copy_gmem_to_smem(k_at_ref.at[here], k_at_smem.at[slot], ready.at[slot])

            warpgroups.stream_blocks(
                lambda _: work_ref.at[index, head, row], 1, load, (free,), team, stream
            )

        def consume(stream, row, rows, me):
            here = q_ready.at[me]
            queries, d_outs = q_smem.at[me], d_out_smem.at[me]
            plgpu.copy_gmem_to_smem(q_ref.at[index, rows, head], queries, here)
            plgpu.copy_gmem_to_smem(d_out_ref.at[index, rows, head], d_outs, here)
            plgpu.copy_gmem_to_smem(lse_ref.at[index, head, rows], lse_smem.at[me], here)
            plgpu.copy_gmem_to_smem(delta_ref.at[index, head, rows], delta_smem.at[me], here)
            if masked:
                plgpu.copy_gmem_to_smem(q_at_ref.at[rows], q_at_smem.at[me], here)
            plgpu.barrier_wait(here)
            shape = (warpgroups.ROWS, warpgroups.ROWS)
            normalizer = warpgroups.down(
                plgpu.load(lse_smem.at[me], layout=warpgroups.ALONG_ROWS), shape
            )
            mean = warpgroups.down(
                plgpu.load(delta_smem.at[me], layout=warpgroups.ALONG_ROWS), shape
            )

            def attend(dq, slot, *, some: bool):
                plgpu.barrier_wait(ready.at[slot])
                for start in range(0, columns, warpgroups.ROWS):
                    part = pl.ds(start, warpgroups.ROWS)
                    keys, values = k_smem.at[slot, part], v_smem.at[slot, part]
                    scores = warpgroups.product(queries, keys.transpose((1, 0)))
                    if some:
                        at = plgpu.load(k_at_smem.at[slot, part], layout=warpgroups.ALONG_COLUMNS)
                        scores = warpgroups.mask_scores(
                            scores,
                            warpgroups.down(
                                plgpu.load(q_at_smem.at[me], layout=warpgroups.ALONG_ROWS), shape
                            ),
                            warpgroups.across(at, shape),
                            mask.causal,
                        )
                    weights = jnp.exp2(scores * (scale * LOG2E) - normalizer)
                    d_weights = warpgroups.product(d_outs, values.transpose((1, 0)))
                    d_scores = weights * (d_weights - mean)
                    dq = warpgroups.accumulate(dq, d_scores.astype(dtype), keys, simulated)
                warpgroups.release(free.at[slot], some or simulated)
                return dq

            dq = warpgroups.constant((warpgroups.ROWS, width), 0.0, plgpu.Layout.WGMMA)
            work_row = work_ref.at[index, head, row]
            dq, _ = warpgroups.over_work(work_row, attend, (dq, jnp.int32(0)), team, stream, masked)
            queries[...] = (dq * scale).astype(dtype)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(queries, dq_ref.at[index, rows, head])
            plgpu.wait_smem_to_gmem(0)

        warpgroups.divide_work(team, block, produce, consume)

    buffers = team.streams * team.stages
    return warpgroups.hopper_call(
        kernel,
        (work.shape[2] // team.streams, heads, batch),
        team,
        out_type=jax.ShapeDtypeStruct(q.shape, dtype),
        scratch=(
            warpgroups.tile((team.consumers, warpgroups.ROWS, width), dtype),
            warpgroups.tile((team.consumers, warpgroups.ROWS, width), dtype),
            plgpu.SMEM((team.consumers, warpgroups.ROWS), jnp.float32),
            plgpu.SMEM((team.consumers, warpgroups.ROWS), jnp.float32),
            plgpu.SMEM((team.consumers, warpgroups.ROWS), jnp.int32),
            warpgroups.tile((buffers, columns, width), dtype),
            warpgroups.tile((buffers, columns, width), dtype),
            plgpu.SMEM((buffers, columns), jnp.int32),
            plgpu.Barrier(num_arrivals=4 + masked, num_barriers=team.consumers),
            plgpu.Barrier(num_arrivals=2 + masked, num_barriers=buffers),
            plgpu.Barrier(num_arrivals=team.parts, num_barriers=buffers),
        ),
        interpret=interpret,
    )(q, k, v, d_out, lse, delta, q_at, k_at, work)


def _key_gradients(operands, work, mask, *, scale, interpret, group) -> tuple[Array, Array]:
    q, k, v, d_out, lse, delta, q_at, k_at = operands
    block, columns, masked = mask.kv_block, mask.q_block, tiles.leaves_out_pairs(mask)
    (batch, _, kv_heads, width), dtype, simulated = k.shape, k.dtype, bool(interpret)
    team = warpgroups.plan_team(block, 2 * warpgroups.ROWS * width * 2, 2 * columns * width * 2)
    work = warpgroups.whole_teams(work, 1, 2, team)
    k, v = (warpgroups.whole_teams(a, block, 1, team) for a in (k, v))
    k_at = warpgroups.whole_teams(k_at, block, 0, team)

    def kernel(
        q_ref, k_ref, v_ref, d_out_ref, lse_ref, delta_ref, q_at_ref, k_at_ref, work_ref,
        dk_ref, dv_ref,
        k_smem, v_smem, k_at_smem, q_smem, d_out_smem, lse_smem, delta_smem, q_at_smem,
        k_ready, ready, free,
    ):  # fmt: skip
        kv_head, index = lax.axis_index("head"), lax.axis_index("batch")

        def lists(row):
            return lambda member: work_ref.at[index, kv_head * group + member, row]

        def produce(stream, row):
            def load(index_of_block, member, slot, wait):
                here = pl.ds(index_of_block * columns, columns)
                head = kv_head * group + member
                wait(free)
                for source, target in (
                    (q_ref.at[index, here, head], q_smem),
                    (d_out_ref.at[index, here, head], d_out_smem),
                    (lse_ref.at[index, head, here], lse_smem),
                    (delta_ref.at[index, head, here], delta_smem),
                    *([(q_at_ref.at[here], q_at_smem)] if masked else []),
                ):
                    plgpu.copy_gmem_to_smem(source, target.at[slot], ready.at[slot])

            warpgroups.stream_blocks(lists(row), group, load, (free,), team, stream)

        def consume(stream, row, rows, me):
            here = k_ready.at[me]
            keys, values = k_smem.at[me], v_smem.at[me]
            plgpu.copy_gmem_to_smem(k_ref.at[index, rows, kv_head], keys, here)
            plgpu.copy_gmem_to_smem(v_ref.at[index, rows, kv_head], values, here)
            if masked:
                plgpu.copy_gmem_to_smem(k_at_ref.at[rows], k_at_smem.at[me], here)
            plgpu.barrier_wait(here)
            shape = (warpgroups.ROWS, warpgroups.ROWS)

            def attend(carry, slot, *, some: bool):
                dk, dv = carry
                plgpu.barrier_wait(ready.at[slot])
                for start in range(0, columns, warpgroups.ROWS):
                    part = pl.ds(start, warpgroups.ROWS)
                    queries, d_outs = q_smem.at[slot, part], d_out_smem.at[slot, part]
                    scores = warpgroups.product(keys, queries.transpose((1, 0)))
                    if some:
                        at = plgpu.load(q_at_smem.at[slot, part], layout=warpgroups.ALONG_COLUMNS)
                        scores = warpgroups.mask_scores(
                            scores,
                            warpgroups.across(at, shape),
                            warpgroups.down(
                                plgpu.load(k_at_smem.at[me], layout=warpgroups.ALONG_ROWS), shape
                            ),
                            mask.causal,
                        )
                    normalizer = plgpu.load(
                        lse_smem.at[slot, part], layout=warpgroups.ALONG_COLUMNS
                    )
                    weights = jnp.exp2(
                        scores * (scale * LOG2E) - warpgroups.across(normalizer, shape)
                    )
                    dv = warpgroups.accumulate(dv, weights.astype(dtype), d_outs, simulated)
                    d_weights = warpgroups.product(values, d_outs.transpose((1, 0)))
                    mean = plgpu.load(delta_smem.at[slot, part], layout=warpgroups.ALONG_COLUMNS)
                    d_scores = weights * (d_weights - warpgroups.across(mean, shape))
                    dk = warpgroups.accumulate(dk, d_scores.astype(dtype), queries, simulated)
                warpgroups.release(free.at[slot], True)
                return dk, dv

            def head_gradients(member, carry):
                return warpgroups.over_work(lists(row)(member), attend, carry, team, stream, masked)

            zeros = tuple(
                warpgroups.constant((warpgroups.ROWS, width), 0.0, plgpu.Layout.WGMMA)
                for _ in range(2)
            )
            (dk, dv), _ = lax.fori_loop(0, group, head_gradients, (zeros, jnp.int32(0)))
            keys[...] = (dk * scale).astype(dtype)
            values[...] = dv.astype(dtype)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(keys, dk_ref.at[index, rows, kv_head])
            plgpu.copy_smem_to_gmem(values, dv_ref.at[index, rows, kv_head])
            plgpu.wait_smem_to_gmem(0)

        warpgroups.divide_work(team, block, produce, consume)

    buffers = team.streams * team.stages
    return warpgroups.hopper_call(
        kernel,
        (work.shape[2] // team.streams, kv_heads, batch),
        team,
        out_type=(jax.ShapeDtypeStruct(k.shape, dtype), jax.ShapeDtypeStruct(v.shape, dtype)),
        scratch=(
            warpgroups.tile((team.consumers, warpgroups.ROWS, width), dtype),
            warpgroups.tile((team.consumers, warpgroups.ROWS, width), dtype),
            plgpu.SMEM((team.consumers, warpgroups.ROWS), jnp.int32),
            warpgroups.tile((buffers, columns, width), dtype),
            warpgroups.tile((buffers, columns, width), dtype),
            plgpu.SMEM((buffers, columns), jnp.float32),
            plgpu.SMEM((buffers, columns), jnp.float32),
            plgpu.SMEM((buffers, columns), jnp.int32),
            plgpu.Barrier(num_arrivals=2 + masked, num_barriers=team.consumers),
            plgpu.Barrier(num_arrivals=4 + masked, num_barriers=buffers),
            plgpu.Barrier(num_arrivals=team.parts, num_barriers=buffers),
        ),
        interpret=interpret,
    )(q, k, v, d_out, lse, delta, q_at, k_at, work)


def _check(q: Array, k: Array, v: Array, mask: BlockMask) -> None:
    reason = unsupported(q, k, v, mask)
    if reason is not None:
        raise ValueError(f"block-sparse attention on GPU: {reason}; use implementation='xla'.")


def _width(q: Array, v: Array) -> int:
    return -(-max(q.shape[-1], v.shape[-1]) // 64) * 64


def _wide(array: Array, width: int) -> Array:
    return jnp.pad(array, ((0, 0), (0, 0), (0, 0), (0, width - array.shape[-1])))
