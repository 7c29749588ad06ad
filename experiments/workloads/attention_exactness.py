"""How far block-sparse attention is from its definition, on a mask of real frames."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.workloads.video_window import Window
from jaxlab.blocksparse import BlockMask, block_sparse_attention, sparge_mask


def exactness(
    window: Window,
    *,
    tokens: int,
    dim: int,
    seed: int,
    clip: str = "fixture",
    dtypes: tuple[str, ...] = ("float32",),
) -> dict[str, float]:
    """Compares one window's attention with its definition in float64, written out below.

    In every dtype as it is, the definition getting the rounded inputs; in float32 also causal, with
    blocks reordered and four query heads to a key head.

    Args:
      window: over the frames of a clip.
      tokens: how many of its tokens attend, the first ones.
      dim: head size.
      seed: of the layer, the cotangents and the order of the blocks.
      clip: which one, or ``fixture`` for the few frames in the repository.
      dtypes: of the inputs.

    Returns:
      The worst relative errors, ``forward float32``, ``backward float32`` and so on, and the mask's
      ``density``.

    Raises:
      AssetUnavailable: the clip is not to be had.
      ValueError: the mask is too dense to test anything.
    """
    key = jax.random.key(seed)
    q, k, v = window.inputs(window.video(clip), 0, key=key, heads=8, dim=dim)
    q, k, v = (x[:, :tokens] for x in (q, k, v))
    rng = np.random.default_rng(seed)
    mask = sparge_mask(q, k, q_block=64, kv_block=32, similarity_threshold=-1.0, cdf_threshold=0.6)
    if not 0 < mask.density() <= 0.6:
        raise ValueError(f"a mask of density {mask.density():.2f} is no test of sparse attention.")
    cases = [(dtype, mask, tuple(x.astype(dtype) for x in (q, k, v))) for dtype in dtypes]
    if "float32" in dtypes:
        q_order, kv_order = (rng.permutation(blocks) for blocks in mask.blocks.shape[-2:])
        reordered = dataclasses.replace(mask.permuted(q_order, kv_order), causal=True)
        keys, values = (_reorder_blocks(x[:, :, ::4], kv_order, mask.kv_block) for x in (k, v))
        moved = _reorder_blocks(q, q_order, mask.q_block), keys, values
        cases.append(("float32", reordered, moved))
    errors: dict[str, float] = {}
    for dtype, case, inputs in cases:
        shape = inputs[0].shape
        pairs = _pairs(case)
        attends = pairs.any(-1).swapaxes(1, 2)
        d_out = jnp.asarray(rng.normal(size=shape), dtype)
        d_lse = np.where(attends, rng.normal(size=shape[:3]), 0).astype(np.float32)
        out, lse, *ours = _ours(*inputs, case, d_out, d_lse)
        right_out, right_lse, *truth = _truth(case, pairs, *inputs, d_out, d_lse)
        forward = ((out, right_out), (np.where(attends, lse, 0), right_lse))
        for part, results in (("forward", forward), ("backward", zip(ours, truth, strict=True))):
            worst = max(_relative_error(*pair) for pair in results)
            errors[f"{part} {dtype}"] = max(errors.get(f"{part} {dtype}", 0.0), worst)
    return {**errors, "density": mask.density()}


@jax.jit
def _ours(
    q: Array, k: Array, v: Array, mask: BlockMask, d_out: Array, d_lse: Array
) -> tuple[Array, ...]:
    """Output, log-sum-exp and the gradients of q, k and v."""
    attend = functools.partial(block_sparse_attention, mask=mask, return_lse=True)
    (out, lse), pull = jax.vjp(attend, q, k, v)
    return out, lse, *pull((d_out, d_lse))


def _pairs(mask: BlockMask) -> np.ndarray:
    """Which pairs attend, from the mask's fields: bool ``[1, heads, q_len, kv_len]``."""
    rows = np.repeat(np.asarray(mask.blocks), mask.q_block, -2)[..., : mask.q_len, :]
    pairs = np.repeat(rows, mask.kv_block, -1)[..., : mask.kv_len]
    if mask.q_positions is not None:
        at, of = np.asarray(mask.q_positions)[:, None], np.asarray(mask.kv_positions)[None, :]
        pairs = pairs & (at >= 0) & (of >= 0) & ((of <= at) if mask.causal else True)
    return pairs


def _truth(
    mask: BlockMask,
    pairs: np.ndarray,
    q: Array,
    k: Array,
    v: Array,
    d_out: Array,
    d_lse: np.ndarray,
) -> tuple[np.ndarray, ...]:
    """The same as ``_ours`` from the definition, nothing of the library in it.

    Every case is filled up to whole blocks and heads, so that one program serves all.
    """
    q_blocks, kv_blocks = mask.blocks.shape[-2:]
    q_fill = q_blocks * mask.q_block - mask.q_len
    kv_fill = kv_blocks * mask.kv_block - mask.kv_len
    heads, kv_heads = q.shape[2], k.shape[2]

    def filled(x: Array | np.ndarray, fill: int) -> np.ndarray:
        x = np.repeat(np.asarray(x, np.float64), heads // x.shape[2], axis=2)
        return np.pad(x, [(0, 0), (0, fill)] + [(0, 0)] * (x.ndim - 2))

    queries = [filled(x, q_fill) for x in (q, d_out, d_lse)]
    keys = [filled(x, kv_fill) for x in (k, v)]
    pairs = np.pad(pairs, ((0, 0), (0, 0), (0, q_fill), (0, kv_fill)))
    with jax.enable_x64(True):
        results = _definition(queries[0], *keys, pairs, *queries[1:])
    out, lse, dq, dk, dv = map(np.asarray, results)
    dk, dv = (x.reshape(*x.shape[:2], kv_heads, -1, x.shape[-1]).sum(3) for x in (dk, dv))
    return (
        *(x[:, : mask.q_len] for x in (out, lse, dq)),
        *(x[:, : mask.kv_len] for x in (dk, dv)),
    )


@jax.jit
def _definition(
    q: Array, k: Array, v: Array, pairs: Array, d_out: Array, d_lse: Array
) -> tuple[Array, ...]:
    """Output, log-sum-exp and gradients of softmax over all pairs, the left out ones at -inf.

    The gradients are jax's own; queries that attend to nothing give 0, in place of -inf too.
    """
    attends = pairs.any(-1, keepdims=True)

    def attend(q: Array, k: Array, v: Array) -> tuple[Array, Array]:
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[3])
        scores = jnp.where(attends, jnp.where(pairs, scores, -jnp.inf), 0)
        probs = jnp.where(attends, jax.nn.softmax(scores, axis=-1), 0)
        lse = jnp.where(attends[..., 0], jax.nn.logsumexp(scores, axis=-1), 0)
        return jnp.einsum("bhqk,bkhd->bqhd", probs, v), lse.swapaxes(1, 2)

    (out, lse), pull = jax.vjp(attend, q, k, v)
    return out, lse, *pull((d_out, d_lse))


def _relative_error(mine: Array | np.ndarray, right: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(mine, np.float64) - right) / np.linalg.norm(right))


def _reorder_blocks(x: Array, order: np.ndarray, block: int) -> np.ndarray:
    padded = np.pad(np.asarray(x), [(0, 0), (0, -x.shape[1] % block), (0, 0), (0, 0)])
    blocks = padded.reshape(x.shape[0], -1, block, *x.shape[2:])
    return blocks[:, order].reshape(padded.shape)
