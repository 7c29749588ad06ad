"""Block-sparse attention on TPU: Pallas kernels for the Mosaic TPU backend.

A grid step works on one row of blocks. It reads the row's work list from scalar memory and loops
as often as the list says, copying the next listed block from HBM while it multiplies the present
one: a block that is not listed is neither copied nor computed.

Scores are kept transposed, keys down and queries across, so that what belongs to a query (its
maximum, its sum, its log-sum-exp) lies along the lanes.

Source: online softmax and its backward pass as in FlashAttention-2 (Dao, 2023).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int32

from jaxlab.blocksparse import tiles
from jaxlab.blocksparse.mask import BlockMask

LANES = 128
WIDEST = 256
"""Largest block and head size: what is kept of a row fits fast memory."""
ROWS_BY_COLUMNS, BY_COLUMNS_OF_BOTH, BY_ROWS_OF_BOTH = ((1,), (0,)), ((1,), (1,)), ((0,), (0,))
"""Contracted dimensions: ``a b``, ``a b^T`` and ``a^T b``."""


def unsupported(q: Any, k: Any, v: Any, mask: BlockMask) -> str | None:
    """Why these kernels cannot run such inputs, or None when they can.

    Args:
      q: ``[batch, q_len, heads, dim]``; only the shape and type are looked at, here and below.
      k: ``[batch, kv_len, kv_heads, dim]``.
      v: ``[batch, kv_len, kv_heads, value_dim]``.
      mask: which blocks attend.
    """
    if not (q.dtype == k.dtype == v.dtype) or q.dtype not in (jnp.bfloat16, jnp.float32):
        return (
            f"the TPU kernels multiply bfloat16 or float32, got q {q.dtype}, k {k.dtype}, "
            f"v {v.dtype}"
        )
    if max(q.shape[-1], v.shape[-1]) > WIDEST:
        return f"the TPU kernels hold head sizes up to {WIDEST}, got {q.shape[-1]}, {v.shape[-1]}"
    for name, block in (("q_block", mask.q_block), ("kv_block", mask.kv_block)):
        if block % 16 or block > WIDEST:
            return f"the TPU kernels need {name} a multiple of 16 up to {WIDEST}, got {block}"
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
      q: bfloat16 or float32 ``[batch, q_len, heads, dim]``.
      k: same type, ``[batch, kv_len, kv_heads, dim]``; ``heads`` is a multiple of ``kv_heads``.
      v: same type, ``[batch, kv_len, kv_heads, value_dim]``.
      mask: which blocks attend; blocks of a multiple of 16 tokens.
      scale: factor of the scores.
      interpret: True to run on any device as plain JAX operations, or ``pltpu.InterpretParams`` to
        simulate the memories and the copies between them.

    Returns:
      The output, of ``q``'s type, 0 for a query that attends to nothing; the logarithm of the sum
      of exponentials, float32, -inf there; and the trips of every query block's loop, counted by
      the kernel.

    Raises:
      ValueError: see ``unsupported``.
    """
    _check(q, k, v, mask)
    (batch, q_len, heads, _), value_dim = q.shape, v.shape[-1]
    group = heads // k.shape[2]
    q, scale = tiles.fold_sign(q, scale)
    q = _by_head(q, mask.q_block)
    k, v = _by_head(k, mask.kv_block), _by_head(v, mask.kv_block)
    q_at, k_at = _position_rows(mask)
    work = tiles.schedules(mask, batch).by_query[:, :, :, None]
    block, columns, masked = mask.q_block, mask.kv_block, tiles.leaves_out_pairs(mask)
    width, multiply = v.shape[-1], _multiplier(q.dtype)

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
                scores = _mask_scores(scores, q_at_ref[...], k_at_buffer[slot], mask.causal)
            new_top = jnp.maximum(top, scores.max(axis=0, keepdims=True))
            # A query without any key so far has top -inf; -inf minus -inf would be NaN.
            base = jnp.where(new_top == -jnp.inf, 0.0, new_top) if some else new_top
            weights = jnp.exp(scores - base)
            decay = jnp.exp(top - base)
            total = total * decay + weights.sum(axis=0, keepdims=True)
            update = multiply(v_buffer[slot], weights.astype(q.dtype), BY_ROWS_OF_BOTH)
            return acc * decay + update, new_top, total

        (acc, top, total), trips = _over_work(
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
            _of_row(work, memory_space=pltpu.SMEM),
            _of_row(q),
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
            jax.ShapeDtypeStruct((*work.shape[:3], block, width), q.dtype),
            jax.ShapeDtypeStruct((*work.shape[:3], 1, block), jnp.float32),
            jax.ShapeDtypeStruct((*work.shape[:3], 1, 1), jnp.int32),
        ],
        scratch_shapes=[
            pltpu.VMEM((2, columns, k.shape[-1]), k.dtype),
            pltpu.VMEM((2, columns, width), v.dtype),
            pltpu.VMEM((2, 1, columns), jnp.int32),
            pltpu.SemaphoreType.DMA((3, 2)),
        ],
        compiler_params=_parameters(),
        interpret=interpret,
    )(work, q, q_at, k, v, k_at)
    lse = lse.reshape(batch, heads, -1)[..., :q_len].swapaxes(1, 2)
    return _by_token(out, q_len, value_dim), lse, trips[..., 0, 0]


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
    (batch, q_len, _, dim), (kv_len, value_dim) = q.shape, (v.shape[1], v.shape[-1])
    sign = (scale > 0) - (scale < 0)
    q, scale = tiles.fold_sign(q, scale)
    lse, delta = tiles.row_statistics(out, lse, d_out, d_lse, mask.q_block)
    lse, delta = (a.reshape(*a.shape[:2], -1, 1, mask.q_block) for a in (lse, delta))
    lists = tiles.schedules(mask, batch)
    q, d_out = (_by_head(a, mask.q_block) for a in (q, d_out.astype(q.dtype)))
    k, v = (_by_head(a, mask.kv_block) for a in (k, v))
    operands = (q, d_out, lse, delta, k, v, *_position_rows(mask))
    settings = {"scale": scale, "interpret": interpret}
    dq = _query_gradient(operands, lists.by_query, mask, **settings)
    dk, dv = _key_gradients(operands, lists.by_key, mask, **settings)
    return (
        _by_token(dq, q_len, dim) * sign,
        _by_token(dk, kv_len, dim),
        _by_token(dv, kv_len, value_dim),
    )


def _query_gradient(operands, work, mask, *, scale, interpret) -> Array:
    q, d_out, lse, delta, k, v, q_at, k_at = operands
    group, columns, masked = q.shape[1] // k.shape[1], mask.kv_block, tiles.leaves_out_pairs(mask)
    multiply, work = _multiplier(q.dtype), work[:, :, :, None]

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
                scores = _mask_scores(scores, q_at_ref[...], k_at_buffer[slot], mask.causal)
            weights = jnp.exp(scores - lse_ref[...])
            d_weights = multiply(v_buffer[slot], d_outs, BY_COLUMNS_OF_BOTH)
            d_scores = weights * (d_weights - delta_ref[...])
            return dq + multiply(keys, d_scores.astype(q.dtype), BY_ROWS_OF_BOTH)

        dq, _ = _over_work(
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
            _of_row(work, memory_space=pltpu.SMEM),
            *(_of_row(a) for a in (q, d_out, lse, delta)),
            pl.BlockSpec((None, 1, mask.q_block), lambda b, h, r: (r, 0, 0)),
            *[pl.BlockSpec(memory_space=pl.ANY)] * 3,
        ],
        out_specs=_of_row(q),
        out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
        scratch_shapes=[
            pltpu.VMEM((2, columns, k.shape[-1]), k.dtype),
            pltpu.VMEM((2, columns, v.shape[-1]), v.dtype),
            pltpu.VMEM((2, 1, columns), jnp.int32),
            pltpu.SemaphoreType.DMA((3, 2)),
        ],
        compiler_params=_parameters(),
        interpret=interpret,
    )(work, q, d_out, lse, delta, q_at, k, v, k_at)


def _key_gradients(operands, work, mask, *, scale, interpret) -> tuple[Array, Array]:
    q, d_out, lse, delta, k, v, q_at, k_at = operands
    (batch, kv_heads), group = k.shape[:2], q.shape[1] // k.shape[1]
    columns, masked, multiply = mask.q_block, tiles.leaves_out_pairs(mask), _multiplier(q.dtype)
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
                scores = _mask_scores(scores, q_at_buffer[slot], k_at_ref[...], mask.causal)
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
            return _over_work(
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
            _of_row(work, memory_space=pltpu.SMEM),
            *(_of_row(a) for a in (k, v)),
            pl.BlockSpec((None, 1, mask.kv_block), lambda b, h, r: (r, 0, 0)),
            *[pl.BlockSpec(memory_space=pl.ANY)] * 5,
        ],
        out_specs=[_of_row(k), _of_row(v)],
        out_shape=[jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (k, v)],
        scratch_shapes=[
            pltpu.VMEM((2, columns, q.shape[-1]), q.dtype),
            pltpu.VMEM((2, columns, d_out.shape[-1]), d_out.dtype),
            pltpu.VMEM((2, 1, columns), jnp.float32),
            pltpu.VMEM((2, 1, columns), jnp.float32),
            pltpu.VMEM((2, 1, columns), jnp.int32),
            pltpu.SemaphoreType.DMA((5, 2)),
        ],
        compiler_params=_parameters(),
        interpret=interpret,
    )(work, k, v, k_at, q, d_out, lse, delta, q_at)


def _check(q: Array, k: Array, v: Array, mask: BlockMask) -> None:
    reason = unsupported(q, k, v, mask)
    if reason is not None:
        raise ValueError(f"block-sparse attention on TPU: {reason}; use implementation='xla'.")


def _by_head(array: Array, block: int) -> Array:
    """``[batch, heads, blocks, block, dim]``, whole blocks and whole lanes."""
    wide = jnp.pad(array, ((0, 0), (0, 0), (0, 0), (0, -array.shape[-1] % LANES)))
    heads_first = tiles.pad_tokens(wide, block).swapaxes(1, 2)
    return heads_first.reshape(*heads_first.shape[:2], -1, block, wide.shape[-1])


def _by_token(blocks: Array, length: int, dim: int) -> Array:
    tokens = blocks.reshape(*blocks.shape[:2], -1, blocks.shape[-1])
    return tokens[:, :, :length, :dim].swapaxes(1, 2)


def _position_rows(mask: BlockMask) -> tuple[Array, Array]:
    queries, keys = tiles.padded_positions(mask)
    return queries.reshape(-1, 1, mask.q_block), keys.reshape(-1, 1, mask.kv_block)


def _of_row(array: Array, **options: Any) -> pl.BlockSpec:
    """The part of ``[batch, heads, rows, ., .]`` that belongs to a grid step."""
    shape = (None, None, None, *array.shape[3:])
    return pl.BlockSpec(shape, lambda b, h, r: (b, h, r, 0, 0), **options)


def _multiplier(dtype: Any) -> Callable[[Array, Array, Any], Array]:
    exact = lax.Precision.HIGHEST if dtype == jnp.float32 else None

    def multiply(a: Array, b: Array, contracted: Any) -> Array:
        return lax.dot_general(
            a, b, (contracted, ((), ())), precision=exact, preferred_element_type=jnp.float32
        )

    return multiply


def _mask_scores(scores: Array, q_at: Array, k_at: Array, causal: bool) -> Array:
    q_at = jnp.broadcast_to(q_at, scores.shape)
    k_at = jnp.broadcast_to(k_at, scores.shape[::-1]).T
    allowed = (k_at >= 0) & (q_at >= 0)
    if causal:
        allowed &= k_at <= q_at
    return jnp.where(allowed, scores, -jnp.inf)


def _over_work(
    work_row: Any,
    sources: Callable,
    buffers: tuple,
    arrived: Any,
    attend: Callable,
    state: Any,
    masked: bool,
) -> Any:
    """Runs ``attend`` on every listed block; ``state`` ends with the number of blocks so far."""
    whole, count = work_row[tiles.WHOLE], work_row[tiles.COUNT]

    def copies(trip, slot):
        listed = work_row[tiles.FIRST + trip]
        return [
            pltpu.make_async_copy(source, buffer.at[slot], arrived.at[i, slot])
            for i, (source, buffer) in enumerate(zip(sources(listed), buffers, strict=True))
        ]

    def start(trip):
        for copy in copies(trip, lax.rem(trip, 2)):
            copy.start()

    pl.when(count > 0)(lambda: start(jnp.int32(0)))

    def step(trip, state, *, some):
        carry, trips = state
        slot = lax.rem(trip, 2)
        pl.when(trip + 1 < count)(lambda: start(trip + 1))
        for copy in copies(trip, slot):
            copy.wait()
        return attend(carry, slot, some=some), trips + 1

    state = lax.fori_loop(0, whole, functools.partial(step, some=False), state)
    if masked:
        state = lax.fori_loop(whole, count, functools.partial(step, some=True), state)
    return state


def _parameters() -> Any:
    return pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary"))
