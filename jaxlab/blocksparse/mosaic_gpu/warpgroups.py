"""A thread block of a Hopper kernel: who loads, who multiplies, and how they wait for each other.

Producer warpgroups fill a ring of shared-memory buffers by TMA; consumer warpgroups wait until a
buffer is ready, multiply with wgmma, and hand it back.
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
from jaxtyping import Array

from jaxlab.blocksparse import tiles
from jaxlab.blocksparse.varying import vary, varying_axes

ROWS = 64
"""Rows of a wgmma product, hence of a consumer warpgroup."""
SHARED_MEMORY = 200 * 1024
"""Bytes of shared memory for buffers; a Hopper thread block has 227 KiB."""
LOG2E = math.log2(math.e)
"""Exponentials are powers of two here, the device's own."""
ALONG_ROWS = plgpu.Layout.WGMMA.reduce(1)
ALONG_COLUMNS = plgpu.Layout.WGMMA.reduce(0)


class Team(NamedTuple):
    """Warpgroups of a thread block: ``parts`` consumers for each of ``streams`` rows of blocks."""

    streams: int
    parts: int
    stages: int

    @property
    def consumers(self) -> int:
        """Warpgroups that multiply."""
        return self.streams * self.parts


def plan_team(block: int, resident: int, stage: int) -> Team:
    """Sizes a thread block; bytes a consumer keeps, and bytes of a stage of the pipeline."""
    parts = block // ROWS

    def stages(streams: int) -> int:
        return (SHARED_MEMORY - streams * parts * resident) // (streams * stage)

    streams = 2 if parts == 1 and stages(2) >= 2 else 1
    return Team(streams, parts, min(stages(streams), 4))


def whole_teams(array: Array, block: int, axis: int, team: Team) -> Array:
    """Fills an axis in blocks of ``block`` up to whole thread blocks."""
    return tiles.pad_tokens(array, block * team.streams, axis=axis)


def row_width(q: Array, v: Array) -> int:
    """Head size of all matrices: the larger of both, filled up to what a tile holds."""
    return -(-max(q.shape[-1], v.shape[-1]) // 64) * 64


def whole_rows(array: Array, width: int) -> Array:
    """Fills the head size, the last axis, up to the width."""
    return jnp.pad(array, ((0, 0), (0, 0), (0, 0), (0, width - array.shape[-1])))


def tile(shape: tuple[int, ...], dtype: Any) -> Any:
    """Shared memory for matrices, laid out as TMA writes and wgmma reads without conflicts."""
    tiling = plgpu.TilingTransform((8, 64))  # pyright: ignore[reportAbstractUsage]
    swizzle = plgpu.SwizzleTransform(128)  # pyright: ignore[reportAbstractUsage]
    return plgpu.SMEM(shape, dtype, transforms=(tiling, swizzle))


def constant(shape: tuple[int, ...], value: float, layout: Any) -> Array:
    """A float32 constant in registers."""
    return plgpu.layout_cast(jnp.full(shape, value, jnp.float32), layout)


def down(vector: Array, shape: tuple[int, ...]) -> Array:
    """Repeats a value a row along the columns."""
    return lax.broadcast_in_dim(vector, shape, [0])


def across(vector: Array, shape: tuple[int, ...]) -> Array:
    """Repeats a value a column along the rows."""
    return lax.broadcast_in_dim(vector, shape, [1])


def product(a: Any, b: Any) -> Array:
    """``a @ b`` of two matrices in shared memory, float32."""

    def multiply(acc_ref):
        plgpu.wgmma(acc_ref, a, b)
        return acc_ref[...]

    return pl.run_scoped(multiply, plgpu.WGMMAAccumulatorRef((a.shape[0], b.shape[1]), jnp.float32))


def accumulate(acc: Array, a: Array, b: Any, simulated: bool) -> Any:
    """``acc + a @ b`` with ``a`` in registers and ``b`` in shared memory."""
    if simulated:  # The simulator knows wgmma only with both operands in shared memory.
        return acc + jnp.dot(a, b[...], preferred_element_type=jnp.float32)
    return pl.run_state(lambda acc_ref: plgpu.wgmma(acc_ref, a, b))(
        plgpu.WGMMAAccumulatorRef.init(acc)
    )


def release(free: Any, loaded: bool) -> None:
    """Hands a buffer back; plain loads from it must be over before TMA, another proxy, writes."""
    if loaded:
        plgpu.commit_smem()
    plgpu.barrier_arrive(free)


def mask_scores(scores: Array, q_at: Array, k_at: Array, causal: bool) -> Array:
    """Puts -inf where a query and a key do not attend; positions of the scores' shape."""
    allowed = (k_at >= 0) & (q_at >= 0)
    if causal:
        allowed &= k_at <= q_at
    return jnp.where(allowed, scores, -jnp.inf)


def _slot(step: Array, team: Team, stream: Any) -> Array:
    return stream * team.stages + lax.rem(step, team.stages)


def stream_blocks(
    lists: Callable, count: int, load: Callable, frees: tuple, team: Team, stream: Any
) -> None:
    """Loads every listed block, each as soon as its buffer is free.

    Args:
      lists: gives the work list of each of ``count`` members.
      count: how many lists follow one another.
      load: ``load(block, member, slot, wait)`` starts the copies of a block into buffer ``slot``;
        it calls ``wait(free)`` before it overwrites what the barriers ``free`` guard.
      frees: all barriers that consumers hand buffers back with.
      team: the thread block.
      stream: which of the thread block's rows.
    """

    def one_list(member, step):
        work_row = lists(member)

        def one_block(trip, step):
            slot = _slot(step, team, stream)

            def wait(free):
                pl.when(step >= team.stages)(lambda: plgpu.barrier_wait(free.at[slot]))

            load(work_row[tiles.FIRST + trip], member, slot, wait)
            return step + 1

        return lax.fori_loop(0, work_row[tiles.COUNT], one_block, step)

    steps = lax.fori_loop(0, count, one_list, jnp.int32(0))

    # A thread that waits on a barrier has to see each of its completions, the last ones too.
    @pl.loop(jnp.maximum(steps - team.stages, 0), steps)
    def _drain(step):
        for free in frees:
            plgpu.barrier_wait(free.at[_slot(step, team, stream)])


def over_work(
    work_row: Any, attend: Callable, state: Any, team: Team, stream: Any, masked: bool
) -> Any:
    """Runs ``attend`` on every listed block; ``state`` ends with the number of blocks so far."""

    def step(_, state, *, some):
        carry, trips = state
        return attend(carry, _slot(trips, team, stream), some=some), trips + 1

    whole, count = work_row[tiles.WHOLE], work_row[tiles.COUNT]
    state = lax.fori_loop(0, whole, functools.partial(step, some=False), state)
    if masked:
        # From 0: under shard_map a loop may not start at what was loaded from memory.
        state = lax.fori_loop(0, count - whole, functools.partial(step, some=True), state)
    return state


def divide_work(team: Team, block: int, produce: Callable, consume: Callable) -> None:
    """Runs ``produce(stream, row)`` and ``consume(stream, row, token rows, consumer)``."""
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


def hopper_call(
    kernel: Callable, grid: tuple[int, ...], team: Team, *, out_type, scratch, interpret
) -> Callable:
    """A kernel over the grid (thread blocks' rows, heads, batch)."""
    call = plgpu.kernel(
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

    def varying_call(*operands: Array) -> Any:
        axes = varying_axes(*operands)  # which the kernel's results do not say of themselves
        return jax.tree.map(lambda result: vary(result, axes), call(*operands))

    return varying_call
