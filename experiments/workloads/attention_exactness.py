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
    """Compares one window's attention with float64: as it is, and causal with blocks reordered.

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
        (dataclasses.replace(reordered, causal=True), moved),
    ):
        shape = inputs[0].shape
        cotangents = [jnp.asarray(rng.normal(size=s), jnp.float32) for s in (shape, shape[:3])]
        ours = _values_and_gradients(*inputs, case, *cotangents, implementation=None)
        with jax.enable_x64(True):
            double = [jnp.asarray(x, jnp.float64) for x in (*inputs, *cotangents)]
            truth = _values_and_gradients(
                *double[:3], case, *double[3:], implementation="reference"
            )
        for part, mine, right in zip(errors, ours, truth, strict=True):
            errors[part] = max(errors[part], *map(_relative_error, mine, right))
    return {**errors, "density": mask.density()}


@functools.partial(jax.jit, static_argnames="implementation")
def _values_and_gradients(
    q: Array, k: Array, v: Array, mask: BlockMask, d_out: Array, d_lse: Array, implementation: str
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    def attend(q: Array, k: Array, v: Array) -> tuple[Array, Array]:
        return block_sparse_attention(q, k, v, mask, return_lse=True, implementation=implementation)

    (out, lse), pull = jax.vjp(attend, q, k, v)
    attends = jnp.isfinite(lse)
    return (out, jnp.where(attends, lse, 0)), pull((d_out, jnp.where(attends, d_lse, 0)))


def _relative_error(mine: Array, right: Array) -> float:
    mine, right = np.asarray(mine, np.float64), np.asarray(right)
    return float(np.linalg.norm(mine - right) / np.linalg.norm(right))


def _reorder_blocks(x: Array, order: np.ndarray, block: int) -> Array:
    padded = jnp.pad(x, [(0, 0), (0, -x.shape[1] % block), (0, 0), (0, 0)])
    blocks = padded.reshape(x.shape[0], -1, block, *x.shape[2:])
    return blocks[:, order].reshape(padded.shape)
