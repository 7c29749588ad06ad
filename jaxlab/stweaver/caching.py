"""PyTorch's CUDA caching allocator, branch by branch; GMLake's stitching is one branch more."""

import typing

from jaxlab.stweaver import blocks, expandable, ordered
from jaxlab.stweaver.blocks import UNLIMITED
from jaxlab.stweaver.kernel import kernel_part
from jaxlab.stweaver.ordered import NONE
from jaxlab.stweaver.settings import CACHING, MIB, Settings, capacity_of, positive

MIN_BLOCK = 512
SMALL_SIZE = 1 * MIB  # requests up to this go to the small pool
SMALL_SEGMENT = 2 * MIB
MIN_LARGE_SEGMENT = 10 * MIB  # smaller large requests share a segment of the next size
LARGE_SEGMENT = 20 * MIB
SEGMENT_ROUNDING = 2 * MIB
GMLAKE_PAGE = 2 * MIB
DEFAULT_DEVICE = 80 << 30


def caching(
    *,
    capacity: int | None = None,
    max_split_size: int | None = None,
    roundup_power2_divisions: int = 0,
    gc_threshold: float = 0.0,
) -> Settings:
    """Settings of PyTorch's caching allocator.

    Args:
      capacity: bytes that the driver has (and the per-process limit); None is no limit.
      max_split_size: blocks of at least this many bytes are never split; None splits all.
      roundup_power2_divisions: steps between two powers of two to which requests are rounded up;
        0 or 1 rounds to 512 bytes. A power of two.
      gc_threshold: part of ``capacity`` above which segments that are unused and old are returned
        before a new one is asked for; 0 is never.

    Returns:
      The settings.

    Raises:
      ValueError: an option is out of its range.
    """
    if max_split_size is not None and positive("max_split_size", max_split_size, "caching") <= (
        LARGE_SEGMENT
    ):
        raise ValueError(
            f"simulate: max_split_size={max_split_size} must be more than {LARGE_SEGMENT}, the "
            "size of a shared segment, as in PyTorch."
        )
    divisions = roundup_power2_divisions
    if divisions < 0 or divisions != int(divisions) or divisions & (divisions - 1):
        raise ValueError(
            f"simulate: roundup_power2_divisions={divisions} must be 0 or a power of two."
        )
    if not 0 <= gc_threshold < 1 or (gc_threshold and capacity is None):
        raise ValueError(
            f"simulate: gc_threshold={gc_threshold} must lie in [0, 1) and needs a capacity, "
            f"got capacity={capacity}."
        )
    bytes_limit = capacity_of(capacity, "caching")
    return Settings(
        CACHING,
        capacity=bytes_limit,
        max_split_size=UNLIMITED if max_split_size is None else int(max_split_size),
        power2_divisions=int(divisions),
        collect_above=int(gc_threshold * bytes_limit) if gc_threshold else 0,
    )


def expandable_segments(
    *, capacity: int | None = None, virtual_range: int | None = None
) -> Settings:
    """Settings of PyTorch's caching allocator with expandable segments.

    Args:
      capacity: bytes that the driver has; None is no limit.
      virtual_range: bytes of address space of one segment; None is 1 1/8 of the capacity, or of
        80 GiB without one.

    Returns:
      The settings.

    Raises:
      ValueError: an option is out of its range.
    """
    device = DEFAULT_DEVICE if capacity is None else positive("capacity", capacity, "expandable")
    space = device + device // 8 if virtual_range is None else virtual_range
    return Settings(
        CACHING,
        capacity=capacity_of(capacity, "expandable"),
        expandable=True,
        virtual_range=positive("virtual_range", space, "expandable"),
    )


def gmlake(*, capacity: int | None = None, stitch_above: int = 512 * MIB) -> Settings:
    """Settings of GMLake: the caching allocator that also stitches free blocks together.

    Args:
      capacity: bytes that the driver has; None is no limit.
      stitch_above: bytes of the smallest request that may be stitched (``fragLimit``).

    Returns:
      The settings.

    Raises:
      ValueError: an option is out of its range.
    """
    return Settings(
        CACHING,
        capacity=capacity_of(capacity, "gmlake"),
        gmlake=True,
        stitch_above=positive("stitch_above", stitch_above, "gmlake"),
    )


@kernel_part
@typing.no_type_check
def rounded(settings, size):
    """Bytes of the block that serves a request of ``size`` bytes."""
    if size < MIN_BLOCK:
        return MIN_BLOCK
    divisions = settings.power2_divisions
    if divisions > 1 and size > MIN_BLOCK * divisions:
        floor = 1
        while 2 * floor <= size:
            floor *= 2
        step = floor // divisions
        return -(-size // step) * step
    size = -(-size // MIN_BLOCK) * MIN_BLOCK
    if settings.gmlake and size > SMALL_SIZE:
        size = -(-size // GMLAKE_PAGE) * GMLAKE_PAGE
    return size


@kernel_part
@typing.no_type_check
def segment_size(size):
    """Bytes asked from the driver for a rounded request that no free block can serve."""
    if size <= SMALL_SIZE:
        return SMALL_SEGMENT
    if size < MIN_LARGE_SEGMENT:
        return LARGE_SEGMENT
    return -(-size // SEGMENT_ROUNDING) * SEGMENT_ROUNDING


@kernel_part
@typing.no_type_check
def malloc(heap, settings, request, stream):
    """A block for a request, or NONE when memory is exhausted."""
    size = rounded(settings, request)
    kind = 0 if size <= SMALL_SIZE else 1
    pool = blocks.pool_of(heap, kind, stream)
    block = _search(heap, settings, pool, size)
    if block == NONE and kind == 1 and size >= settings.stitch_above:
        block = _stitch(heap, pool, size)
        if block != NONE:
            _use_parts(heap, block, request)
            return block
    if block == NONE:
        if settings.collect_above > 0:
            _collect(heap, settings)
        block = _extend(heap, settings, pool, size)
    if block == NONE and _release_oversize(heap, settings, pool, size):
        block = _extend(heap, settings, pool, size)
    if block == NONE:
        _release_all(heap, settings)
        heap.totals[blocks.RETRIES] += 1
        block = _extend(heap, settings, pool, size)
    if block == NONE:
        heap.totals[blocks.OUT_OF_MEMORY] += 1
        return NONE
    if _should_split(settings, kind, size, heap.size[block] - size):
        blocks.split(heap, block, size)
    blocks.use(heap, block, request)
    return block


@kernel_part
@typing.no_type_check
def free(heap, block):
    """Returns a block, or all parts of a stitched one, to its pool."""
    while block != NONE:
        part = heap.linked[block]
        heap.linked[block] = NONE
        blocks.give_back(heap, block)
        block = part


@kernel_part
@typing.no_type_check
def _should_split(settings, kind, size, rest):
    if kind == 0 or settings.expandable:
        return rest >= MIN_BLOCK
    if settings.gmlake:
        return rest >= GMLAKE_PAGE
    return size < settings.max_split_size and rest > SMALL_SIZE


@kernel_part
@typing.no_type_check
def _search(heap, settings, pool, size):
    """Takes the best fitting free block out of its set, or returns NONE."""
    heap.searches[blocks.kind_of(heap, pool)] += 1
    block = blocks.best_fit(heap, pool, size)
    if block == NONE:
        return NONE
    if settings.expandable:
        block = expandable.best_of(heap, pool, block)
    limit = settings.max_split_size
    if size < limit and heap.size[block] >= limit:
        return NONE
    if size >= limit and heap.size[block] >= size + LARGE_SEGMENT:
        return NONE
    blocks.take(heap, block)
    return block


@kernel_part
@typing.no_type_check
def _extend(heap, settings, pool, size):
    """A block of at least ``size`` from new driver memory, in no set, or NONE."""
    wanted = segment_size(size)
    if heap.totals[blocks.RESERVED] + wanted > settings.capacity:
        return NONE
    if settings.expandable:
        return expandable.grow(heap, settings, pool, size)
    return blocks.driver_malloc(heap, settings.capacity, wanted, pool)


@kernel_part
@typing.no_type_check
def _next_free(heap, pool, block):
    return ordered.after(heap.child, heap.rank, heap.address, blocks.root(heap, pool), block)


@kernel_part
@typing.no_type_check
def _largest(heap, pool, below, address):
    """The last free block of a pool whose (size, address) lies below a key."""
    slot = blocks.root(heap, pool)
    return ordered.last_before(heap.child, heap.rank, heap.address, slot, below, address)


@kernel_part
@typing.no_type_check
def _release_oversize(heap, settings, pool, size):
    """Frees unsplittable blocks that could not serve the request; whether that was enough."""
    if settings.max_split_size == UNLIMITED:
        return False
    wanted = max(size, settings.max_split_size)
    block = blocks.best_fit(heap, pool, wanted)
    if block != NONE:
        blocks.driver_free(heap, block)
        return True
    released = 0
    block = _largest(heap, pool, UNLIMITED, 0)
    while block != NONE and released < wanted and heap.size[block] >= settings.max_split_size:
        smaller = _largest(heap, pool, heap.size[block], heap.address[block])
        released += heap.size[block]
        blocks.driver_free(heap, block)
        block = smaller
    return released >= wanted


@kernel_part
@typing.no_type_check
def _release_all(heap, settings):
    """Frees every cached block that is a whole segment; unmaps whole pages of expandable ones."""
    for kind in (1, 0):
        first = blocks.pool_of(heap, kind, 0)
        for pool in range(first, blocks.pool_of(heap, kind + 1, 0)):
            block = blocks.best_fit(heap, pool, 0)
            while block != NONE:
                size, address = heap.size[block], heap.address[block]
                if settings.expandable:
                    expandable.release(heap, block)
                elif not blocks.is_split(heap, block):
                    blocks.driver_free(heap, block)
                block = ordered.first_from(
                    heap.child,
                    heap.rank,
                    heap.address,
                    blocks.root(heap, pool),
                    size,
                    address + 1,
                )


@kernel_part
@typing.no_type_check
def _collect(heap, settings):
    """Frees whole unused large segments, the oldest first, down to the threshold."""
    reserved = heap.totals[blocks.RESERVED]
    if reserved <= settings.collect_above:
        return
    heap.totals[blocks.COLLECTIONS] += 1
    target = reserved - settings.collect_above
    first, end = blocks.pool_of(heap, 1, 0), blocks.pool_of(heap, 2, 0)
    age, count = 0, 0
    for pool in range(first, end):
        block = blocks.best_fit(heap, pool, 0)
        while block != NONE:
            if not blocks.is_split(heap, block):
                age += heap.searches[1] - heap.born[block]
                count += 1
            block = _next_free(heap, pool, block)
    reclaimed, progress = 0, True
    while reclaimed < target and progress and count > 0:
        threshold = age / count
        progress = False
        for pool in range(first, end):
            block = blocks.best_fit(heap, pool, 0)
            while block != NONE:
                larger = _next_free(heap, pool, block)
                block_age = heap.searches[1] - heap.born[block]
                if not blocks.is_split(heap, block) and block_age >= threshold:
                    progress = True
                    reclaimed += heap.size[block]
                    age -= block_age
                    count -= 1
                    blocks.driver_free(heap, block)
                block = larger
    heap.totals[blocks.COLLECTED] += reclaimed


@kernel_part
@typing.no_type_check
def _stitch(heap, pool, size):
    """Free blocks, largest first, that together cover ``size``: chained parts, or NONE."""
    covered, parts = 0, 0
    block = _largest(heap, pool, UNLIMITED, 0)
    while block != NONE and covered < size:
        covered += heap.size[block]
        parts += 1
        block = _largest(heap, pool, heap.size[block], heap.address[block])
    if covered < size or parts < 2:
        return NONE
    first, missing = NONE, size
    for _ in range(parts):
        block = _largest(heap, pool, UNLIMITED, 0)
        blocks.take(heap, block)
        if heap.size[block] - missing >= GMLAKE_PAGE:
            blocks.split(heap, block, missing)
        missing -= heap.size[block]
        heap.linked[block] = first
        first = block
    heap.totals[blocks.STITCHES] += 1
    heap.totals[blocks.STITCHED_PARTS] += parts
    return first


@kernel_part
@typing.no_type_check
def _use_parts(heap, block, request):
    while block != NONE:
        share = min(request, heap.size[block])
        blocks.use(heap, block, share)
        request -= share
        block = heap.linked[block]
