"""Block-sparse attention as a differentiable function of q, k and v.

Largest error against float64 of "reference" and "xla" on CPU, inputs rounded to each dtype first,
512 normal tokens, head size 64, 4 in 10 blocks of 64x64 active, results of order 1:

========  =======  =======  =========
dtype     out      lse      gradients
========  =======  =======  =========
bfloat16  1.9e-03  4.4e-07  2.7e-03
float16   2.2e-04  4.8e-07  4.8e-04
float32   6.9e-07  4.8e-07  1.7e-06
float64   1.0e-15  8.9e-16  1.3e-15
========  =======  =======  =========

On GPUs XLA multiplies float32 in TF32 (errors of 5e-4, gradients 5e-3) unless
``jax_default_matmul_precision`` says otherwise.
"""

import dataclasses
import functools
import math
import numbers
from collections.abc import Callable
from typing import Any, Literal, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float

from jaxlab.blocksparse.implementation import Implementation, Kernels
from jaxlab.blocksparse.mask import BlockMask
from jaxlab.blocksparse.varying import vary, varying_axes

IMPLEMENTATIONS = ("reference", "xla", "pallas")
_DTYPES = tuple(map(jnp.dtype, ("bfloat16", "float16", "float32", "float64")))


def block_sparse_attention(
    q: Float[Array, "batch q_len heads dim"] | Float[np.ndarray, "batch q_len heads dim"],
    k: Float[Array, "batch kv_len kv_heads dim"] | Float[np.ndarray, "batch kv_len kv_heads dim"],
    v: Float[Array, "batch kv_len kv_heads value_dim"]
    | Float[np.ndarray, "batch kv_len kv_heads value_dim"],
    mask: BlockMask,
    *,
    scale: float | None = None,
    return_lse: bool = False,
    return_trips: bool = False,
    implementation: Literal["reference", "xla", "pallas"] | None = None,
) -> Float[Array, "batch q_len heads value_dim"] | tuple[Array, ...]:
    """Softmax attention over the active blocks of a mask; inactive blocks are skipped.

    ``out = softmax(scale * q k^T)  v`` over the token pairs that ``mask`` allows. Differentiable
    once, in reverse mode, in q, k and v through both ``out`` and ``lse``, so that partial results
    of a ring can be merged. Works under jit, grad, vmap (the mapped axis joins the batch; mapped
    positions run one after another) and shard_map (each device runs the trips its own mask asks
    for; kernels that are interpreted need ``check_vma=False``).

    What padding tokens (of negative position) hold does not matter, nor do cotangents of queries
    that attend to nothing. Other tokens must be finite, and so must the scores: a NaN among keys or
    values reaches every query whose active blocks hold it, one that causality hides included, and
    products that overflow the accumulator give NaN.

    Args:
      q: float ``[batch, q_len, heads, dim]``, queries.
      k: the same dtype, ``[batch, kv_len, kv_heads, dim]``, keys; ``kv_heads`` divides ``heads``
        and query head ``h`` reads key head ``h // (heads // kv_heads)``.
      v: the same dtype, ``[batch, kv_len, kv_heads, value_dim]``, values.
      mask: blocks ``[heads, q_blocks, kv_blocks]`` or with a leading ``batch`` or 1. New blocks of
        the same shape do not recompile.
      scale: factor on the scores, by default ``dim ** -0.5``.
      return_lse: also return the log of each query's softmax denominator.
      return_trips: also return how many key blocks were computed for each row of blocks.
      implementation: ``"reference"`` (dense, then masked), ``"xla"`` (loops whose trip counts
        follow the mask), ``"pallas"`` (kernels for GPU and TPU, interpreted elsewhere), or None for
        the best that runs here. Products of float32 are as precise as jax makes them: on GPU and
        TPU that is TF32 or bfloat16 unless you call inside
        ``jax.default_matmul_precision("highest")``.

    Returns:
      ``out`` of q's dtype, ``[batch, q_len, heads, value_dim]``; queries that attend to nothing
      and padding queries give 0. Then, as asked for, ``lse`` float32 (float64 for float64 inputs)
      ``[batch, q_len, heads]``, -inf where ``out`` is 0 for that reason, and ``trips`` int32
      ``[batch, heads, q_blocks]``, blocks an implementation computes for its own convenience
      included.

    Raises:
      TypeError: an argument is of the wrong kind or dtype.
      ValueError: shapes disagree, or ``implementation`` is unknown or cannot run here.

    Example:
      >>> import jax, numpy as np
      >>> q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 250, 2, 16))
      >>> blocks = np.broadcast_to(np.tri(4, 4, dtype=bool), (2, 4, 4))
      >>> mask = BlockMask(blocks, 64, 64, q_len=250, kv_len=250, causal=True)
      >>> out, lse = block_sparse_attention(q, k, v, mask, return_lse=True)
      >>> out.shape, lse.shape
      ((1, 250, 2, 16), (1, 250, 2))
    """
    rule = "block_sparse_attention"
    _check_arrays(rule, q, k, v)
    _check_mask(rule, mask, q, k)
    factor = _factor(rule, scale, q.shape[-1])
    q, k, v = jnp.asarray(q), jnp.asarray(k), jnp.asarray(v)
    backend = _backend(rule, implementation, q, k, v, mask)
    mask = _with_batch(mask)
    axes = varying_axes(q, k, v, *jax.tree.leaves(mask))
    q, k, v, mask = jax.tree.map(lambda x: vary(x, axes), (q, k, v, mask))
    out, lse, trips = _attend_jit(backend, factor, q, k, v, mask)
    results = (out, *((lse,) if return_lse else ()), *((trips,) if return_trips else ()))
    return results if len(results) > 1 else out


def block_sparse_gradients(
    q: Float[Array, "batch q_len heads dim"] | Float[np.ndarray, "batch q_len heads dim"],
    k: Float[Array, "batch kv_len kv_heads dim"] | Float[np.ndarray, "batch kv_len kv_heads dim"],
    v: Float[Array, "batch kv_len kv_heads value_dim"]
    | Float[np.ndarray, "batch kv_len kv_heads value_dim"],
    mask: BlockMask,
    out: Float[Array, "batch q_len heads value_dim"]
    | Float[np.ndarray, "batch q_len heads value_dim"],
    lse: Float[Array, "batch q_len heads"] | Float[np.ndarray, "batch q_len heads"],
    d_out: Float[Array, "batch q_len heads value_dim"]
    | Float[np.ndarray, "batch q_len heads value_dim"],
    *,
    scale: float | None = None,
    implementation: Literal["reference", "xla", "pallas"] | None = None,
) -> tuple[Array, Array, Array]:
    """The part that some of the keys have in the gradients of attention over all of them.

    For backward passes that see the keys piece by piece, such as a ring: ``out`` and ``lse`` are
    those of the whole, so that ``exp(scores - lse)`` are the true probabilities, and the ``dq`` of
    all pieces add up.

    Args:
      q: as in ``block_sparse_attention``.
      k: some of the keys, likewise.
      v: their values.
      mask: which blocks of these keys attend.
      out: attention over all keys.
      lse: its log denominators, float32 or wider.
      d_out: cotangent of ``out``.
      scale: as in ``block_sparse_attention``.
      implementation: as in ``block_sparse_attention``.

    Returns:
      ``dq``, ``dk``, ``dv``, each of its input's shape and dtype.

    Raises:
      TypeError: as ``block_sparse_attention``, for ``out``, ``lse`` and ``d_out`` too.
      ValueError: likewise.
    """
    rule = "block_sparse_gradients"
    _check_arrays(rule, q, k, v)
    _check_mask(rule, mask, q, k)
    _check_results(rule, q, v, out, lse, d_out)
    factor = _factor(rule, scale, q.shape[-1])
    backend = _backend(rule, implementation, q, k, v, mask)
    q, k, v, out, lse, d_out = map(jnp.asarray, (q, k, v, out, lse, d_out))
    mask = _with_batch(mask)
    axes = varying_axes(q, k, v, out, lse, d_out, *jax.tree.leaves(mask))
    varied = jax.tree.map(lambda x: vary(x, axes), (q, k, v, mask, out, lse, d_out))
    *residuals, d_out = varied
    cotangents = (d_out, jnp.zeros_like(residuals[-1]), None)
    return _backward_jit(backend, factor, tuple(residuals), cotangents)[:3]


def _check_arrays(rule: str, q: Any, k: Any, v: Any) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, jax.Array | np.ndarray):
            raise TypeError(f"{rule}: {name} must be an array, got {type(x)}.")
        if x.dtype not in _DTYPES:
            raise TypeError(
                f"{rule}: {name} must be floating point of 16 to 64 bits, got {x.dtype}; "
                f"cast it, for example `{name}.astype('float32')`."
            )
        if x.ndim != 4 or 0 in x.shape:
            raise ValueError(
                f"{rule}: {name} has shape {x.shape}, expected four nonempty "
                "dimensions [batch, seq, heads, dim]."
            )
    if not q.dtype == k.dtype == v.dtype:
        raise TypeError(
            f"{rule}: q, k and v have dtypes {q.dtype}, {k.dtype} and {v.dtype}; cast them to one."
        )
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise ValueError(
            f"{rule}: q {q.shape} and k {k.shape} differ in batch or dim "
            "([batch, seq, heads, dim])."
        )
    if k.shape[:3] != v.shape[:3]:
        raise ValueError(
            f"{rule}: k {k.shape} and v {v.shape} may differ only in dim "
            "([batch, seq, heads, dim])."
        )
    if q.shape[2] % k.shape[2]:
        raise ValueError(
            f"{rule}: {q.shape[2]} heads of q are no multiple of the {k.shape[2]} heads of k and v."
        )


def _check_results(rule: str, q: Any, v: Any, out: Any, lse: Any, d_out: Any) -> None:
    """Refuses results that are not of this attention; broadcast, they would give other numbers."""
    per_query = q.shape[:3]
    whole = (*per_query, v.shape[3])
    for name, x, shape, meaning in (
        ("out", out, whole, "[batch, q_len, heads, value_dim]"),
        ("lse", lse, per_query, "[batch, q_len, heads]"),
        ("d_out", d_out, whole, "[batch, q_len, heads, value_dim]"),
    ):
        if not isinstance(x, jax.Array | np.ndarray):
            raise TypeError(f"{rule}: {name} must be an array, got {type(x)}.")
        if x.dtype not in _DTYPES:
            raise TypeError(f"{rule}: {name} must be floating point, got {x.dtype}.")
        if x.shape != shape:
            swapped = x.ndim == len(shape) and (x.shape[0], x.shape[2], x.shape[1]) == per_query
            remedy = f"; swap its axes 1 and 2: `{name}.swapaxes(1, 2)`" if swapped else ""
            raise ValueError(
                f"{rule}: {name} has shape {x.shape}, expected {shape}, {meaning}{remedy}."
            )
    if jnp.finfo(lse.dtype).bits < 32:
        raise TypeError(
            f"{rule}: lse must be float32 or wider, got {lse.dtype}; it is exponentiated, so take "
            "it as `return_lse=True` gives it."
        )


def _factor(rule: str, scale: Any, dim: int) -> float:
    if scale is None:
        return dim**-0.5
    if isinstance(scale, bool) or not isinstance(scale, numbers.Real):
        raise TypeError(
            f"{rule}: scale must be a number known before compilation, got "
            f"{scale!r}; multiply q by a traced scale and pass scale=1.0."
        )
    if not math.isfinite(scale):
        raise ValueError(f"{rule}: scale must be finite, got {scale!r}.")
    return float(scale)


def _check_mask(rule: str, mask: Any, q: Any, k: Any) -> None:
    if not isinstance(mask, BlockMask):
        raise TypeError(
            f"{rule}: mask must be a BlockMask, got {type(mask).__name__}; "
            "BlockMask.from_tokens makes one from a token mask."
        )
    mask.validate()
    if (mask.q_len, mask.kv_len) != (q.shape[1], k.shape[1]):
        raise ValueError(
            f"{rule}: mask is for {mask.q_len} queries and {mask.kv_len} keys, "
            f"but q has {q.shape[1]} and k has {k.shape[1]}."
        )
    if mask.heads != q.shape[2]:
        raise ValueError(
            f"{rule}: mask has {mask.heads} heads, but q has {q.shape[2]}; "
            "repeat mask.blocks over heads if they share one pattern."
        )
    batch = mask.blocks.shape[:-3]
    if batch not in ((), (1,), (q.shape[0],)):
        raise ValueError(
            f"{rule}: mask has batch {batch}, which does not broadcast to the "
            f"batch of q, {q.shape[0]}."
        )


def _backend(rule: str, implementation: Any, q: Any, k: Any, v: Any, mask: BlockMask) -> str:
    """Name of the module that runs such inputs here."""
    if implementation is not None and implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"{rule}: implementation must be None or one of {IMPLEMENTATIONS}, got "
            f"{implementation!r}."
        )
    platform = jax.default_backend()
    kernels = "mosaic_gpu" if platform == "gpu" else "mosaic_tpu"
    if implementation in ("reference", "xla"):
        return implementation
    if implementation is None and platform not in ("gpu", "tpu"):
        return "xla"
    try:
        reason = _kernels(kernels).unsupported(q, k, v, mask) or _missing_hardware(platform)
    except ImportError as error:
        reason = str(error)
    if reason is None:
        return kernels
    if implementation is None:
        return "xla"
    raise ValueError(
        f"{rule}: implementation='pallas' cannot run on {platform!r}: {reason}; "
        "use implementation=None or 'xla'."
    )


def _missing_hardware(platform: str) -> str | None:
    if platform != "gpu":
        return None
    capability = str(getattr(jax.local_devices()[0], "compute_capability", "unknown"))
    if capability.split(".")[0] == "9":
        return None
    return f"the GPU kernels need a Hopper GPU, compute capability 9.0, this one has {capability}"


def _implementation(backend: str) -> Implementation:
    """Imported when first used: Pallas is slow to import and absent from some jax builds."""
    if backend == "reference":
        from jaxlab.blocksparse import reference

        return reference
    if backend == "xla":
        from jaxlab.blocksparse import xla

        return xla
    return _kernels(backend)


def _kernels(backend: str) -> Kernels:
    if backend == "mosaic_gpu":
        from jaxlab.blocksparse import mosaic_gpu

        return mosaic_gpu
    from jaxlab.blocksparse import mosaic_tpu

    return mosaic_tpu


def _with_batch(mask: BlockMask) -> BlockMask:
    mask = jax.tree.map(jnp.asarray, mask)
    return mask if mask.blocks.ndim == 4 else dataclasses.replace(mask, blocks=mask.blocks[None])


def _without_padding(x: Array, positions: Any) -> Array:
    """Zeros where padding stands, for 0 times what it holds need not be 0."""
    if positions is None:
        return x
    return jnp.where((positions >= 0)[None, :, None, None], x, 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(
    backend: str, scale: float, q: Array, k: Array, v: Array, mask: BlockMask
) -> tuple[Array, Array, Array]:
    out, lse, trips = _foldable(backend, "forward", scale)(mask, q, k, v)
    return out.astype(q.dtype), lse, trips


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _attend_forward(
    backend: str, scale: float, q: Array, k: Array, v: Array, mask: BlockMask
) -> tuple[tuple[Array, Array, Array], tuple]:
    out, lse, trips = _foldable(backend, "forward", scale)(mask, q, k, v)
    # The gradients get the output as it was accumulated: its rounding would be their largest error.
    return (out.astype(q.dtype), lse, trips), (q, k, v, mask, out, lse)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _attend_backward(
    backend: str, scale: float, residuals: tuple, cotangents: tuple
) -> tuple[Array, Array, Array, None]:
    q, k, v, mask, out, lse = residuals
    # Whatever a merge does with a query that attends to nothing, its cotangents do not matter.
    nothing = lse == -jnp.inf
    d_out, d_lse, _ = cotangents
    d_out, d_lse = jnp.where(nothing[..., None], 0, d_out), jnp.where(nothing, 0, d_lse)
    gradients = _foldable(backend, "backward", scale)(mask, q, k, v, out, lse, d_out, d_lse)
    return *gradients, None


@_attend_forward.defjvp
@_attend_backward.defjvp
def _no_second_derivative(*_: Any) -> NoReturn:
    raise NotImplementedError(
        "block_sparse_attention: only first derivatives in reverse mode are defined; for higher "
        "ones write softmax attention out over `mask.to_tokens()`."
    )


_attend.defvjp(_attend_forward, _attend_backward)
_attend_jit = jax.jit(_attend, static_argnums=(0, 1))
_backward_jit = jax.jit(_attend_backward, static_argnums=(0, 1))


def _foldable(backend: str, direction: str, scale: float) -> Callable:
    """An implementation whose vmap folds the mapped axis into the batch.

    The default batching of a loop runs every element for the longest element's trips and copies
    the whole state at each.
    """
    interpreted = backend == "mosaic_tpu" and jax.default_backend() != "tpu"
    settings = {"scale": scale} | ({"interpret": True} if interpreted else {})
    run = functools.partial(getattr(_implementation(backend), direction), **settings)

    @custom_vmap
    def call(mask: BlockMask, q: Array, k: Array, v: Array, *rest: Array) -> tuple[Array, ...]:
        q = _without_padding(q, mask.q_positions)
        k, v = (_without_padding(x, mask.kv_positions) for x in (k, v))
        return run(q, k, v, mask, *rest)

    @call.def_vmap
    def fold(size: int, mapped: Any, mask: BlockMask, *arrays: Array) -> tuple:
        def spread(x: Any, is_mapped: bool) -> Array:
            return x if is_mapped else jnp.broadcast_to(x, (size, *x.shape))

        mask_mapped, arrays_mapped = mapped[0], mapped[1:]
        arrays = tuple(map(spread, arrays, arrays_mapped))
        if mask_mapped.q_positions or mask_mapped.kv_positions:
            masks = jax.tree.map(spread, mask, mask_mapped)
            results = lax.map(lambda one: call(*one), (masks, *arrays))
        else:
            if mask_mapped.blocks or mask.blocks.shape[0] > 1:
                batch = arrays[0].shape[1]
                blocks = spread(mask.blocks, mask_mapped.blocks)
                blocks = jnp.broadcast_to(blocks, (size, batch, *blocks.shape[2:]))
                mask = dataclasses.replace(mask, blocks=blocks.reshape(-1, *blocks.shape[2:]))
            results = call(mask, *(x.reshape(-1, *x.shape[2:]) for x in arrays))
            results = tuple(x.reshape(size, -1, *x.shape[1:]) for x in results)
        return results, (True,) * len(results)

    return call
