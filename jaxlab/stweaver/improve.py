"""Local search: move the requests at the peak forward in the order of placement, and try again."""

import time
import typing

import numpy as np
from jaxtyping import Int64

from jaxlab.stweaver.gaps import FAR, boxes, clear, find, settle
from jaxlab.stweaver.kernel import kernel
from jaxlab.stweaver.lifetimes import Lifetimes

_PATIENCE = 500
_BATCH = 4_000_000


def improve(
    lives: Lifetimes,
    offsets: Int64[np.ndarray, " live"],
    *,
    goal: int,
    deadline: float,
    rounds: int | None = None,
    seed: int = 0,
) -> Int64[np.ndarray, " live"]:
    """Iterated local search over the order of best-gap placement.

    Args:
      lives: the requests.
      offsets: int64 ``[live]``, the plan to start from; its order of addresses is the first order.
      goal: stop at a plan of at most this height.
      deadline: value of ``time.perf_counter()`` at which to stop.
      rounds: stop after this many placements of all requests; None for no limit.
      seed: of the random moves.

    Returns:
      int64 ``[live]``, offsets of a plan that is not higher.

    Source: the move is that of Vela's hill climbing, reconstructed from its description in the
    notes, section 5; restarts after 500 placements without progress.
    """
    state = boxes(lives.size, lives.first, lives.last, lives.wrap, lives.sections)
    best, height = offsets, int((offsets + lives.size).max(initial=0))
    order = np.lexsort((lives.wrap, lives.last, lives.first, -lives.size, offsets))
    random = np.random.default_rng(seed)
    batch = max(1, min(_PATIENCE, _BATCH // max(1, lives.size.size**2 // 8)))
    done = idle = 0
    while height > goal and time.perf_counter() < deadline and (rounds is None or done < rounds):
        count = batch if rounds is None else min(batch, rounds - done)
        found, top = _climb(state, order, random.random((count, 2)), goal)
        done += count
        if top < height:
            best, height = found, top
            idle = 0
        else:
            idle += count
        if idle >= _PATIENCE:
            idle = 0
            _shake(order, random)
    return best


def _shake(order: Int64[np.ndarray, " live"], random: np.random.Generator) -> None:
    """Swaps a few random pairs in place."""
    for _ in range(1 + order.size // 20):
        a, b = random.integers(order.size, size=2)
        order[[a, b]] = order[[b, a]]


@kernel
@typing.no_type_check
def _climb(b, order, moves, goal):
    """Tries one move a row; keeps ``order`` at the last accepted one, returns the best plan."""
    stack = np.empty(512, np.int64)
    best = b.offset.copy()
    height = FAR
    current, peak = FAR, 0
    trial = order.copy()
    for turn in range(moves.shape[0]):
        clear(b)
        top, highest = 0, 0
        for place in range(trial.size):
            box = trial[place]
            settle(b, box, find(b, box, FAR, stack))
            if b.offset[box] + b.size[box] > top:
                top, highest = b.offset[box] + b.size[box], place
            if top > current:
                break
        if top <= current:
            current, peak = top, highest
            order[:] = trial
            if top < height:
                height = top
                best[:] = b.offset
        if height <= goal:
            break
        # the request at the peak moves forward, to a place that is often near its own
        trial[:] = order
        box = trial[peak]
        target = int(peak * (1 - moves[turn, 0] ** 2))
        if moves[turn, 1] < 0.2 and peak > 0:
            peer = int(moves[turn, 0] * order.size)
            trial[peak], trial[peer] = trial[peer], trial[peak]
        else:
            for place in range(peak, target, -1):
                trial[place] = trial[place - 1]
            trial[target] = box
    return best, height
