"""One example of every public pytree, by its full name; add yours here."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from jaxlab.blocksparse import BlockLists, BlockMask, ReorderedMask
from jaxlab.dbsp import Bytes, DevicePlan, Plan, device_plan


def block_mask() -> BlockMask:
    blocks = np.arange(2 * 3 * 4).reshape(2, 3, 4) % 3 == 0
    return BlockMask(
        blocks, 16, 8, q_len=45, kv_len=30, causal=True, q_positions=jnp.arange(45)[::-1]
    )


def block_lists() -> BlockLists:
    return BlockLists(jnp.arange(12, dtype=jnp.int32).reshape(2, 2, 3), jnp.ones((2, 2), jnp.int32))


def reordered_mask() -> ReorderedMask:
    blocks = np.arange(2 * 3 * 3).reshape(2, 3, 3) % 4 == 0
    mask = BlockMask(blocks, 5, 5, q_len=13, kv_len=13)
    return ReorderedMask(mask, jnp.stack([jnp.arange(13), jnp.arange(13)[::-1]]))


def device_plan_example() -> DevicePlan:
    order = np.stack([np.arange(8), np.arange(8)[::-1]])
    return device_plan(Plan(2, 2, np.arange(4)[::-1], order, order[::-1]))


EXAMPLES: dict[str, Callable[[], object]] = {
    "jaxlab.blocksparse.BlockLists": block_lists,
    "jaxlab.blocksparse.BlockMask": block_mask,
    "jaxlab.blocksparse.ReorderedMask": reordered_mask,
    "jaxlab.dbsp.Bytes": lambda: Bytes(jnp.arange(2), jnp.arange(3)),
    "jaxlab.dbsp.DevicePlan": device_plan_example,
}
