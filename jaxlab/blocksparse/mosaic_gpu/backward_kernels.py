"""The backward pass on Hopper: one kernel a row of queries for dq, one a row of keys for dk, dv."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from jaxlab.blocksparse import tiles
from jaxlab.blocksparse.implementation import Keys, Outputs, PerQuery, Queries, Values
from jaxlab.blocksparse.mask import BlockMask
from jaxlab.blocksparse.mosaic_gpu import warpgroups
from jaxlab.blocksparse.mosaic_gpu.limits import check
from jaxlab.blocksparse.mosaic_gpu.warpgroups import LOG2E, row_width, whole_rows


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
    interpret: Any = False,
) -> tuple[Queries, Keys, Values]:
    """Implements ``Implementation.backward``; ``interpret`` as in ``forward``.

    Raises:
      ValueError: see ``unsupported``.
    """
    check(q, k, v, mask)
    batch, q_len, heads, dim = q.shape
    (kv_len, kv_heads), value_dim, width = k.shape[1:3], v.shape[-1], row_width(q, v)
    sign = (scale > 0) - (scale < 0)
    q, scale = tiles.fold_sign(q, scale)
    lse, delta = tiles.row_statistics(out, lse, d_out, d_lse, mask.q_block)
    lists = tiles.schedules(mask, batch)
    q, k, v, d_out = (whole_rows(a, width) for a in (q, k, v, d_out.astype(q.dtype)))
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
