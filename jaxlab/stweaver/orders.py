"""Orders in which requests are placed: by size, by area, by what they meet."""

import numpy as np
from jaxtyping import Int64

from jaxlab.stweaver.lifetimes import Lifetimes

ORDERS = ("size", "area", "duration", "conflict", "start", "load")


def ranking(lives: Lifetimes, order: str) -> Int64[np.ndarray, " live"]:
    """The rows of ``lives`` in the named order.

    Args:
      lives: the requests.
      order: "size", "area" (bytes times duration), "duration", "conflict" (bytes of all requests
        met), "load" (the highest load met, then area), each largest first; or "start", earliest
        first. Ties are broken by content, so the order of the trace's rows does not matter.

    Returns:
      int64 ``[live]``, row numbers.

    Raises:
      ValueError: an unknown order.
    """
    area = lives.size * lives.duration.astype(np.float64)
    rules = {
        "size": lambda: (-lives.size,),
        "area": lambda: (-area,),
        "duration": lambda: (-lives.duration,),
        "conflict": lambda: (-conflicts(lives),),
        "start": lambda: (lives.first,),
        "load": lambda: (-highest_load(lives), -area),
    }
    if order not in rules:
        raise ValueError(f"greedy: order={order!r} is not one of {', '.join(ORDERS)}.")
    return np.lexsort((lives.wrap, lives.last, lives.first, -lives.size, *rules[order]()[::-1]))


def conflicts(lives: Lifetimes) -> Int64[np.ndarray, " live"]:
    """int64 ``[live]``: bytes of all requests that a request meets, itself included.

    Those it meets are those that start before its end, less those that end before its start. For
    requests that wrap around, or meet one that does, both pieces count.
    """
    started = np.zeros(lives.sections + 1, np.int64)
    ended = np.zeros(lives.sections + 1, np.int64)
    second = lives.wrap > 0
    np.add.at(started, lives.first, lives.size)
    np.add.at(ended, lives.last, lives.size)
    started[0] += lives.size[second].sum()
    np.add.at(ended, lives.wrap[second], lives.size[second])
    before = np.concatenate([[0], np.cumsum(started)])
    over = np.cumsum(ended)
    met = before[lives.last] - over[lives.first]
    met[second] += before[lives.wrap[second]] - over[0]
    return met


def highest_load(lives: Lifetimes) -> Int64[np.ndarray, " live"]:
    """int64 ``[live]``: the highest load among the sections in which a request is live."""
    table = [lives.load]
    while 2 ** len(table) <= lives.sections:
        half = 2 ** (len(table) - 1)
        table.append(np.maximum(table[-1][:-half], table[-1][half:]))
    highest = _window_maximum(table, lives.first, lives.last)
    second = lives.wrap > 0
    start = np.zeros(int(second.sum()), np.int64)
    highest[second] = np.maximum(highest[second], _window_maximum(table, start, lives.wrap[second]))
    return highest


def _window_maximum(
    table: list[np.ndarray], start: Int64[np.ndarray, " rows"], end: Int64[np.ndarray, " rows"]
) -> Int64[np.ndarray, " rows"]:
    level = np.frexp(end - start)[1] - 1
    out = np.empty_like(start)
    for power in np.unique(level):
        rows = level == power
        out[rows] = np.maximum(
            table[power][start[rows]], table[power][end[rows] - (1 << int(power))]
        )
    return out
