"""The backward pass on TPU: one kernel a row of queries for dq, one a row of keys for dk and dv."""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from jaxlab.blocksparse import tiles
from jaxlab.blocksparse.implementation import Keys, Outputs, PerQuery, Queries, Values
from jaxlab.blocksparse.mask import BlockMask
from jaxlab.blocksparse.mosaic_tpu.grid_step import (
    BY_COLUMNS_OF_BOTH,
    BY_ROWS_OF_BOTH,
    ROWS_BY_COLUMNS,
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
    (batch, q_len, _, dim), (kv_len, value_dim) = q.shape, (v.shape[1], v.shape[-1])
    sign = (scale > 0) - (scale < 0)
    q, scale = tiles.fold_sign(q, scale)
    lse, delta = tiles.row_statistics(out, lse, d_out, d_lse, mask.q_block)
    lse, delta = (a.reshape(*a.shape[:2], -1, 1, mask.q_block) for a in (lse, delta))
    lists = tiles.schedules(mask, batch)
    q, d_out = (by_head(a, mask.q_block) for a in (q, d_out.astype(q.dtype)))
    k, v = (by_head(a, mask.kv_block) for a in (k, v))
    operands = (q, d_out, lse, delta, k, v, *position_rows(mask))
    settings = {"scale": scale, "interpret": interpret}
    dq = _query_gradient(operands, lists.by_query, mask, **settings)
    dk, dv = _key_gradients(operands, lists.by_key, mask, **settings)
    return (
        by_token(dq, q_len, dim) * sign,
        by_token(dk, kv_len, dim),
        by_token(dv, kv_len, value_dim),
    )


def _query_gradient(operands, work, mask, *, scale, interpret) -> Array:
    q, d_out, lse, delta, k, v, q_at, k_at = operands
    group, columns, masked = q.shape[1] // k.shape[1], mask.kv_block, tiles.leaves_out_pairs(mask)
    multiply, work = multiplier(q.dtype), work[:, :, :, None]

    def kernel(
        work_ref, q_ref, d_out_ref, lse_ref, delta_ref, q_at_ref, k_ref, v_ref, k_at_ref,
        dq_ref, k_buffer, v_buffer, k_at_buffer, arrived,
    ):  # fmt: skip
        index, kv_head = pl.program_id(0), lax.div(pl.program_id(1), group)
        queries, d_outs = q_ref[...], d_out_ref[...]

        def sources(listed):
            found = [k_ref.at[index, kv_head, listed], v_ref.at[index, kv_head, listed]]
            return found + [k_at_ref.at[listed]] * masked

        def attend(dq, slot, *, some: bool):
            keys = k_buffer[slot]
            scores = multiply(keys, queries, BY_COLUMNS_OF_BOTH) * scale
            if some:
                scores = mask_scores(scores, q_at_ref[...], k_at_buffer[slot], mask.causal)
            weights = jnp.exp(scores - lse_ref[...])
            d_weights = multiply(v_buffer[slot], d_outs, BY_COLUMNS_OF_BOTH)
            d_scores = weights * (d_weights - delta_ref[...])
            return dq + multiply(keys, d_scores.astype(q.dtype), BY_ROWS_OF_BOTH)

        dq, _ = over_work(
            work_ref.at[0],
            sources,
            (k_buffer, v_buffer, k_at_buffer)[: 2 + masked],
            arrived,
            attend,
            (jnp.zeros(q_ref.shape[::-1], jnp.float32), jnp.int32(0)),
            masked,
        )
        dq_ref[...] = (dq * scale).T.astype(q.dtype)

    return pl.pallas_call(
        kernel,
        grid=work.shape[:3],
        in_specs=[
            of_row(work, memory_space=pltpu.SMEM),
            *(of_row(a) for a in (q, d_out, lse, delta)),
            pl.BlockSpec((None, 1, mask.q_block), lambda b, h, r: (r, 0, 0)),
            *[pl.BlockSpec(memory_space=pl.ANY)] * 3,
        ],
        out_specs=of_row(q),
        out_shape=kernel_result(q.shape, q.dtype, q),
        scratch_shapes=[
            pltpu.VMEM((2, columns, k.shape[-1]), k.dtype),
            pltpu.VMEM((2, columns, v.shape[-1]), v.dtype),
            pltpu.VMEM((2, 1, columns), jnp.int32),
            pltpu.SemaphoreType.DMA((3, 2)),
        ],
        compiler_params=parameters(),
        interpret=interpret,
    )(work, q, d_out, lse, delta, q_at, k, v, k_at)


def _key_gradients(operands, work, mask, *, scale, interpret) -> tuple[Array, Array]:
    q, d_out, lse, delta, k, v, q_at, k_at = operands
    (batch, kv_heads), group = k.shape[:2], q.shape[1] // k.shape[1]
    columns, masked, multiply = mask.q_block, tiles.leaves_out_pairs(mask), multiplier(q.dtype)
    work = work.reshape(batch, kv_heads, group, *work.shape[2:]).swapaxes(2, 3)

    def kernel(
        work_ref, k_ref, v_ref, k_at_ref, q_ref, d_out_ref, lse_ref, delta_ref, q_at_ref,
        dk_ref, dv_ref, q_buffer, d_out_buffer, lse_buffer, delta_buffer, q_at_buffer, arrived,
    ):  # fmt: skip
        index, kv_head = pl.program_id(0), pl.program_id(1)
        keys, values = k_ref[...], v_ref[...]

        def attend(carry, slot, *, some: bool):
            dk, dv = carry
            queries, d_outs = q_buffer[slot], d_out_buffer[slot]
            scores = multiply(keys, queries, BY_COLUMNS_OF_BOTH) * scale
            if some:
                scores = mask_scores(scores, q_at_buffer[slot], k_at_ref[...], mask.causal)
            weights = jnp.exp(scores - lse_buffer[slot])
            d_weights = multiply(values, d_outs, BY_COLUMNS_OF_BOTH)
            d_scores = weights * (d_weights - delta_buffer[slot])
            return (
                dk + multiply(d_scores.astype(q.dtype), queries, ROWS_BY_COLUMNS),
                dv + multiply(weights.astype(q.dtype), d_outs, ROWS_BY_COLUMNS),
            )

        def head_gradients(member, state):
            head = kv_head * group + member

            def sources(listed):
                of_head = [
                    r.at[index, head, listed] for r in (q_ref, d_out_ref, lse_ref, delta_ref)
                ]
                return of_head + [q_at_ref.at[listed]] * masked

            buffers = (q_buffer, d_out_buffer, lse_buffer, delta_buffer, q_at_buffer)
            return over_work(
                work_ref.at[member], sources, buffers[: 4 + masked], arrived, attend, state, masked
            )

        zeros = tuple(jnp.zeros(ref.shape, jnp.float32) for ref in (k_ref, v_ref))
        (dk, dv), _ = lax.fori_loop(0, group, head_gradients, (zeros, jnp.int32(0)))
        dk_ref[...] = (dk * scale).astype(k.dtype)
        dv_ref[...] = dv.astype(v.dtype)

    return pl.pallas_call(
        kernel,
        grid=k.shape[:3],
        in_specs=[
            of_row(work, memory_space=pltpu.SMEM),
            *(of_row(a) for a in (k, v)),
            pl.BlockSpec((None, 1, mask.kv_block), lambda b, h, r: (r, 0, 0)),
            *[pl.BlockSpec(memory_space=pl.ANY)] * 5,
        ],
        out_specs=[of_row(k), of_row(v)],
        out_shape=[kernel_result(a.shape, a.dtype, q) for a in (k, v)],
        scratch_shapes=[
            pltpu.VMEM((2, columns, q.shape[-1]), q.dtype),
            pltpu.VMEM((2, columns, d_out.shape[-1]), d_out.dtype),
            pltpu.VMEM((2, 1, columns), jnp.float32),
            pltpu.VMEM((2, 1, columns), jnp.float32),
            pltpu.VMEM((2, 1, columns), jnp.int32),
            pltpu.SemaphoreType.DMA((5, 2)),
        ],
        compiler_params=parameters(),
        interpret=interpret,
    )(work, k, v, k_at, q, d_out, lse, delta, q_at)
