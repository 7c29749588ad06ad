"""The official code's default planner, kept as a baseline: ``--static-algo split-and-fuse``."""

import typing

import numpy as np
from jaxtyping import Int64

from jaxlab.stweaver.kernel import kernel, kernel_part
from jaxlab.stweaver.lifetimes import Lifetimes


def official(lives: Lifetimes) -> Int64[np.ndarray, " live"]:
    """Offsets of the official planner, with its habits and without its bug at time 0.

    No HomoPhase groups. Size classes go in descending size; a request enters an existing layer,
    largest first, at the skyline of its lifetime (holes below it stay empty), if it stays within
    the layer. The rest opens layers by Algorithm 1.

    Args:
      lives: the requests.

    Returns:
      int64 ``[live]``, bytes.

    Raises:
      ValueError: the trace is periodic; the official code looks at wrapped lifetimes in layers
        only, so its plans overlap.

    Source: section 2.5 of the notes, read in github infinigence/STAlloc.
    """
    if lives.periodic:
        raise ValueError(
            "plan: planner='stweaver_official' gives overlapping plans of periodic traces; use "
            "'stweaver'."
        )
    order = np.lexsort((lives.last, lives.first, -lives.size))
    return _official(lives.size, lives.first, lives.last, order)


@kernel
@typing.no_type_check
def _official(size, first, last, order):
    count = order.size
    offset = np.full(count, -1, np.int64)
    base, room = np.empty(count, np.int64), np.empty(count, np.int64)
    following = np.full(count, -1, np.int64)  # the members of a layer, as a linked list
    head = np.full(count, -1, np.int64)
    layers, ceiling, position = 0, 0, 0
    while position < count:
        behind = position
        while behind < count and size[order[behind]] == size[order[position]]:
            behind += 1
        old = layers
        for place in range(position, behind):
            request = order[place]
            for layer in range(old):
                top = _skyline(layer, request, base, head, following, offset, size, first, last)
                if top + size[request] <= base[layer] + room[layer]:
                    offset[request] = top
                    following[request], head[layer] = head[layer], request
                    break
        for place in range(position, behind):
            request = order[place]
            if offset[request] >= 0:
                continue
            chosen, latest = -1, -1
            for layer in range(old, layers):
                release = last[head[layer]]
                if release <= first[request] and release > latest:
                    chosen, latest = layer, release
            if chosen < 0:
                chosen = layers
                base[chosen], room[chosen] = ceiling, size[request]
                ceiling += size[request]
                layers += 1
            offset[request] = base[chosen]
            following[request], head[chosen] = head[chosen], request
        position = behind
    return offset


@kernel_part
@typing.no_type_check
def _skyline(layer, request, base, head, following, offset, size, first, last):
    top = base[layer]
    other = head[layer]
    while other >= 0:
        if first[other] < last[request] and first[request] < last[other]:
            top = max(top, offset[other] + size[other])
        other = following[other]
    return top
