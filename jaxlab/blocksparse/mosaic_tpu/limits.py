"""What the TPU kernels can run."""

from typing import Any

import jax.numpy as jnp

from jaxlab.blocksparse.implementation import Keys, Queries, Values
from jaxlab.blocksparse.mask import BlockMask

WIDEST = 256
"""Largest block and head size: what is kept of a row fits fast memory."""


def unsupported(q: Any, k: Any, v: Any, mask: BlockMask) -> str | None:
    """Implements ``Kernels.unsupported``."""
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


def check(q: Queries, k: Keys, v: Values, mask: BlockMask) -> None:
    """Raises ValueError where ``unsupported`` has a reason."""
    reason = unsupported(q, k, v, mask)
    if reason is not None:
        raise ValueError(f"block-sparse attention on TPU: {reason}; use implementation='xla'.")
