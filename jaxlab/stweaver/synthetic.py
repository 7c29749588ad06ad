"""Traces whose lowest plan is known because they were cut out of a full rectangle."""

import heapq

import numpy as np

from jaxlab.stweaver.trace import Trace


def cut_rectangle(
    requests: int,
    *,
    height: int,
    duration: int = 1 << 20,
    unit: int = 1,
    pinwheels: float = 0.0,
    seed: int = 0,
) -> Trace:
    """A trace that can be packed without any gap into ``height`` bytes.

    The rectangle of ``height`` bytes and ``duration`` is cut in two, at a random place across its
    bytes or its time, and so on; the largest piece is cut next. Some cuts may make five pieces
    instead, four around a middle one: no straight line parts those. The pieces are the requests.

    Args:
      requests: number of requests.
      height: bytes of the optimum, which is the lower bound as well; a multiple of ``unit``.
      duration: length of the trace. The shorter, the more requests begin or end at a time, and
        the harder it is to see which of them belong together.
      unit: bytes; all sizes are multiples of it.
      pinwheels: the share of cuts into five where the piece is large enough, in [0, 1].
      seed: of the cuts and of the order of the rows.

    Returns:
      The trace, its rows shuffled.

    Raises:
      ValueError: the rectangle is too small for so many requests, ``height`` is no multiple of
        ``unit``, or ``pinwheels`` is no share.

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
    if not 0 <= pinwheels <= 1:
        raise ValueError(f"cut_rectangle: pinwheels={pinwheels} must lie in [0, 1].")
    random = np.random.default_rng(seed)
    pieces = [(-1.0, 0, rows, 0, duration)]
    while len(pieces) < requests:
        _, low, high, start, end = heapq.heappop(pieces)
        whole = (low, high, start, end)
        roomy = min(high - low, end - start) >= 3 and requests - len(pieces) >= 5
        if pinwheels and roomy and random.random() < pinwheels:
            parts = _pinwheel(random, *whole)
        else:
            tall, long = (high - low) / rows, (end - start) / duration
            across = random.random() * (tall + long) < tall
            if high - low == 1 and end - start == 1:
                raise ValueError(
                    f"cut_rectangle: {rows} units by {duration} are too few for {requests} "
                    "requests; raise height or duration, or lower unit."
                )
            parts = _halves(random, *whole, across=end - start == 1 or (across and high - low > 1))
        for bottom, top, begin, stop in parts:
            area = (top - bottom) / rows * ((stop - begin) / duration)
            heapq.heappush(pieces, (-area, bottom, top, begin, stop))
    table = random.permutation(np.array([piece[1:] for piece in pieces], np.int64))
    return Trace.of((table[:, 1] - table[:, 0]) * unit, table[:, 2], table[:, 3])


_Piece = tuple[int, int, int, int]  # low, high, start, end


def _halves(
    random: np.random.Generator, low: int, high: int, start: int, end: int, *, across: bool
) -> list[_Piece]:
    """Two pieces, one above the other or one after the other."""
    if across:
        cut = _cut(random, low, high)
        return [(low, cut, start, end), (cut, high, start, end)]
    cut = _cut(random, start, end)
    return [(low, high, start, cut), (low, high, cut, end)]


def _pinwheel(
    random: np.random.Generator, low: int, high: int, start: int, end: int
) -> list[_Piece]:
    """Four pieces around a fifth, turning one way or the other."""
    first, second = _cuts(random, low, high)
    early, late = _cuts(random, start, end)
    middle = (first, second, early, late)
    if random.random() < 0.5:
        return [
            (low, first, start, late),
            (low, second, late, end),
            (second, high, early, end),
            (first, high, start, early),
            middle,
        ]
    return [
        (low, first, early, end),
        (first, high, late, end),
        (second, high, start, late),
        (low, second, start, early),
        middle,
    ]


def _cuts(random: np.random.Generator, low: int, high: int) -> tuple[int, int]:
    """Two cuts that leave something before, between and behind them."""
    first = min(max(low + 1, low + int(random.uniform(0.15, 0.45) * (high - low))), high - 2)
    second = low + int(random.uniform(0.55, 0.85) * (high - low))
    return first, min(max(first + 1, second), high - 1)


def _cut(random: np.random.Generator, low: int, high: int) -> int:
    """A cut that leaves something on both sides, rather near the middle."""
    share = random.uniform(0.2, 0.8)
    return min(max(low + 1, low + int(share * (high - low))), high - 1)
