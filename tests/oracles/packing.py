"""Plans checked and found by brute force, without anything of the planners."""

import itertools

import numpy as np


def live_matrix(size, start, end, period=None):
    """bool ``[requests, times]``, at every integer time (modulo the period); empty ones nowhere."""
    stop = max([*end, 1]) if period is None else period
    out = np.zeros((len(size), stop), bool)
    for row, (bytes_, begin, until) in enumerate(zip(size, start, end, strict=True)):
        if bytes_ > 0:
            out[row, [time % stop if period else time for time in range(begin, until)]] = True
    return out


def load(size, start, end, period=None):
    """Maximum over the integer times of the live bytes."""
    return int((np.asarray(size) @ live_matrix(size, start, end, period)).max(initial=0))


def collisions(size, start, end, offsets, period=None):
    """Pairs of requests that share a byte at an integer time."""
    live = live_matrix(size, start, end, period)
    return [
        (a, b)
        for a, b in itertools.combinations(range(len(size)), 2)
        if (live[a] & live[b]).any()
        and offsets[a] < offsets[b] + size[b]
        and offsets[b] < offsets[a] + size[a]
    ]


def lowest_height(size, start, end, period=None):
    """The optimum: over all orders, each request as low as those before it allow."""
    live = live_matrix(size, start, end, period)
    meet = (live[:, None] & live[None]).any(-1)
    rows = [row for row in range(len(size)) if live[row].any()]
    best = sum(size)
    for order in itertools.permutations(rows):
        placed: list[tuple[int, int, int]] = []
        for row in order:
            bottom = 0
            for low, high, other in sorted(placed):
                if meet[row, other] and low < bottom + size[row] and bottom < high:
                    bottom = high
            placed.append((bottom, bottom + size[row], row))
        best = min(best, max((high for _, high, _ in placed), default=0))
    return best
