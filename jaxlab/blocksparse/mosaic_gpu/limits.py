"""What the Hopper kernels can run."""

from typing import Any

import jax.numpy as jnp

from jaxlab.blocksparse.implementation import Keys, Queries, Values
from jaxlab.blocksparse.mask import BlockMask

WIDEST = 128
"""Largest head size whose accumulators fit the registers."""


def unsupported(q: Any, k: Any, v: Any, mask: BlockMask) -> str | None:
    """Implements ``Kernels.unsupported``."""
    if not (q.dtype == k.dtype == v.dtype) or q.dtype not in (jnp.bfloat16, jnp.float16):
        return (
            f"the Hopper kernels multiply bfloat16 or float16, got q {q.dtype}, k {k.dtype}, "
            f"v {v.dtype}"
        )
    if max(q.shape[-1], v.shape[-1]) > WIDEST:
        return (
            f"the Hopper kernels hold head sizes up to {WIDEST}, got {q.shape[-1]}, {v.shape[-1]}"
        )
    for name, block in (("q_block", mask.q_block), ("kv_block", mask.kv_block)):
        if block not in (64, 128):
            return f"the Hopper kernels need {name} 64 or 128, got {block}"
    return None


def check(q: Queries, k: Keys, v: Values, mask: BlockMask) -> None:
    """Raises ValueError where ``unsupported`` has a reason."""
    reason = unsupported(q, k, v, mask)
    if reason is not None:
        raise ValueError(f"block-sparse attention on GPU: {reason}; use implementation='xla'.")
