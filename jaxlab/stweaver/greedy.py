"""Greedy planning: sort the requests by one of several rules, put each into its best gap."""

import numpy as np
from jaxtyping import Int64

from jaxlab.stweaver.gaps import boxes, place_in_order
from jaxlab.stweaver.lifetimes import Lifetimes
from jaxlab.stweaver.orders import ranking


def greedy(lives: Lifetimes, order: str) -> Int64[np.ndarray, " live"]:
    """Offsets of best-gap placement in one order.

    Args:
      lives: what to place.
      order: one of ``ORDERS``.

    Returns:
      int64 ``[live]``, bytes.

    Raises:
      ValueError: an unknown order.
    """
    state = boxes(lives.size, lives.first, lives.last, lives.wrap, lives.sections)
    place_in_order(state, ranking(lives, order))
    return state.offset
