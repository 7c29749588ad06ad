"""The forward pass on TPU: online softmax over the listed key blocks of a query block."""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxlab.blocksparse import tiles
from jaxlab.blocksparse.implementation import Keys, Outputs, PerQuery, Queries, Trips, Values
from jaxlab.blocksparse.mask import BlockMask
from jaxlab.blocksparse.mosaic_tpu.grid_step import (
    BY_COLUMNS_OF_BOTH,
    BY_ROWS_OF_BOTH,
    by_head,
    by_token,
    mask_scores,
    multiplier,
    of_row,
    over_work,
    parameters,
    position_rows,
)
from jaxlab.blocksparse.mosaic_tpu.limits import check
from jaxlab.blocksparse.varying import kernel_result


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

    ``interpret`` is True to run on any device as plain JAX operations, or ``pltpu.InterpretParams``
    to simulate the memories and the copies between them.

    Raises:
      ValueError: see ``unsupported``.
    """
    check(q, k, v, mask)
    (batch, q_len, heads, _), value_dim = q.shape, v.shape[-1]
    group = heads // k.shape[2]
    q, scale = tiles.fold_sign(q, scale)
    q = by_head(q, mask.q_block)
    k, v = by_head(k, mask.kv_block), by_head(v, mask.kv_block)
    q_at, k_at = position_rows(mask)
    work = tiles.schedules(mask, batch).by_query[:, :, :, None]
    block, columns, masked = mask.q_block, mask.kv_block, tiles.leaves_out_pairs(mask)
    width, multiply = v.shape[-1], multiplier(q.dtype)

    def kernel(
        work_ref, q_ref, q_at_ref, k_ref, v_ref, k_at_ref,
        out_ref, lse_ref, trips_ref, k_buffer, v_buffer, k_at_buffer, arrived,
    ):  # fmt: skip
        index, kv_head = pl.program_id(0), lax.div(pl.program_id(1), group)
        queries = q_ref[...]

        def sources(listed):
            found = [k_ref.at[index, kv_head, listed], v_ref.at[index, kv_head, listed]]
            return found + [k_at_ref.at[listed]] * masked

        def attend(carry, slot, *, some: bool):
            acc, top, total = carry
            scores = multiply(k_buffer[slot], queries, BY_COLUMNS_OF_BOTH) * scale
            if some:
                scores = mask_scores(scores, q_at_ref[...], k_at_buffer[slot], mask.causal)
            new_top = jnp.maximum(top, scores.max(axis=0, keepdims=True))
            # A query without any key so far has top -inf; -inf minus -inf would be NaN.
            base = jnp.where(new_top == -jnp.inf, 0.0, new_top) if some else new_top
            weights = jnp.exp(scores - base)
            decay = jnp.exp(top - base)
            total = total * decay + weights.sum(axis=0, keepdims=True)
            update = multiply(v_buffer[slot], weights.astype(q.dtype), BY_ROWS_OF_BOTH)
            return acc * decay + update, new_top, total

        (acc, top, total), trips = over_work(
            work_ref.at[0],
            sources,
            (k_buffer, v_buffer, k_at_buffer)[: 2 + masked],
            arrived,
            attend,
            (
                (
                    jnp.zeros((width, block), jnp.float32),
                    jnp.full((1, block), -jnp.inf, jnp.float32),
                    jnp.zeros((1, block), jnp.float32),
                ),
                jnp.int32(0),
            ),
            masked,
        )
        divisor = jnp.where(total > 0, total, 1.0)
        out_ref[...] = (acc / divisor).T.astype(q.dtype)
        lse_ref[...] = jnp.where(total > 0, top + jnp.log(divisor), -jnp.inf)
        trips_ref[0, 0] = trips

    out, lse, trips = pl.pallas_call(
        kernel,
        grid=work.shape[:3],
        in_specs=[
            of_row(work, memory_space=pltpu.SMEM),
            of_row(q),
            pl.BlockSpec((None, 1, block), lambda b, h, r: (r, 0, 0)),
            *[pl.BlockSpec(memory_space=pl.ANY)] * 3,
        ],
        out_specs=[
            pl.BlockSpec((None, None, None, block, width), lambda b, h, r: (b, h, r, 0, 0)),
            pl.BlockSpec((None, None, None, 1, block), lambda b, h, r: (b, h, r, 0, 0)),
            pl.BlockSpec(
                (None, None, None, 1, 1),
                lambda b, h, r: (b, h, r, 0, 0),
                memory_space=pltpu.SMEM,
            ),
        ],
        out_shape=[
            kernel_result((*work.shape[:3], block, width), q.dtype, q),
            kernel_result((*work.shape[:3], 1, block), jnp.float32, q),
            kernel_result((*work.shape[:3], 1, 1), jnp.int32, q),
        ],
        scratch_shapes=[
            pltpu.VMEM((2, columns, k.shape[-1]), k.dtype),
            pltpu.VMEM((2, columns, width), v.dtype),
            pltpu.VMEM((2, 1, columns), jnp.int32),
            pltpu.SemaphoreType.DMA((3, 2)),
        ],
        compiler_params=parameters(),
        interpret=interpret,
    )(work, q, q_at, k, v, k_at)
    lse = lse.reshape(batch, heads, -1)[..., :q_len].swapaxes(1, 2)
    return by_token(out, q_len, value_dim), lse, trips[..., 0, 0]
