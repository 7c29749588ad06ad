"""Traces whose lowest plan is known because they were cut out of a full rectangle."""

import heapq

import numpy as np

from jaxlab.stweaver.trace import Trace


def cut_rectangle(
    requests: int, *, height: int, duration: int = 1 << 20, unit: int = 1, seed: int = 0
) -> Trace:
    """A trace that can be packed without any gap into ``height`` bytes.

    The rectangle of ``height`` bytes and ``duration`` is cut in two, at a random place across its
    bytes or its time, and so on; the largest piece is cut next. The pieces are the requests.

    Args:
      requests: number of requests.
      height: bytes of the optimum, which is the lower bound as well; a multiple of ``unit``.
      duration: length of the trace.
      unit: bytes; all sizes are multiples of it.
      seed: of the cuts and of the order of the rows.

    Returns:
      The trace, its rows shuffled.

    Raises:
      ValueError: the rectangle is too small for so many requests, or ``height`` is no multiple of
        ``unit``.

    Example:
      >>> trace = cut_rectangle(20, height=4096, unit=64, seed=1)
      >>> len(trace), int(trace.size @ (trace.end - trace.start)) == 4096 << 20
      (20, True)
    """
    rows = height // unit
    if unit < 1 or rows * unit != height or requests < 1 or rows < 1 or duration < 1:
        raise ValueError(
            f"cut_rectangle: height={height} must be a positive multiple of unit={unit}, and "
            f"requests={requests} and duration={duration} must be positive."
        )
    random = np.random.default_rng(seed)
    pieces = [(-1.0, 0, rows, 0, duration)]
    while len(pieces) < requests:
        _, low, high, start, end = heapq.heappop(pieces)
        tall, long = (high - low) / rows, (end - start) / duration
        across = random.random() * (tall + long) < tall
        if high - low == 1 or (not across and end - start > 1):
            if end - start == 1:
                raise ValueError(
                    f"cut_rectangle: {rows} units by {duration} are too few for {requests} "
                    "requests; raise height or duration, or lower unit."
                )
            cut = _cut(random, start, end)
            parts = [(low, high, start, cut), (low, high, cut, end)]
        else:
            cut = _cut(random, low, high)
            parts = [(low, cut, start, end), (cut, high, start, end)]
        for bottom, top, begin, stop in parts:
            area = (top - bottom) / rows * ((stop - begin) / duration)
            heapq.heappush(pieces, (-area, bottom, top, begin, stop))
    table = random.permutation(np.array([piece[1:] for piece in pieces], np.int64))
    return Trace.of((table[:, 1] - table[:, 0]) * unit, table[:, 2], table[:, 3])


def _cut(random: np.random.Generator, low: int, high: int) -> int:
    """A cut that leaves something on both sides, rather near the middle."""
    share = random.uniform(0.2, 0.8)
    return min(max(low + 1, low + int(share * (high - low))), high - 1)
