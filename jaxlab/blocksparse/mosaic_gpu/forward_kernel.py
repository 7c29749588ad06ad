"""The forward pass on Hopper: online softmax over the listed key blocks of a query block."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxlab.blocksparse import tiles
from jaxlab.blocksparse.implementation import Keys, Outputs, PerQuery, Queries, Trips, Values
from jaxlab.blocksparse.mask import BlockMask
from jaxlab.blocksparse.mosaic_gpu import warpgroups
from jaxlab.blocksparse.mosaic_gpu.limits import check
from jaxlab.blocksparse.mosaic_gpu.warpgroups import LOG2E, row_width, whole_rows


def forward(
    q: Queries,
    k: Keys,
    v: Values,
    mask: BlockMask,
    *,
    scale: float,
    interpret: Any = False,
) -> tuple[Outputs, PerQuery, Trips]:
    """Implements ``Implementation.forward``; the kernel itself counts the trips.

    ``interpret`` is True or ``plgpu.InterpretGPUParams`` to run on the CPU, simulated.

    Raises:
      ValueError: see ``unsupported``.
    """
    check(q, k, v, mask)
    (batch, q_len, heads, _), value_dim = q.shape, v.shape[-1]
    group, width = heads // k.shape[2], row_width(q, v)
    q, scale = tiles.fold_sign(q, scale)
    block, columns, masked = mask.q_block, mask.kv_block, tiles.leaves_out_pairs(mask)
    q, k, v = (whole_rows(a, width) for a in (q, k, v))
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
