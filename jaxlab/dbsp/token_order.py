"""The token order of a static home, folded into the model's input and output once."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from jaxlab.dbsp.device_plan import DevicePlan
from jaxlab.dbsp.plan import Plan


def to_home(
    x: Shaped[Array, "batch tokens *rest"] | Shaped[np.ndarray, "batch tokens *rest"],
    plan: Plan | DevicePlan,
    block: int,
    *,
    side: Literal["q", "kv"] = "q",
) -> Shaped[Array, "batch padded *rest"]:
    """Puts tokens into the order in which a plan's blocks are at home, padded to whole blocks.

    A static home other than the original order costs nothing per layer if the model runs in that
    order from end to end: call this once on its input, on whatever goes with the tokens (their
    positions for RoPE, for example), and ``from_home`` once on its output. In self-attention both
    sides must be the same tokens in the same order.

    Args:
      x: ``[batch, tokens, ...]`` in original order.
      plan: any plan with the model's home.
      block: tokens in a block of that side.
      side: whether the tokens are queries or keys.

    Returns:
      ``[batch, padded, ...]``; padding tokens are 0.

    Raises:
      ValueError: there are more tokens than the plan has blocks for, or ``side`` is unknown.

    Example:
      >>> import dataclasses
      >>> plan = Plan.contiguous(heads=1, q_blocks=4, kv_blocks=4, ulysses=1, ring=2)
      >>> plan = dataclasses.replace(plan, q_home=np.array([0, 2, 1, 3]))
      >>> home = to_home(jnp.arange(1, 8)[None], plan, block=2)
      >>> home[0].tolist(), from_home(home, plan, 2, 7)[0].tolist()
      ([1, 2, 5, 6, 3, 4, 7, 0], [1, 2, 3, 4, 5, 6, 7])
    """
    home = _home(plan, side)
    length = home.shape[0] * block
    if x.shape[1] > length:
        raise ValueError(
            f"to_home: x has {x.shape[1]} tokens, the plan is for {home.shape[0]} blocks of "
            f"{block}, {length} tokens; plan for this mask."
        )
    padded = jnp.pad(x, [(0, 0), (0, length - x.shape[1])] + [(0, 0)] * (x.ndim - 2))
    return _take_blocks(padded, home, block)


def from_home(
    x: Shaped[Array, "batch padded *rest"] | Shaped[np.ndarray, "batch padded *rest"],
    plan: Plan | DevicePlan,
    block: int,
    length: int,
    *,
    side: Literal["q", "kv"] = "q",
) -> Shaped[Array, "batch tokens *rest"]:
    """Undoes ``to_home``: original order, padding cut off.

    Args:
      x: ``[batch, padded, ...]`` in home order.
      plan: as in ``to_home``.
      block: as in ``to_home``.
      length: true number of tokens.
      side: as in ``to_home``.

    Returns:
      ``[batch, length, ...]``.

    Raises:
      ValueError: ``x`` is not as long as the plan's blocks, or ``side`` is unknown.
    """
    home = _home(plan, side)
    if x.shape[1] != home.shape[0] * block:
        raise ValueError(
            f"from_home: x has {x.shape[1]} tokens, expected {home.shape[0]} blocks of {block} as "
            "to_home makes them."
        )
    return _take_blocks(jnp.asarray(x), jnp.argsort(jnp.asarray(home)), block)[:, :length]


def _home(plan: Plan | DevicePlan, side: str) -> jax.Array | np.ndarray:
    if side not in ("q", "kv"):
        raise ValueError(f"side must be 'q' or 'kv', got {side!r}.")
    return plan.q_home if side == "q" else plan.kv_home


def _take_blocks(x: Array, order: Array | np.ndarray, block: int) -> Array:
    batch, length, *rest = x.shape
    blocks = x.reshape(batch, length // block, block, *rest)
    return jnp.take(blocks, jnp.asarray(order), axis=1).reshape(x.shape)
