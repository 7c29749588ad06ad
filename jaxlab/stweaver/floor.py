"""Allocators without any knowledge, the floor for the others: best fit, buddy and bump.

Each works on one contiguous heap from address 0; what it reserves is the highest address so far.
"""

import typing

import numpy as np

from jaxlab.stweaver import blocks
from jaxlab.stweaver.blocks import FREE, UNLIMITED
from jaxlab.stweaver.kernel import kernel_part
from jaxlab.stweaver.ordered import NONE
from jaxlab.stweaver.settings import BEST_FIT, BUDDY, BUMP, Settings, capacity_of, positive

_WHOLE = np.int64(UNLIMITED >> 1)  # a power of two, so that the buddy system can halve it


def best_fit(*, capacity: int | None = None, alignment: int = 512) -> Settings:
    """Settings of best fit: the smallest hole that fits, lowest address first, else the end.

    Args:
      capacity: bytes of the heap; None is no limit.
      alignment: requests are rounded up to a multiple of it.

    Returns:
      The settings.

    Raises:
      ValueError: an option is out of its range.
    """
    return _settings(BEST_FIT, "best_fit", capacity, alignment)


def buddy(*, capacity: int | None = None, alignment: int = 512) -> Settings:
    """Settings of the buddy system: blocks of powers of two, merged with their other half.

    Args:
      capacity: bytes of the heap; None is no limit.
      alignment: smallest block; a power of two.

    Returns:
      The settings.

    Raises:
      ValueError: an option is out of its range.
    """
    settings = _settings(BUDDY, "buddy", capacity, alignment)
    if alignment & (alignment - 1):
        raise ValueError(f"simulate: alignment={alignment} of 'buddy' must be a power of two.")
    return settings


def bump(*, capacity: int | None = None, alignment: int = 512) -> Settings:
    """Settings of a bump allocator: never reuses a byte until everything is free.

    Args:
      capacity: bytes of the heap; None is no limit.
      alignment: requests are rounded up to a multiple of it.

    Returns:
      The settings.

    Raises:
      ValueError: an option is out of its range.
    """
    return _settings(BUMP, "bump", capacity, alignment)


def _settings(code: int, allocator: str, capacity: int | None, alignment: int) -> Settings:
    return Settings(
        code,
        capacity=capacity_of(capacity, allocator),
        alignment=positive("alignment", alignment, allocator),
    )


@kernel_part
@typing.no_type_check
def malloc(heap, settings, request):
    """A block for a request, or NONE when the heap would grow over its capacity."""
    size = -(-request // settings.alignment) * settings.alignment
    if settings.code == BUMP:
        return _bump(heap, settings, request, size)
    if heap.totals[blocks.SEGMENTS] == 0:
        heap.totals[blocks.SEGMENTS] = 1
        whole = blocks.new_block(heap, np.int64(0), _WHOLE, blocks.ONLY_POOL, NONE, NONE)
        blocks.put(heap, whole, FREE)
    if settings.code == BUDDY:
        power = settings.alignment
        while power < size:
            power *= 2
        size = power
    block = blocks.best_fit(heap, blocks.ONLY_POOL, size)
    if block == NONE or heap.address[block] + size > settings.capacity:
        heap.totals[blocks.OUT_OF_MEMORY] += 1
        return NONE
    blocks.take(heap, block)
    if settings.code == BUDDY:
        while heap.size[block] > size:
            blocks.split(heap, block, heap.size[block] // 2)
    elif heap.size[block] > size:
        blocks.split(heap, block, size)
    _mark(heap, block, request)
    return block


@kernel_part
@typing.no_type_check
def free(heap, settings, block):
    """Returns a block to the heap."""
    if settings.code == BEST_FIT:
        blocks.give_back(heap, block)
        return
    heap.totals[blocks.ALLOCATED] -= heap.size[block]
    heap.totals[blocks.REQUESTED] -= heap.requested[block]
    if settings.code == BUMP:
        blocks.drop_block(heap, block)
        if heap.totals[blocks.ALLOCATED] == 0:
            heap.totals[blocks.TOP] = 0
        return
    heap.state[block] = blocks.VACANT
    size = heap.size[block]
    while size < _WHOLE:
        lower = heap.address[block] & size == 0
        other = heap.behind[block] if lower else heap.before[block]
        if heap.state[other] != FREE or heap.size[other] != size:
            break
        blocks.take(heap, other)
        if not lower:
            heap.address[block] = heap.address[other]
        blocks.drop_block(heap, other)
        size *= 2
        heap.size[block] = size
    blocks.put(heap, block, FREE)


@kernel_part
@typing.no_type_check
def _bump(heap, settings, request, size):
    address = heap.totals[blocks.TOP]
    if address + size > settings.capacity:
        heap.totals[blocks.OUT_OF_MEMORY] += 1
        return NONE
    heap.totals[blocks.TOP] += size
    block = blocks.new_block(heap, address, size, blocks.ONLY_POOL, NONE, NONE)
    _mark(heap, block, request)
    return block


@kernel_part
@typing.no_type_check
def _mark(heap, block, request):
    blocks.use(heap, block, request)
    end = heap.address[block] + heap.size[block]
    heap.totals[blocks.RESERVED] = max(heap.totals[blocks.RESERVED], end)
