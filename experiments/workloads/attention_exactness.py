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
    window: Window, *, tokens: int, dim: int, seed: int, clip: str = "fixture"
) -> dict[str, float]:
    """Compares one window's attention with its definition in float64, written out below.

    Twice in float32: as it is, and causal, with blocks reordered and four query heads to a key
    head. Once in bfloat16, as it is; the definition gets the rounded inputs.

    Args:
      window: over the frames of a clip.
      tokens: how many of its tokens attend, the first ones.
      dim: head size.
      seed: of the layer, the cotangents and the order of the blocks.
      clip: which one, or ``fixture`` for the few frames in the repository.

    Returns:
      The worst relative errors, ``forward`` and ``backward`` in float32, ``forward_bfloat16`` and
      ``backward_bfloat16``, and the mask's ``density``.

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
    orders = [rng.permutation(blocks) for blocks in mask.blocks.shape[-2:]]
    reordered = mask.permuted(*orders)
    moved = [
        _reorder_blocks(x, order, block)
        for x, order, block in zip(
            (q, k, v),
            (orders[0], orders[1], orders[1]),
            (mask.q_block, mask.kv_block, mask.kv_block),
            strict=True,
        )
    ]
    grouped = (moved[0], *(x[:, :, ::4] for x in moved[1:]))
    errors = dict.fromkeys(("forward", "backward", "forward_bfloat16", "backward_bfloat16"), 0.0)
    for suffix, case, inputs in (
        ("", mask, (q, k, v)),
        ("", dataclasses.replace(reordered, causal=True), grouped),
        ("_bfloat16", mask, tuple(x.astype(jnp.bfloat16) for x in (q, k, v))),
    ):
        shape = inputs[0].shape
        d_out = jnp.asarray(rng.normal(size=shape), inputs[0].dtype)
        attends = np.asarray(case.to_tokens()).any(-1).swapaxes(1, 2)
        d_lse = jnp.where(attends, jnp.asarray(rng.normal(size=shape[:3]), jnp.float32), 0)
        out, lse, *ours = _ours(*inputs, case, d_out, d_lse)
        with jax.enable_x64(True):
            double = [jnp.asarray(x, jnp.float64) for x in (*inputs, d_out, d_lse)]
            right_out, right_lse, *truth = _definition(*double[:3], case, *double[3:])
        forward = ((out, right_out), (jnp.where(attends, lse, 0), right_lse))
        for part, pairs in (("forward", forward), ("backward", zip(ours, truth, strict=True))):
            worst = max(_relative_error(*pair) for pair in pairs)
            errors[part + suffix] = max(errors[part + suffix], worst)
    return {**errors, "density": mask.density()}


@jax.jit
def _ours(
    q: Array, k: Array, v: Array, mask: BlockMask, d_out: Array, d_lse: Array
) -> tuple[Array, ...]:
    """Output, log-sum-exp and the gradients of q, k and v."""
    attend = functools.partial(block_sparse_attention, mask=mask, return_lse=True)
    (out, lse), pull = jax.vjp(attend, q, k, v)
    return out, lse, *pull((d_out, d_lse))


@jax.jit
def _definition(
    q: Array, k: Array, v: Array, mask: BlockMask, d_out: Array, d_lse: Array
) -> tuple[Array, ...]:
    """The same from the definition, nothing of the library but the mask's fields in it.

    The gradients are jax's own, of softmax over all pairs with the left out ones at -inf; queries
    that attend to nothing give 0, in place of -inf too.
    """
    pairs = jnp.repeat(jnp.repeat(mask.blocks, mask.q_block, -2), mask.kv_block, -1)
    pairs = pairs[..., : mask.q_len, : mask.kv_len]
    if mask.q_positions is not None:
        at, of = mask.q_positions[:, None], mask.kv_positions[None, :]
        pairs &= (at >= 0) & (of >= 0) & ((of <= at) if mask.causal else True)
    attends = pairs.any(-1, keepdims=True)

    def attend(q: Array, k: Array, v: Array) -> tuple[Array, Array]:
        k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[3])
        scores = jnp.where(attends, jnp.where(pairs, scores, -jnp.inf), 0)
        probs = jnp.where(attends, jax.nn.softmax(scores, axis=-1), 0)
        lse = jnp.where(attends[..., 0], jax.nn.logsumexp(scores, axis=-1), 0)
        return jnp.einsum("bhqk,bkhd->bqhd", probs, v), lse.swapaxes(1, 2)

    (out, lse), pull = jax.vjp(attend, q, k, v)
    return out, lse, *pull((d_out, d_lse))


def _relative_error(mine: Array, right: Array) -> float:
    mine, right = np.asarray(mine, np.float64), np.asarray(right)
    return float(np.linalg.norm(mine - right) / np.linalg.norm(right))


def _reorder_blocks(x: Array, order: np.ndarray, block: int) -> Array:
    padded = jnp.pad(x, [(0, 0), (0, -x.shape[1] % block), (0, 0), (0, 0)])
    blocks = padded.reshape(x.shape[0], -1, block, *x.shape[2:])
    return blocks[:, order].reshape(padded.shape)
