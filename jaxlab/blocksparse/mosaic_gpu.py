"""Block-sparse attention on NVIDIA Hopper: Pallas kernels for the Mosaic GPU backend.

A producer warpgroup reads the work list of a row of blocks and streams the listed blocks into
shared memory by TMA, as far ahead as there are buffers; one consumer warpgroup for every 64 rows
multiplies them with wgmma. Both loop as often as the list says: a block that is not listed is
neither loaded nor computed. Where a row has only 64 rows, a thread block works on two rows, each
with its own producer, so that one multiplies while the other takes exponentials.

Source: online softmax and its backward pass as in FlashAttention-2 (Dao, 2023); producer and
consumer warpgroups as in FlashAttention-3 (Shah et al., 2024).
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float, Int32

from jaxlab.blocksparse import tiles
from jaxlab.blocksparse.mask import BlockMask

ROWS = 64
"""Rows of a wgmma product, hence of a consumer warpgroup."""
WIDEST = 128
"""Largest head size whose accumulators fit the registers."""
LOG2E = math.log2(math.e)
SHARED_MEMORY = 200 * 1024
"""Bytes of shared memory for buffers; a Hopper thread block has 227 KiB."""
ALONG_ROWS = plgpu.Layout.WGMMA.reduce(1)
ALONG_COLUMNS = plgpu.Layout.WGMMA.reduce(0)


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
    team = _team(block, ROWS * width * 2, 2 * columns * width * 2)
    work = _whole_teams(tiles.schedules(mask, batch).by_query, 1, 2, team)
    q = _whole_teams(q, block, 1, team)
    q_at, k_at = tiles.padded_positions(mask)
    q_at = _whole_teams(q_at, block, 0, team)
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

            _stream(lambda _: work_ref.at[index, head, row], 1, load, team, stream)

        def consume(stream, row, rows, me):
            queries, ready = q_smem.at[me], q_ready.at[me]
            plgpu.copy_gmem_to_smem(q_ref.at[index, rows, head], queries, ready)
            if masked:
                plgpu.copy_gmem_to_smem(q_at_ref.at[rows], q_at_smem.at[me], ready)
            plgpu.barrier_wait(ready)

            def attend(carry, slot, *, some: bool):
                acc, top, total = carry
                plgpu.barrier_wait(k_ready.at[slot])
                scores = _product(queries, k_smem.at[slot].transpose((1, 0)))
                if some:
                    shape = (ROWS, columns)
                    scores = _mask_scores(
                        scores,
                        _down(plgpu.load(q_at_smem.at[me], layout=ALONG_ROWS), shape),
                        _across(plgpu.load(k_at_smem.at[slot], layout=ALONG_COLUMNS), shape),
                        mask.causal,
                    )
                _release(k_free.at[slot], some)
                new_top = jnp.maximum(top, scores.max(axis=1) * factor)
                # A query without any key so far has top -inf; -inf minus -inf would be NaN.
                base = jnp.where(new_top == -jnp.inf, 0.0, new_top) if some else new_top
                weights = jnp.exp2(scores * factor - _down(base, scores.shape))
                decay = jnp.exp2(top - base)
                total = total * decay + weights.sum(axis=1)
                acc = acc * _down(decay, acc.shape)
                plgpu.barrier_wait(v_ready.at[slot])
                acc = _accumulate(acc, weights.astype(dtype), v_smem.at[slot], simulated)
                _release(v_free.at[slot], simulated)
                return acc, new_top, total

            carry = (
                _constant((ROWS, width), 0.0, plgpu.Layout.WGMMA),
                _constant((ROWS,), -jnp.inf, ALONG_ROWS),
                _constant((ROWS,), 0.0, ALONG_ROWS),
            )
            work_row = work_ref.at[index, head, row]
            (acc, top, total), trips = _over_work(
                work_row, attend, (carry, jnp.int32(0)), team, stream, masked
            )
            some_key = total > 0
            divisor = jnp.where(some_key, total, 1.0)
            queries[...] = (acc / _down(divisor, acc.shape)).astype(dtype)
            lse = jnp.where(some_key, top / LOG2E + jnp.log(divisor), -jnp.inf)
            lse_smem.at[me][...] = lse
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(queries, out_ref.at[index, rows, head])
            plgpu.copy_smem_to_gmem(lse_smem.at[me], lse_ref.at[index, head, rows])
            plgpu.wait_smem_to_gmem(0)

            @pl.when(lax.rem(me, team.parts) == 0)
            def _report():
                trips_ref[index, head, row] = trips

        _work(team, block, produce, consume)

    buffers, both = team.streams * team.stages, 1 + masked
    out, lse, trips = _call(
        kernel,
        (work.shape[2] // team.streams, heads, batch),
        team,
        out_type=(
            jax.ShapeDtypeStruct(q.shape, dtype),
            jax.ShapeDtypeStruct((batch, heads, q.shape[1]), jnp.float32),
            jax.ShapeDtypeStruct(work.shape[:3], jnp.int32),
        ),
        scratch=(
            _tile((team.consumers, ROWS, width), dtype),
            _tile((buffers, columns, width), dtype),
            _tile((buffers, columns, width), dtype),
            plgpu.SMEM((team.consumers, ROWS), jnp.float32),
            plgpu.SMEM((team.consumers, ROWS), jnp.int32),
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
    team = _team(block, 2 * ROWS * width * 2, 2 * columns * width * 2)
    work = _whole_teams(work, 1, 2, team)
    q, d_out = (_whole_teams(a, block, 1, team) for a in (q, d_out))
    lse, delta = (_whole_teams(a, block, 2, team) for a in (lse, delta))
    q_at = _whole_teams(q_at, block, 0, team)

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

            _stream(lambda _: work_ref.at[index, head, row], 1, load, team, stream)

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
            shape = (ROWS, ROWS)
            normalizer = _down(plgpu.load(lse_smem.at[me], layout=ALONG_ROWS), shape)
            mean = _down(plgpu.load(delta_smem.at[me], layout=ALONG_ROWS), shape)

            def attend(dq, slot, *, some: bool):
                plgpu.barrier_wait(ready.at[slot])
                for start in range(0, columns, ROWS):
                    part = pl.ds(start, ROWS)
                    keys, values = k_smem.at[slot, part], v_smem.at[slot, part]
                    scores = _product(queries, keys.transpose((1, 0)))
                    if some:
                        at = plgpu.load(k_at_smem.at[slot, part], layout=ALONG_COLUMNS)
                        scores = _mask_scores(
                            scores,
                            _down(plgpu.load(q_at_smem.at[me], layout=ALONG_ROWS), shape),
                            _across(at, shape),
                            mask.causal,
                        )
                    weights = jnp.exp2(scores * (scale * LOG2E) - normalizer)
                    d_weights = _product(d_outs, values.transpose((1, 0)))
                    d_scores = weights * (d_weights - mean)
                    dq = _accumulate(dq, d_scores.astype(dtype), keys, simulated)
                _release(free.at[slot], some or simulated)
                return dq

            dq = _constant((ROWS, width), 0.0, plgpu.Layout.WGMMA)
            work_row = work_ref.at[index, head, row]
            dq, _ = _over_work(work_row, attend, (dq, jnp.int32(0)), team, stream, masked)
            queries[...] = (dq * scale).astype(dtype)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(queries, dq_ref.at[index, rows, head])
            plgpu.wait_smem_to_gmem(0)

        _work(team, block, produce, consume)

    buffers = team.streams * team.stages
    return _call(
        kernel,
        (work.shape[2] // team.streams, heads, batch),
        team,
        out_type=jax.ShapeDtypeStruct(q.shape, dtype),
        scratch=(
            _tile((team.consumers, ROWS, width), dtype),
            _tile((team.consumers, ROWS, width), dtype),
            plgpu.SMEM((team.consumers, ROWS), jnp.float32),
            plgpu.SMEM((team.consumers, ROWS), jnp.float32),
            plgpu.SMEM((team.consumers, ROWS), jnp.int32),
            _tile((buffers, columns, width), dtype),
            _tile((buffers, columns, width), dtype),
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
    team = _team(block, 2 * ROWS * width * 2, 2 * columns * width * 2)
    work = _whole_teams(work, 1, 2, team)
    k, v = (_whole_teams(a, block, 1, team) for a in (k, v))
    k_at = _whole_teams(k_at, block, 0, team)

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

            _stream(lists(row), group, load, team, stream)

        def consume(stream, row, rows, me):
            here = k_ready.at[me]
            keys, values = k_smem.at[me], v_smem.at[me]
            plgpu.copy_gmem_to_smem(k_ref.at[index, rows, kv_head], keys, here)
            plgpu.copy_gmem_to_smem(v_ref.at[index, rows, kv_head], values, here)
            if masked:
                plgpu.copy_gmem_to_smem(k_at_ref.at[rows], k_at_smem.at[me], here)
            plgpu.barrier_wait(here)
            shape = (ROWS, ROWS)

            def attend(carry, slot, *, some: bool):
                dk, dv = carry
                plgpu.barrier_wait(ready.at[slot])
                for start in range(0, columns, ROWS):
                    part = pl.ds(start, ROWS)
                    queries, d_outs = q_smem.at[slot, part], d_out_smem.at[slot, part]
                    scores = _product(keys, queries.transpose((1, 0)))
                    if some:
                        at = plgpu.load(q_at_smem.at[slot, part], layout=ALONG_COLUMNS)
                        scores = _mask_scores(
                            scores,
                            _across(at, shape),
                            _down(plgpu.load(k_at_smem.at[me], layout=ALONG_ROWS), shape),
                            mask.causal,
                        )
                    normalizer = plgpu.load(lse_smem.at[slot, part], layout=ALONG_COLUMNS)
                    weights = jnp.exp2(scores * (scale * LOG2E) - _across(normalizer, shape))
                    dv = _accumulate(dv, weights.astype(dtype), d_outs, simulated)
                    d_weights = _product(values, d_outs.transpose((1, 0)))
                    mean = plgpu.load(delta_smem.at[slot, part], layout=ALONG_COLUMNS)
                    d_scores = weights * (d_weights - _across(mean, shape))
                    dk = _accumulate(dk, d_scores.astype(dtype), queries, simulated)
                _release(free.at[slot], True)
                return dk, dv

            def head_gradients(member, carry):
                return _over_work(lists(row)(member), attend, carry, team, stream, masked)

            zeros = tuple(_constant((ROWS, width), 0.0, plgpu.Layout.WGMMA) for _ in range(2))
            (dk, dv), _ = lax.fori_loop(0, group, head_gradients, (zeros, jnp.int32(0)))
            keys[...] = (dk * scale).astype(dtype)
            values[...] = dv.astype(dtype)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(keys, dk_ref.at[index, rows, kv_head])
            plgpu.copy_smem_to_gmem(values, dv_ref.at[index, rows, kv_head])
            plgpu.wait_smem_to_gmem(0)

        _work(team, block, produce, consume)

    buffers = team.streams * team.stages
    return _call(
        kernel,
        (work.shape[2] // team.streams, kv_heads, batch),
        team,
        out_type=(jax.ShapeDtypeStruct(k.shape, dtype), jax.ShapeDtypeStruct(v.shape, dtype)),
        scratch=(
            _tile((team.consumers, ROWS, width), dtype),
            _tile((team.consumers, ROWS, width), dtype),
            plgpu.SMEM((team.consumers, ROWS), jnp.int32),
            _tile((buffers, columns, width), dtype),
            _tile((buffers, columns, width), dtype),
            plgpu.SMEM((buffers, columns), jnp.float32),
            plgpu.SMEM((buffers, columns), jnp.float32),
            plgpu.SMEM((buffers, columns), jnp.int32),
            plgpu.Barrier(num_arrivals=2 + masked, num_barriers=team.consumers),
            plgpu.Barrier(num_arrivals=4 + masked, num_barriers=buffers),
            plgpu.Barrier(num_arrivals=team.parts, num_barriers=buffers),
        ),
        interpret=interpret,
    )(q, k, v, d_out, lse, delta, q_at, k_at, work)


class _Team(NamedTuple):
    """Warpgroups of a thread block: ``parts`` consumers for each of ``streams`` rows of blocks."""

    streams: int
    parts: int
    stages: int

    @property
    def consumers(self) -> int:
        return self.streams * self.parts


def _team(block: int, resident: int, stage: int) -> _Team:
    """Sizes a thread block; bytes a consumer keeps, and bytes of a stage of the pipeline."""
    parts = block // ROWS
    for streams in (2, 1) if parts == 1 else (1,):
        stages = (SHARED_MEMORY - streams * parts * resident) // (streams * stage)
        if stages >= 2:
            break
    return _Team(streams, parts, min(stages, 4))


def _whole_teams(array: Array, block: int, axis: int, team: _Team) -> Array:
    return tiles.pad_tokens(array, block * team.streams, axis=axis)


def _check(q: Array, k: Array, v: Array, mask: BlockMask) -> None:
    reason = unsupported(q, k, v, mask)
    if reason is not None:
        raise ValueError(f"block-sparse attention on GPU: {reason}; use implementation='xla'.")


def _width(q: Array, v: Array) -> int:
    return -(-max(q.shape[-1], v.shape[-1]) // 64) * 64


def _wide(array: Array, width: int) -> Array:
    return jnp.pad(array, ((0, 0), (0, 0), (0, 0), (0, width - array.shape[-1])))


def _tile(shape: tuple[int, ...], dtype: Any) -> Any:
    transforms = (plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128))
    return plgpu.SMEM(shape, dtype, transforms=transforms)


def _constant(shape: tuple[int, ...], value: float, layout: Any) -> Array:
    return plgpu.layout_cast(jnp.full(shape, value, jnp.float32), layout)


def _down(vector: Array, shape: tuple[int, int]) -> Array:
    return lax.broadcast_in_dim(vector, shape, [0])


def _across(vector: Array, shape: tuple[int, int]) -> Array:
    return lax.broadcast_in_dim(vector, shape, [1])


def _product(a: Any, b: Any) -> Array:
    def multiply(acc_ref):
        plgpu.wgmma(acc_ref, a, b)
        return acc_ref[...]

    return pl.run_scoped(multiply, plgpu.ACC((a.shape[0], b.shape[1]), jnp.float32))


def _accumulate(acc: Array, a: Array, b: Any, simulated: bool) -> Array:
    if simulated:  # The simulator knows wgmma only with both operands in shared memory.
        return acc + jnp.dot(a, b[...], preferred_element_type=jnp.float32)
    return pl.run_state(lambda acc_ref: plgpu.wgmma(acc_ref, a, b))(plgpu.ACC.init(acc))


def _release(free: Any, loaded: bool) -> None:
    """Hands a buffer back; plain loads from it must be over before TMA, another proxy, writes."""
    if loaded:
        plgpu.commit_smem()
    plgpu.barrier_arrive(free)


def _mask_scores(scores: Array, q_at: Array, k_at: Array, causal: bool) -> Array:
    allowed = (k_at >= 0) & (q_at >= 0)
    if causal:
        allowed &= k_at <= q_at
    return jnp.where(allowed, scores, -jnp.inf)


def _slot(step: Array, team: _Team, stream: Any) -> Array:
    return stream * team.stages + lax.rem(step, team.stages)


def _stream(lists: Callable, count: int, load: Callable, team: _Team, stream: Any) -> None:
    """Loads every listed block, each as soon as its buffer is free."""

    def one_list(member, step):
        work_row = lists(member)

        def one_block(trip, step):
            slot = _slot(step, team, stream)

            def wait(free):
                pl.when(step >= team.stages)(lambda: plgpu.barrier_wait(free.at[slot]))

            load(work_row[tiles.FIRST + trip], member, slot, wait)
            return step + 1

        return lax.fori_loop(0, work_row[tiles.COUNT], one_block, step)

    lax.fori_loop(0, count, one_list, jnp.int32(0))


def _over_work(
    work_row: Any, attend: Callable, state: Any, team: _Team, stream: Any, masked: bool
) -> Any:
    """Runs ``attend`` on every listed block; ``state`` ends with the number of blocks so far."""

    def step(_, state, *, some):
        carry, trips = state
        return attend(carry, _slot(trips, team, stream), some=some), trips + 1

    whole, count = work_row[tiles.WHOLE], work_row[tiles.COUNT]
    state = lax.fori_loop(0, whole, functools.partial(step, some=False), state)
    if masked:
        state = lax.fori_loop(whole, count, functools.partial(step, some=True), state)
    return state


def _work(team: _Team, block: int, produce: Callable, consume: Callable) -> None:
    warpgroup, first_row = lax.axis_index("warpgroup"), lax.axis_index("row") * team.streams

    @pl.when(warpgroup >= team.consumers)
    def _producer():
        plgpu.set_max_registers(24 if team.streams > 1 else 40, action="decrease")
        stream = warpgroup - team.consumers
        produce(stream, first_row + stream)

    @pl.when(warpgroup < team.consumers)
    def _consumer():
        plgpu.set_max_registers(232, action="increase")
        stream = warpgroup // team.parts
        row = first_row + stream
        rows = pl.ds(row * block + lax.rem(warpgroup, team.parts) * ROWS, ROWS)
        consume(stream, row, rows, warpgroup)


def _call(
    kernel: Callable, grid: tuple[int, ...], team: _Team, *, out_type, scratch, interpret
) -> Callable:
    return plgpu.kernel(
        kernel,
        out_type=out_type,
        scratch_types=scratch,
        grid=grid,
        grid_names=("row", "head", "batch"),
        num_threads=team.consumers + team.streams,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(approx_math=True),
        interpret=plgpu.InterpretGPUParams() if interpret is True else interpret or None,
    )
