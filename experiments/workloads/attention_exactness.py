"""How far block-sparse attention is from its definition, on a mask of real frames."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.workloads.video_window import Window
from jaxlab.blocksparse import BlockMask, block_sparse_attention, sparge_mask


def exactness(window: Window, *, tokens: int, dim: int, seed: int) -> dict[str, float]:
    """Compares one window's attention with its definition in float64, written out below.

    Twice: as it is, and causal, with blocks reordered and four query heads to a key head.

    Args:
      window: over the frames of the repository.
      tokens: how many of its tokens attend.
      dim: head size.
      seed: of the layer, the cotangents and the order of the blocks.

    Returns:
      The worst relative errors, ``forward`` and ``backward``, and the mask's ``density``.

    Raises:
      ValueError: the mask is too dense to test anything.
    """
    key = jax.random.key(seed)
    q, k, v = window.inputs(window.video("fixture"), 0, key=key, heads=8, dim=dim)
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
    errors = {"forward": 0.0, "backward": 0.0}
    for case, inputs in (
        (mask, (q, k, v)),
        (
            dataclasses.replace(reordered, causal=True),
            (moved[0], *(x[:, :, ::4] for x in moved[1:])),
        ),
    ):
        shape = inputs[0].shape
        cotangents = [jnp.asarray(rng.normal(size=s), jnp.float32) for s in (shape, shape[:3])]
        attends = np.asarray(case.to_tokens()).any(-1).swapaxes(1, 2)
        cotangents[1] = jnp.where(attends, cotangents[1], 0)
        out, lse, *ours = _ours(*inputs, case, *cotangents)
        with jax.enable_x64(True):
            double = [jnp.asarray(x, jnp.float64) for x in (*inputs, *cotangents)]
            right_out, right_lse, *truth = _definition(*double[:3], case, *double[3:])
        forward = ((out, right_out), (jnp.where(attends, lse, 0), right_lse))
        for part, pairs in (("forward", forward), ("backward", zip(ours, truth, strict=True))):
            errors[part] = max(errors[part], *(_relative_error(*pair) for pair in pairs))
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
