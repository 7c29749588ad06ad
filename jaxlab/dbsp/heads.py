"""Head-level balance: which heads each Ulysses group computes."""

from typing import Literal, overload

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Int32, Int64

HeadMethod = Literal["none", "snake", "greedy", "refined"]
HEAD_METHODS = ("none", "snake", "greedy", "refined")


@overload
def head_groups(
    weights: Int[np.ndarray, " heads"], groups: int, *, method: HeadMethod = "greedy", seed: int = 0
) -> Int64[np.ndarray, "groups heads_per_group"]: ...


@overload
def head_groups(
    weights: Int[Array, " heads"], groups: int, *, method: HeadMethod = "greedy", seed: int = 0
) -> Int32[Array, "groups heads_per_group"]: ...


def head_groups(
    weights: Int[Array, " heads"] | Int[np.ndarray, " heads"],
    groups: int,
    *,
    method: HeadMethod = "greedy",
    seed: int = 0,
) -> Int32[Array, "groups heads_per_group"] | Int64[np.ndarray, "groups heads_per_group"]:
    """Splits heads into groups of equal size and nearly equal work.

    - ``"none"``: equal slices in the original order.
    - ``"snake"``: heads by falling weight, dealt out to groups 0, 1, ..., G - 1, G - 1, ..., 1, 0.
    - ``"greedy"``: each head, in order of falling weight, joins the lightest group that still has
      room.
    - ``"refined"``: greedy, then annealed swaps of two heads of different groups until the heaviest
      group reaches a lower bound or a fixed number of swaps has been tried; never worse than
      greedy.

    Ties go to the head and the group with the lower index.

    Args:
      weights: int ``[heads]``, active blocks of every head, not negative. A jax array (traceable)
        is split by ``"greedy"`` only, with loads that must fit its dtype, or int32 if that is
        wider.
      groups: number of groups; divides ``heads``.
      method: how.
      seed: decides the draws of ``"refined"``.

    Returns:
      int64 ``[groups, heads / groups]``, head numbers in the order they joined; flattened it is the
      head permutation of a plan. int32 for a jax array.

    Raises:
      ValueError: ``groups`` does not divide the heads, a weight is negative or no integer, or the
        method is unknown, or not ``"greedy"`` for a jax array.
      ImportError: numba, which ``"greedy"`` and ``"refined"`` take for numpy arrays, is missing;
        install the extra ``planning``.

    Source: db-SP 4.2.1, head-level partition, as the official code has it (``"greedy"``); snake as
    in xDiT; ``"refined"`` is ours.

    Example:
      >>> head_groups(np.array([4, 8, 0, 4]), groups=2)
      array([[1, 2],
             [0, 3]])
    """
    if not isinstance(weights, jax.Array):
        weights = np.asarray(weights)
    if weights.ndim != 1 or groups < 1 or weights.size % groups:
        raise ValueError(
            f"head_groups: groups={groups} does not divide weights of shape {weights.shape} into "
            "equal groups; pad with heads of weight 0 or choose another number."
        )
    if not np.issubdtype(weights.dtype, np.integer):
        raise ValueError(f"head_groups: weights must be integers, got {weights.dtype}; round them.")
    concrete = not isinstance(weights, jax.core.Tracer)
    if concrete and weights.size and int(weights.min()) < 0:
        raise ValueError(f"head_groups: weights must not be negative, got {int(weights.min())}.")
    if method not in HEAD_METHODS:
        raise ValueError(f"head_groups: method must be one of {HEAD_METHODS}, got {method!r}.")
    if isinstance(weights, jax.Array):
        if method != "greedy":
            raise ValueError(
                f"head_groups: a jax array is split by method='greedy' only, got {method!r}; pass "
                "np.asarray(weights)."
            )
        return _traced_greedy(weights, groups)
    room = weights.size // groups
    if method == "none":
        return np.arange(weights.size).reshape(groups, room)
    heaviest_first = np.argsort(-weights.astype(np.int64), kind="stable")
    if method == "snake":
        rounds = heaviest_first.reshape(room, groups).copy()
        rounds[1::2] = rounds[1::2, ::-1]
        return rounds.T.copy()
    from jaxlab.dbsp.fill import deal_heads

    greedy = deal_heads(weights.astype(np.int64), heaviest_first, groups)
    if method == "greedy":
        return greedy
    return refined_groups(weights.astype(np.int64).reshape(-1, 1, 1), greedy, seed=seed)


def refined_groups(
    work: Int64[np.ndarray, "heads ring ring"],
    start: Int64[np.ndarray, "groups heads_per_group"],
    *,
    seed: int,
    trials: int = 40_000,
) -> Int64[np.ndarray, "groups heads_per_group"]:
    """Anneals swaps of heads between groups, on the totals and on the tiles of the ring.

    Args:
      work: int64 ``[heads, R, R]``, every head's own work table at home; ``[heads, 1, 1]`` looks
        at totals alone.
      start: int64 ``[groups, heads_per_group]``.
      seed: decides the draws.
      trials: swaps to try.

    Returns:
      The best groups found, never worse than ``start``.
    """
    from jaxlab.dbsp.swap_heads import swap_heads

    groups = start.copy()
    if start.shape[0] > 1 and start.shape[1] > 0 and work.sum() > 0:
        padded = np.zeros((start.size, *work.shape[1:]))
        padded[: work.shape[0]] = work
        swap_heads(padded, groups, trials, seed)
    return groups


def expand_kv_groups(
    kv_groups: Int64[np.ndarray, "groups kv_heads_per_group"], heads_per_kv_head: int
) -> Int64[np.ndarray, " heads"]:
    """The head permutation in which the query heads of every KV head stay together, in order."""
    heads = kv_groups.reshape(-1, 1) * heads_per_kv_head + np.arange(heads_per_kv_head)
    return heads.reshape(-1)


def _traced_greedy(
    weights: Int[Array, " heads"], groups: int
) -> Int32[Array, "groups heads_per_group"]:
    room = weights.size // groups
    if weights.dtype.itemsize < 4:
        weights = weights.astype(jnp.int32)
    full = jnp.iinfo(weights.dtype).max

    def join(
        carry: tuple[Int[Array, " groups"], Int32[Array, " groups"]], head: Int32[Array, ""]
    ) -> tuple[tuple[Int[Array, " groups"], Int32[Array, " groups"]], Int32[Array, ""]]:
        load, size = carry
        group = jnp.argmin(jnp.where(size < room, load, full)).astype(jnp.int32)
        place = group * room + size[group]
        return (load.at[group].add(weights[head]), size.at[group].add(1)), place

    # -weights wraps for unsigned counts; the reversed stable order of rising weight does not
    order = weights.size - 1 - jnp.argsort(weights[::-1], stable=True)[::-1].astype(jnp.int32)
    start = (jnp.zeros(groups, weights.dtype), jnp.zeros(groups, jnp.int32))
    _, places = jax.lax.scan(join, start, order)
    return jnp.zeros(weights.size, jnp.int32).at[places].set(order).reshape(groups, room)
