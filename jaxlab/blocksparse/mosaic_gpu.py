"""Block-sparse attention on NVIDIA Hopper: Pallas kernels for the Mosaic GPU backend.

One thread block a row of blocks. A producer warpgroup reads the row's work list and streams the
listed blocks into shared memory by TMA, as far ahead as there are buffers; one consumer warpgroup
for every 64 rows multiplies them with wgmma. Both loop as often as the list says: a block that is
not listed is neither loaded nor computed.

Source: online softmax and its backward pass as in FlashAttention-2 (Dao, 2023); producer and
consumer warpgroups as in FlashAttention-3 (Shah et al., 2024).
"""

import functools
import math
from collections.abc import Callable
from typing import Any

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
LOG2E = math.log2(math.e)
SHARED_MEMORY = 200 * 1024
"""Bytes of shared memory for buffers; a Hopper thread block has 227 KiB."""
ROW_VECTOR = plgpu.Layout.WGMMA.reduce(1)
COLUMN_VECTOR = plgpu.Layout.WGMMA.reduce(0)


def unsupported(
    q: Float[Array, "batch q_len heads dim"],
    k: Float[Array, "batch kv_len kv_heads dim"],
    v: Float[Array, "batch kv_len kv_heads dim"],
    mask: BlockMask,
) -> str | None:
    """Why these kernels cannot run such inputs, or None when they can; looks at shapes only."""
    if not (q.dtype == k.dtype == v.dtype) or q.dtype not in (jnp.bfloat16, jnp.float16):
        return (
            f"the Hopper kernels multiply bfloat16 or float16, got q {q.dtype}, k {k.dtype}, "
            f"v {v.dtype}"
        )
    if q.shape[-1] > 128:
        return f"the Hopper kernels hold head sizes up to 128, got {q.shape[-1]}"
    for name, block in (("q_block", mask.q_block), ("kv_block", mask.kv_block)):
        if block not in (64, 128):
            return f"the Hopper kernels need {name} 64 or 128, got {block}"
    return None


def forward(
    q: Float[Array, "batch q_len heads dim"],
    k: Float[Array, "batch kv_len kv_heads dim"],
    v: Float[Array, "batch kv_len kv_heads dim"],
    mask: BlockMask,
    *,
    scale: float,
    interpret: Any = False,
) -> tuple[
    Float[Array, "batch q_len heads dim"],
    Float[Array, "batch q_len heads"],
    Int32[Array, "batch heads q_blocks"],
]:
    """Attends over the active blocks.

    Args:
      q: bfloat16 or float16 ``[batch, q_len, heads, dim]``.
      k: same type, ``[batch, kv_len, kv_heads, dim]``; ``heads`` is a multiple of ``kv_heads``.
      v: like ``k``.
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
    batch, q_len, heads, dim = q.shape
    q, scale = tiles.fold_sign(q, scale)
    q = _pad(q, mask.q_block)
    k, v = _pad(k, mask.kv_block), _pad(v, mask.kv_block)
    work = tiles.schedules(mask, batch).by_query
    positions = tiles.padded_positions(mask)
    block, columns, width = mask.q_block, mask.kv_block, q.shape[-1]
    masked = tiles.leaves_out_pairs(mask)
    consumers = block // ROWS
    stages = _stages(2 * columns * width * q.dtype.itemsize, block * width * q.dtype.itemsize)
    group = heads // k.shape[2]
    factor = scale * LOG2E

    def kernel(
        q_ref, k_ref, v_ref, q_at, k_at, work_ref, out_ref, lse_ref, trips_ref,
        q_smem, k_smem, v_smem, lse_smem, q_at_smem, k_at_smem,
        q_ready, k_ready, v_ready, k_free, v_free,
    ):  # fmt: skip
        row, head, index = (lax.axis_index(a) for a in ("row", "head", "batch"))
        warpgroup = lax.axis_index("warpgroup")
        work_row = work_ref.at[index, head, row]
        count = work_row[tiles.COUNT]

        @pl.when(warpgroup == consumers)
        def _produce():
            plgpu.set_max_registers(40, action="decrease")

            def load(trip, _):
                here = pl.ds(work_row[tiles.FIRST + trip] * columns, columns)
                slot = lax.rem(trip, stages)
                pl.when(trip >= stages)(lambda: plgpu.barrier_wait(k_free.at[slot]))
                source = (index, here, head // group)
                plgpu.copy_gmem_to_smem(k_ref.at[source], k_smem.at[slot], k_ready.at[slot])
                if masked:
                    plgpu.copy_gmem_to_smem(k_at.at[here], k_at_smem.at[slot], k_ready.at[slot])
                pl.when(trip >= stages)(lambda: plgpu.barrier_wait(v_free.at[slot]))
                plgpu.copy_gmem_to_smem(v_ref.at[source], v_smem.at[slot], v_ready.at[slot])
                return _

            lax.fori_loop(0, count, load, None)

        @pl.when(warpgroup < consumers)
        def _consume():
            plgpu.set_max_registers(232, action="increase")
            rows = pl.ds(row * block + warpgroup * ROWS, ROWS)
            queries, ready = q_smem.at[warpgroup], q_ready.at[warpgroup]
            plgpu.copy_gmem_to_smem(q_ref.at[index, rows, head], queries, ready)
            if masked:
                plgpu.copy_gmem_to_smem(q_at.at[rows], q_at_smem.at[warpgroup], ready)
            plgpu.barrier_wait(ready)

            def attend(trip, carry, *, some: bool):
                acc, top, total, trips = carry
                slot = lax.rem(trip, stages)
                plgpu.barrier_wait(k_ready.at[slot])
                scores = _product(queries, k_smem.at[slot].transpose((1, 0)))
                if some:
                    scores = _mask_scores(
                        scores,
                        plgpu.load(q_at_smem.at[warpgroup], layout=ROW_VECTOR),
                        plgpu.load(k_at_smem.at[slot], layout=COLUMN_VECTOR),
                        mask.causal,
                    )
                plgpu.barrier_arrive(k_free.at[slot])
                new_top = jnp.maximum(top, scores.max(axis=1) * factor)
                # A row without any key so far has top -inf; -inf minus -inf would be NaN.
                base = jnp.where(new_top == -jnp.inf, 0.0, new_top) if some else new_top
                weights = jnp.exp2(scores * factor - _rows(base, columns))
                decay = jnp.exp2(top - base)
                total = total * decay + weights.sum(axis=1)
                plgpu.barrier_wait(v_ready.at[slot])
                update = _product(
                    weights.astype(q.dtype), v_smem.at[slot], simulated=bool(interpret)
                )
                plgpu.barrier_arrive(v_free.at[slot])
                return acc * _rows(decay, width) + update, new_top, total, trips + 1

            acc, top, total, trips = _over_work(
                work_row,
                attend,
                (
                    _constant((ROWS, width), 0.0, plgpu.Layout.WGMMA),
                    _constant((ROWS,), -jnp.inf, ROW_VECTOR),
                    _constant((ROWS,), 0.0, ROW_VECTOR),
                    jnp.int32(0),
                ),
                masked,
            )
            some_key = total > 0
            divisor = jnp.where(some_key, total, 1.0)
            queries[...] = (acc / _rows(divisor, width)).astype(q.dtype)
            lse_smem.at[warpgroup][...] = jnp.where(
                some_key, top / LOG2E + jnp.log(divisor), -jnp.inf
            )
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(queries, out_ref.at[index, rows, head])
            plgpu.copy_smem_to_gmem(lse_smem.at[warpgroup], lse_ref.at[index, head, rows])
            plgpu.wait_smem_to_gmem(0)

            @pl.when(warpgroup == 0)
            def _report():
                trips_ref[index, head, row] = trips

    out, lse, trips = _call(
        kernel,
        (work.shape[2], heads, batch),
        consumers,
        out_type=(
            jax.ShapeDtypeStruct(q.shape, q.dtype),
            jax.ShapeDtypeStruct((batch, heads, q.shape[1]), jnp.float32),
            jax.ShapeDtypeStruct(work.shape[:3], jnp.int32),
        ),
        scratch=(
            _tile((consumers, ROWS, width), q.dtype),
            _tile((stages, columns, width), q.dtype),
            _tile((stages, columns, width), q.dtype),
            plgpu.SMEM((consumers, ROWS), jnp.float32),
            plgpu.SMEM((consumers, ROWS), jnp.int32),
            plgpu.SMEM((stages, columns), jnp.int32),
            plgpu.Barrier(num_arrivals=1 + masked, num_barriers=consumers),
            plgpu.Barrier(num_arrivals=1 + masked, num_barriers=stages),
            plgpu.Barrier(num_barriers=stages),
            plgpu.Barrier(num_arrivals=consumers, num_barriers=stages),
            plgpu.Barrier(num_arrivals=consumers, num_barriers=stages),
        ),
        interpret=interpret,
    )(q, k, v, *positions, work)
    return out[:, :q_len, :, :dim], lse[..., :q_len].swapaxes(1, 2), trips


def _check(q: Array, k: Array, v: Array, mask: BlockMask) -> None:
    reason = unsupported(q, k, v, mask)
    if reason is not None:
        raise ValueError(f"block-sparse attention on GPU: {reason}; use implementation='xla'.")


def _pad(array: Array, block: int) -> Array:
    wide = jnp.pad(array, ((0, 0), (0, 0), (0, 0), (0, -array.shape[-1] % 64)))
    return tiles.pad_tokens(wide, block)


def _stages(bytes_a_stage: int, bytes_resident: int) -> int:
    return max(2, min(4, (SHARED_MEMORY - bytes_resident) // bytes_a_stage))


def _tile(shape: tuple[int, ...], dtype: Any) -> Any:
    transforms = (plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128))
    return plgpu.SMEM(shape, dtype, transforms=transforms)


def _constant(shape: tuple[int, ...], value: float, layout: Any) -> Array:
    return plgpu.layout_cast(jnp.full(shape, value, jnp.float32), layout)


def _rows(vector: Array, columns: int) -> Array:
    return lax.broadcast_in_dim(vector, (vector.shape[0], columns), [0])


def _columns(vector: Array, rows: int) -> Array:
    return lax.broadcast_in_dim(vector, (rows, vector.shape[0]), [1])


def _product(a: Any, b: Any, *, simulated: bool = False) -> Array:
    if simulated:  # The simulator knows wgmma with both operands in shared memory only.
        return jnp.dot(a, b[...], preferred_element_type=jnp.float32)

    def multiply(acc_ref):
        plgpu.wgmma(acc_ref, a, b)
        return acc_ref[...]

    return pl.run_scoped(multiply, plgpu.ACC((a.shape[0], b.shape[1]), jnp.float32))


def _mask_scores(scores: Array, q_at: Array, k_at: Array, causal: bool) -> Array:
    q_at, k_at = _rows(q_at, scores.shape[1]), _columns(k_at, scores.shape[0])
    allowed = (k_at >= 0) & (q_at >= 0)
    if causal:
        allowed &= k_at <= q_at
    return jnp.where(allowed, scores, -jnp.inf)


def _over_work(work_row: Any, step: Callable, carry: Any, masked: bool) -> Any:
    whole, count = work_row[tiles.WHOLE], work_row[tiles.COUNT]
    carry = lax.fori_loop(0, whole, functools.partial(step, some=False), carry)
    if not masked:
        return carry
    return lax.fori_loop(whole, count, functools.partial(step, some=True), carry)


def _call(
    kernel: Callable, grid: tuple[int, ...], consumers: int, *, out_type, scratch, interpret
) -> Callable:
    return plgpu.kernel(
        kernel,
        out_type=out_type,
        scratch_types=scratch,
        grid=grid,
        grid_names=("row", "head", "batch"),
        num_threads=consumers + 1,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(approx_math=True),
        interpret=plgpu.InterpretGPUParams() if interpret is True else interpret or None,
    )
