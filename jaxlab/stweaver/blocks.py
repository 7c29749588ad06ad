"""The heap that every simulated allocator works on: segments cut into blocks, free blocks in order.

A segment is a doubly linked list of blocks that tile it. Free blocks stand in ordered sets
(``ordered.py``), one a pool; a pool is a kind of block on one stream. Block numbers are recycled.
"""

import typing

import numpy as np
from jaxtyping import Int64

from jaxlab.stweaver import ordered
from jaxlab.stweaver.kernel import kernel_part
from jaxlab.stweaver.ordered import NONE

# States of a block number, and the pool of allocators that have one; see ``ordered.NONE``.
FREE, USED, UNMAPPED, VACANT = (np.int64(state) for state in range(4))
ONLY_POOL = np.int64(0)

# What ``Heap.totals`` counts.
(
    RESERVED,
    ALLOCATED,
    REQUESTED,
    SEGMENTS,
    DRIVER_MALLOCS,
    DRIVER_FREES,
    RETRIES,
    COLLECTIONS,
    COLLECTED,
    OUT_OF_MEMORY,
    STITCHES,
    STITCHED_PARTS,
    PAGES_MAPPED,
    PAGES_UNMAPPED,
    _FRESH,
    _RECYCLED,
    TOP,
    REGION,
    _STREAMS,
    _TOTALS,
) = range(20)

COUNTERS = {
    "segments": SEGMENTS,
    "driver_mallocs": DRIVER_MALLOCS,
    "driver_frees": DRIVER_FREES,
    "retries": RETRIES,
    "collections": COLLECTIONS,
    "collected_bytes": COLLECTED,
    "out_of_memory": OUT_OF_MEMORY,
    "stitches": STITCHES,
    "stitched_parts": STITCHED_PARTS,
    "pages_mapped": PAGES_MAPPED,
    "pages_unmapped": PAGES_UNMAPPED,
}

UNLIMITED = 1 << 62
SEGMENT_ALIGNMENT = 2 << 20
_POOL_KINDS = 4


class Heap(typing.NamedTuple):
    """All state of a simulated allocator; the arrays change in place.

    Every array but the last three has one entry for each block number.
    """

    address: Int64[np.ndarray, " blocks"]
    size: Int64[np.ndarray, " blocks"]
    requested: Int64[np.ndarray, " blocks"]
    before: Int64[np.ndarray, " blocks"]  # neighbors in the segment
    behind: Int64[np.ndarray, " blocks"]
    state: Int64[np.ndarray, " blocks"]
    pool: Int64[np.ndarray, " blocks"]
    born: Int64[np.ndarray, " blocks"]  # searches of the pool when the block became free
    linked: Int64[np.ndarray, " blocks"]  # next part of a stitched allocation
    rank: Int64[np.ndarray, " blocks"]
    recycled: Int64[np.ndarray, " blocks"]
    child: Int64[np.ndarray, " slots"]
    searches: Int64[np.ndarray, " kinds"]  # of the pools of a kind
    totals: Int64[np.ndarray, " totals"]


def new_heap(mallocs: int, streams: int) -> Heap:
    """An empty heap for a number of requests; memory is touched only as it comes into use.

    Args:
      mallocs: requests that it will serve; each adds at most three blocks.
      streams: number of streams.

    Returns:
      The heap.
    """
    blocks = 3 * mallocs + 128  # the buddy system starts with a block for each power of two
    columns = {name: np.empty(blocks, np.int64) for name in Heap._fields[:-3]}
    child = np.empty(2 * blocks + _POOL_KINDS * streams, np.int64)
    child[2 * blocks :] = NONE
    totals = np.zeros(_TOTALS, np.int64)
    totals[_STREAMS] = streams
    searches = np.zeros(_POOL_KINDS, np.int64)
    return Heap(**columns, child=child, searches=searches, totals=totals)


@kernel_part
@typing.no_type_check
def root(heap, pool):
    """The slot of a pool's set."""
    return 2 * heap.size.size + pool


@kernel_part
@typing.no_type_check
def pool_of(heap, kind, stream):
    """The pool of one kind (0 small, 1 large) on a stream."""
    return kind * heap.totals[_STREAMS] + stream


@kernel_part
@typing.no_type_check
def kind_of(heap, pool):
    """0 for a pool of small blocks, 1 for large ones."""
    return pool // heap.totals[_STREAMS]


@kernel_part
@typing.no_type_check
def unmapped(heap, pool):
    """The set of unmapped blocks that belongs to a pool."""
    return pool + 2 * heap.totals[_STREAMS]


@kernel_part
@typing.no_type_check
def best_fit(heap, pool, size):
    """The smallest free block of at least ``size``, lowest address first, or NONE."""
    return ordered.first_from(heap.child, heap.rank, heap.address, root(heap, pool), size, -1)


@kernel_part
@typing.no_type_check
def new_block(heap, address, size, pool, before, behind):
    """A block that is in no set yet, linked between two neighbors (or NONE)."""
    if heap.totals[_RECYCLED] > 0:
        heap.totals[_RECYCLED] -= 1
        block = heap.recycled[heap.totals[_RECYCLED]]
    else:
        block = heap.totals[_FRESH]
        heap.totals[_FRESH] += 1
    heap.address[block] = address
    heap.size[block] = size
    heap.requested[block] = 0
    heap.pool[block] = pool
    heap.linked[block] = NONE
    heap.state[block] = VACANT
    heap.before[block] = before
    heap.behind[block] = behind
    if before != NONE:
        heap.behind[before] = block
    if behind != NONE:
        heap.before[behind] = block
    return block


@kernel_part
@typing.no_type_check
def drop_block(heap, block):
    """Unlinks a block that is in no set and recycles its number."""
    before, behind = heap.before[block], heap.behind[block]
    if before != NONE:
        heap.behind[before] = behind
    if behind != NONE:
        heap.before[behind] = before
    heap.state[block] = VACANT
    heap.recycled[heap.totals[_RECYCLED]] = block
    heap.totals[_RECYCLED] += 1


@kernel_part
@typing.no_type_check
def put(heap, block, state):
    """Adds a block to its set: free ones by (size, address), unmapped ones by address."""
    heap.state[block] = state
    heap.rank[block] = heap.size[block] if state == FREE else 0
    pool = heap.pool[block]
    heap.born[block] = heap.searches[kind_of(heap, pool)]
    if state == UNMAPPED:
        pool = unmapped(heap, pool)
    ordered.insert(heap.child, heap.rank, heap.address, root(heap, pool), block)


@kernel_part
@typing.no_type_check
def take(heap, block):
    """Removes a block from its set."""
    pool = heap.pool[block]
    if heap.state[block] == UNMAPPED:
        pool = unmapped(heap, pool)
    ordered.remove(heap.child, heap.rank, heap.address, root(heap, pool), block)
    heap.state[block] = VACANT


@kernel_part
@typing.no_type_check
def is_split(heap, block):
    """Whether the block is only a part of its segment."""
    return heap.before[block] != NONE or heap.behind[block] != NONE


@kernel_part
@typing.no_type_check
def split(heap, block, size):
    """Cuts a block that is in no set to ``size``; the rest behind it becomes free."""
    rest = new_block(
        heap,
        heap.address[block] + size,
        heap.size[block] - size,
        heap.pool[block],
        block,
        heap.behind[block],
    )
    heap.size[block] = size
    put(heap, rest, FREE)


@kernel_part
@typing.no_type_check
def merge(heap, block, state):
    """Joins a block that is in no set with the neighbors that are in a state."""
    before, behind = heap.before[block], heap.behind[block]
    if before != NONE and heap.state[before] == state:
        take(heap, before)
        heap.address[block] = heap.address[before]
        heap.size[block] += heap.size[before]
        drop_block(heap, before)
    if behind != NONE and heap.state[behind] == state:
        take(heap, behind)
        heap.size[block] += heap.size[behind]
        drop_block(heap, behind)


@kernel_part
@typing.no_type_check
def use(heap, block, request):
    """Hands a block out."""
    heap.state[block] = USED
    heap.requested[block] = request
    heap.totals[ALLOCATED] += heap.size[block]
    heap.totals[REQUESTED] += request


@kernel_part
@typing.no_type_check
def give_back(heap, block):
    """Frees a block and joins it with its free neighbors."""
    heap.totals[ALLOCATED] -= heap.size[block]
    heap.totals[REQUESTED] -= heap.requested[block]
    heap.requested[block] = 0
    heap.state[block] = VACANT
    merge(heap, block, FREE)
    put(heap, block, FREE)


@kernel_part
@typing.no_type_check
def driver_malloc(heap, capacity, size, pool):
    """A new segment as one block that is in no set, or NONE if the driver has no room."""
    if heap.totals[RESERVED] + size > capacity:
        return NONE
    address = heap.totals[TOP]
    heap.totals[TOP] += -(-size // SEGMENT_ALIGNMENT) * SEGMENT_ALIGNMENT
    heap.totals[RESERVED] += size
    heap.totals[SEGMENTS] += 1
    heap.totals[DRIVER_MALLOCS] += 1
    return new_block(heap, address, size, pool, NONE, NONE)


@kernel_part
@typing.no_type_check
def driver_free(heap, block):
    """Returns a whole segment, a free block, to the driver."""
    take(heap, block)
    heap.totals[RESERVED] -= heap.size[block]
    heap.totals[SEGMENTS] -= 1
    heap.totals[DRIVER_FREES] += 1
    drop_block(heap, block)


def table(heap: Heap) -> Int64[np.ndarray, "blocks 4"]:
    """The blocks of a heap by address.

    Args:
      heap: the heap.

    Returns:
      int64 ``[blocks, 4]``: address, size, state, and the number of the segment, by address.
    """
    block = np.arange(heap.totals[_FRESH])
    block = block[heap.state[block] != VACANT]
    block = block[np.argsort(heap.address[block])]
    segment = np.cumsum(heap.before[block] == NONE) - 1
    return np.stack([heap.address[block], heap.size[block], heap.state[block], segment], axis=1)
