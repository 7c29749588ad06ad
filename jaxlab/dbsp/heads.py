"""Head-level balance: which heads each Ulysses group computes."""

import heapq

import numpy as np
from jaxtyping import Int, Int64


def head_groups(
    weights: Int[np.ndarray, " heads"], groups: int
) -> Int64[np.ndarray, "groups heads_per_group"]:
    """Splits heads into groups of equal size and nearly equal work: greedy, heaviest head first.

    Each head, in order of falling weight, joins the lightest group that still has room. Ties go to
    the head and the group with the lower index.

    Args:
      weights: int ``[heads]``, active blocks of every head, not negative.
      groups: number of groups; divides ``heads``.

    Returns:
      int64 ``[groups, heads / groups]``, head numbers in the order they joined; flattened it is the
      head permutation of a plan.

    Raises:
      ValueError: ``groups`` does not divide the heads, or a weight is negative or no integer.

    Source: db-SP 4.2.1, head-level partition, as the official code has it.

    Example:
      >>> head_groups(np.array([4, 8, 0, 4]), groups=2)
      array([[1, 2],
             [0, 3]])
    """
    weights = np.asarray(weights)
    if weights.ndim != 1 or groups < 1 or weights.size % groups:
        raise ValueError(
            f"head_groups: groups={groups} does not divide weights of shape {weights.shape} into "
            "equal groups; pad with heads of weight 0 or choose another number."
        )
    if not np.issubdtype(weights.dtype, np.integer):
        raise ValueError(f"head_groups: weights must be integers, got {weights.dtype}; round them.")
    if weights.size and weights.min() < 0:
        raise ValueError(f"head_groups: weights must not be negative, got {int(weights.min())}.")
    room = weights.size // groups
    members: list[list[int]] = [[] for _ in range(groups)]
    lightest = [(0, group) for group in range(groups)]
    for head in np.argsort(-weights.astype(np.int64), kind="stable"):
        load, group = heapq.heappop(lightest)
        members[group].append(int(head))
        if len(members[group]) < room:
            heapq.heappush(lightest, (load + int(weights[head]), group))
    return np.asarray(members, np.int64).reshape(groups, room)
