"""Expandable segments: one growing segment a pool, of which whole pages are mapped and unmapped."""

import typing

from jaxlab.stweaver import blocks, ordered
from jaxlab.stweaver.blocks import FREE, UNMAPPED, USED
from jaxlab.stweaver.kernel import kernel_part
from jaxlab.stweaver.ordered import NONE

SMALL_PAGE = 2 << 20
LARGE_PAGE = 20 << 20


@kernel_part
@typing.no_type_check
def best_of(heap, pool, block):
    """The best fit when a block before unmapped space counts with that space.

    Starts at the smallest block that fits and walks on while the next one can grow less.
    """
    slot = blocks.root(heap, pool)
    larger = ordered.after(heap.child, heap.rank, heap.address, slot, block)
    while larger != NONE and _room(heap, larger) < _room(heap, block):
        block = larger
        larger = ordered.after(heap.child, heap.rank, heap.address, slot, block)
    return block


@kernel_part
@typing.no_type_check
def grow(heap, settings, pool, size):
    """Maps pages until a block of at least ``size`` exists; takes it out of its set, or NONE."""
    block = _find(heap, settings, pool, size)
    if block == NONE:
        return NONE
    if heap.state[block] == UNMAPPED:
        block = _map(heap, settings, block, min(heap.size[block], size))
    while block != NONE and heap.size[block] < size:
        space = heap.behind[block]
        missing = min(size - heap.size[block], heap.size[space])
        block = _map(heap, settings, space, missing)
    if block != NONE:
        blocks.take(heap, block)
    return block


@kernel_part
@typing.no_type_check
def release(heap, block):
    """Unmaps the whole pages of a free block; drops the segment when nothing else is in it."""
    page = _page(heap, block)
    start, stop = heap.address[block], heap.address[block] + heap.size[block]
    first = -(-start // page) * page  # segments start at multiples of every page size
    last = stop // page * page
    if first >= last:
        return
    blocks.take(heap, block)
    pool = heap.pool[block]
    if first > start:
        head = blocks.new_block(heap, start, first - start, pool, heap.before[block], block)
        blocks.put(heap, head, FREE)
    if stop > last:
        tail = blocks.new_block(heap, last, stop - last, pool, block, heap.behind[block])
        blocks.put(heap, tail, FREE)
    heap.address[block] = first
    heap.size[block] = last - first
    heap.totals[blocks.RESERVED] -= last - first
    heap.totals[blocks.PAGES_UNMAPPED] += (last - first) // page
    blocks.merge(heap, block, UNMAPPED)
    if blocks.is_split(heap, block):
        blocks.put(heap, block, UNMAPPED)
    else:
        heap.totals[blocks.SEGMENTS] -= 1
        blocks.drop_block(heap, block)


@kernel_part
@typing.no_type_check
def _room(heap, block):
    behind = heap.behind[block]
    space = heap.size[behind] if behind != NONE and heap.state[behind] == UNMAPPED else 0
    return heap.size[block] + space


@kernel_part
@typing.no_type_check
def _page(heap, block):
    return SMALL_PAGE if blocks.kind_of(heap, heap.pool[block]) == 0 else LARGE_PAGE


@kernel_part
@typing.no_type_check
def _find(heap, settings, pool, size):
    """The lowest run of free and unmapped blocks with room for ``size``; else a new segment."""
    slot = blocks.root(heap, blocks.unmapped(heap, pool))
    space = ordered.first_from(heap.child, heap.rank, heap.address, slot, 0, -1)
    while space != NONE:
        first = space
        before = heap.before[space]
        if before != NONE and heap.state[before] != USED:
            first = before
        room, block = 0, first
        while block != NONE and room < size and heap.state[block] != USED:
            room += heap.size[block]
            block = heap.behind[block]
        if room >= size:
            return first
        space = ordered.after(heap.child, heap.rank, heap.address, slot, space)
    page = SMALL_PAGE if blocks.kind_of(heap, pool) == 0 else LARGE_PAGE
    span = -(-settings.virtual_range // page) * page
    if size > span:
        return NONE
    block = blocks.new_block(heap, heap.totals[blocks.TOP], span, pool, NONE, NONE)
    heap.totals[blocks.TOP] += -(-span // LARGE_PAGE) * LARGE_PAGE
    heap.totals[blocks.SEGMENTS] += 1
    blocks.put(heap, block, UNMAPPED)
    return block


@kernel_part
@typing.no_type_check
def _map(heap, settings, space, size):
    """Maps whole pages at the start of unmapped space; the free block they end up in, or NONE."""
    page = _page(heap, space)
    mapped = -(-size // page) * page
    if heap.totals[blocks.RESERVED] + mapped > settings.capacity:
        return NONE
    blocks.take(heap, space)
    if mapped < heap.size[space]:
        rest = blocks.new_block(
            heap,
            heap.address[space] + mapped,
            heap.size[space] - mapped,
            heap.pool[space],
            space,
            heap.behind[space],
        )
        heap.size[space] = mapped
        blocks.put(heap, rest, UNMAPPED)
    heap.totals[blocks.RESERVED] += mapped
    heap.totals[blocks.DRIVER_MALLOCS] += 1
    heap.totals[blocks.PAGES_MAPPED] += mapped // page
    blocks.merge(heap, space, FREE)
    blocks.put(heap, space, FREE)
    return space
