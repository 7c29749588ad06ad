"""XLA's best-fit-with-coalescing allocator (BFC), which serves the memory of a GPU under JAX."""

import typing

import numpy as np

from jaxlab.stweaver import blocks
from jaxlab.stweaver.blocks import FREE, UNLIMITED
from jaxlab.stweaver.kernel import kernel_part
from jaxlab.stweaver.ordered import NONE
from jaxlab.stweaver.settings import BFC, MIB, Settings, capacity_of, positive

ROUNDING = 256
FIRST_REGION = 2 * MIB
MAX_WASTE = 128 * MIB
BACK_OFF = np.float32(0.9)  # the original multiplies in single precision


def bfc(
    *,
    limit: int | None = None,
    allow_growth: bool = True,
    fragmentation_fraction: float = 0.0,
    capacity: int | None = None,
) -> Settings:
    """Settings of XLA's BFC allocator.

    Args:
      limit: bytes that it may take; None is no limit.
      allow_growth: whether regions are taken as needed; otherwise one region of ``limit`` bytes is
        taken at once, as JAX does on a GPU, and "reserved" says nothing.
      fragmentation_fraction: part of ``limit`` from which the rest of a chunk is split off even if
        the chunk is less than twice the request; 0 is 128 MiB.
      capacity: bytes that the driver has, which may be less than ``limit``.

    Returns:
      The settings.

    Raises:
      ValueError: an option is out of its range.
    """
    if limit is None and (not allow_growth or fragmentation_fraction):
        raise ValueError(
            "simulate: 'bfc' needs a limit in bytes for allow_growth=False or a "
            "fragmentation_fraction."
        )
    if not 0 <= fragmentation_fraction < 1:
        raise ValueError(
            f"simulate: fragmentation_fraction={fragmentation_fraction} must lie in [0, 1)."
        )
    bytes_limit = UNLIMITED if limit is None else positive("limit", limit, "bfc")
    first = min(FIRST_REGION, bytes_limit) if allow_growth else bytes_limit
    waste = int(fragmentation_fraction * bytes_limit) if fragmentation_fraction else MAX_WASTE
    return Settings(
        BFC,
        capacity=capacity_of(capacity, "bfc"),
        limit=bytes_limit,
        first_region=-(-first // ROUNDING) * ROUNDING,
        max_waste=waste,
    )


@kernel_part
@typing.no_type_check
def malloc(heap, settings, request):
    """A chunk for a request, or NONE when memory is exhausted.

    The 21 bins hold ranges of sizes, each ordered by (size, address), and are searched upward: one
    ordered set of all free chunks gives the same chunk.
    """
    size = -(-request // ROUNDING) * ROUNDING
    chunk = blocks.best_fit(heap, blocks.ONLY_POOL, size)
    if chunk == NONE:
        chunk = _extend(heap, settings, size)
    if chunk == NONE:
        heap.totals[blocks.OUT_OF_MEMORY] += 1
        return NONE
    blocks.take(heap, chunk)
    if heap.size[chunk] >= 2 * size or heap.size[chunk] - size >= settings.max_waste:
        blocks.split(heap, chunk, size)
    blocks.use(heap, chunk, request)
    return chunk


@kernel_part
@typing.no_type_check
def _extend(heap, settings, size):
    """A free chunk that is a new region of at least ``size``, or NONE."""
    available = (settings.limit - heap.totals[blocks.RESERVED]) // ROUNDING * ROUNDING
    if size > available:
        return NONE
    if heap.totals[blocks.REGION] == 0:
        heap.totals[blocks.REGION] = settings.first_region
    grown = False
    while size > heap.totals[blocks.REGION]:
        heap.totals[blocks.REGION] *= 2
        grown = True
    wanted = min(heap.totals[blocks.REGION], available)
    chunk = blocks.driver_malloc(heap, settings.capacity, wanted, blocks.ONLY_POOL)
    while chunk == NONE:
        wanted = int(np.float32(wanted) * BACK_OFF)
        wanted = -(-wanted // ROUNDING) * ROUNDING
        if wanted < size:
            return NONE
        chunk = blocks.driver_malloc(heap, settings.capacity, wanted, blocks.ONLY_POOL)
    if not grown:
        heap.totals[blocks.REGION] *= 2
    blocks.put(heap, chunk, FREE)
    return chunk
