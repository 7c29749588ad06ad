"""Replaying a trace through the allocators that people use today."""

import dataclasses
import typing
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Int64

from jaxlab.stweaver import bfc, blocks, caching, floor
from jaxlab.stweaver.events import Events
from jaxlab.stweaver.kernel import kernel
from jaxlab.stweaver.ordered import NONE
from jaxlab.stweaver.settings import BFC, CACHING, Settings
from jaxlab.stweaver.tflite import tflite_offsets
from jaxlab.stweaver.trace import Trace

ALLOCATORS: dict[str, Callable[..., Settings]] = {
    "caching": caching.caching,
    "expandable": caching.expandable_segments,
    "gmlake": caching.gmlake,
    "bfc": bfc.bfc,
    "best_fit": floor.best_fit,
    "buddy": floor.buddy,
    "bump": floor.bump,
}


@typing.no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class Replay:
    """What an allocator did with a trace.

    Attributes:
      allocator: its name.
      request: int64 ``[events]``, row of the trace.
      malloc: bool ``[events]``, malloc or free.
      time: int64 ``[events]``.
      address: int64 ``[requests]``, bytes; -1 where memory was exhausted, or nothing was asked for.
      reserved: int64 ``[events]``, bytes taken from the driver, after each event.
      allocated: int64 ``[events]``, bytes of the blocks handed out.
      requested: int64 ``[events]``, bytes that were asked for, of the requests served.
      counters: segments (in the end), driver calls, retries, collections, exhausted requests
        (``out_of_memory``), stitches and pages.
      blocks: int64 ``[blocks, 4]``, the heap after the last event by address: address, size,
        state (0 free, 1 used, 2 unmapped) and number of the segment.
    """

    allocator: str
    request: Int64[np.ndarray, " events"]
    malloc: Bool[np.ndarray, " events"]
    time: Int64[np.ndarray, " events"]
    address: Int64[np.ndarray, " requests"]
    reserved: Int64[np.ndarray, " events"]
    allocated: Int64[np.ndarray, " events"]
    requested: Int64[np.ndarray, " events"]
    counters: dict[str, int]
    blocks: Int64[np.ndarray, "blocks 4"]

    @property
    def peak_reserved(self) -> int:
        """Largest number of reserved bytes."""
        return int(self.reserved.max(initial=0))

    @property
    def peak_allocated(self) -> int:
        """Largest number of allocated bytes, rounding included; may stand at another time."""
        return int(self.allocated.max(initial=0))

    @property
    def peak_requested(self) -> int:
        """Largest number of requested bytes; may stand at another time."""
        return int(self.requested.max(initial=0))

    @property
    def efficiency(self) -> float:
        """Peak allocated over peak reserved bytes, separate maxima, as the paper has it."""
        return self.peak_allocated / self.peak_reserved if self.peak_reserved else 1.0

    @property
    def requested_efficiency(self) -> float:
        """Peak requested over peak reserved bytes: what rounding wastes counts as waste."""
        return self.peak_requested / self.peak_reserved if self.peak_reserved else 1.0

    @property
    def survived(self) -> bool:
        """Whether every request was served."""
        return self.counters["out_of_memory"] == 0

    def __repr__(self) -> str:
        return (
            f"Replay({self.allocator!r}, events={self.time.size}, "
            f"reserved={self.peak_reserved}, allocated={self.peak_allocated}, "
            f"requested={self.peak_requested}, efficiency={self.efficiency:.3f})"
        )


def simulate(
    trace: Trace, allocator: str, *, until: int | None = None, **options: typing.Any
) -> Replay:
    """Replays a trace through an allocator.

    A request that finds memory exhausted is counted and stays unserved; the replay goes on. A
    request of 0 bytes is never seen by the allocator.

    Args:
      trace: the requests. Of a periodic trace one period is replayed; ``unroll`` gives more.
      allocator: "caching" (PyTorch), "expandable" (PyTorch with expandable segments), "gmlake",
        "bfc" (XLA), "tflite" (an offline planner), or "best_fit", "buddy" or "bump".
      until: replay only the events before this time, to see the heap as it is then.
      **options: of the allocator: ``capacity`` (all but "tflite"); ``max_split_size``,
        ``roundup_power2_divisions``, ``gc_threshold`` ("caching"); ``virtual_range``
        ("expandable"); ``stitch_above`` ("gmlake"); ``limit``, ``allow_growth``,
        ``fragmentation_fraction`` ("bfc"); ``alignment`` ("tflite", "best_fit", "buddy", "bump").

    Returns:
      Addresses, curves and counters.

    Raises:
      ValueError: an unknown allocator, or an option out of its range.
      TypeError: an option that the allocator does not have.

    Source: note in ``docs/sources/stweaver.md``, section "allocators".

    Example:
      >>> trace = Trace.of(size=[700, 3 << 20, 700], start=[0, 1, 3], end=[2, 4, 5])
      >>> simulate(trace, "caching").peak_reserved >> 20
      22
    """
    if allocator != "tflite" and allocator not in ALLOCATORS:
        known = ", ".join(sorted([*ALLOCATORS, "tflite"]))
        raise ValueError(f"simulate: allocator={allocator!r} must be one of {known}.")
    events = Events.of(trace)
    if until is not None:
        events = events.before(until)
    if allocator == "tflite":
        return _offline(trace, events, tflite_offsets(trace, **options))
    try:
        settings = ALLOCATORS[allocator](**options)
    except TypeError as error:
        raise TypeError(f"simulate: {allocator!r} does not take these options: {error}.") from None
    _, stream = np.unique(trace.stream, return_inverse=True)
    heap = blocks.new_heap(len(trace), int(stream.max(initial=0)) + 1)
    address = np.full(len(trace), NONE, np.int64)
    curves = np.empty((3, events.time.size), np.int64)
    _replay(heap, settings, events.request, events.malloc, trace.size, stream, address, curves)
    reserved, allocated, requested = curves
    counters = {name: int(heap.totals[place]) for name, place in blocks.COUNTERS.items()}
    return Replay(
        allocator,
        events.request,
        events.malloc,
        events.time,
        address,
        reserved,
        allocated,
        requested,
        counters,
        blocks.table(heap),
    )


def smallest_limit(
    trace: Trace, allocator: str, option: str = "capacity", **options: typing.Any
) -> int:
    """The smallest capacity, in steps of 2 MiB, with which an allocator serves a whole trace.

    Found by bisection: an allocator that survives with less and fails with more is possible in
    principle, so the result is a capacity that suffices while 2 MiB less does not.

    Args:
      trace: the requests.
      allocator: as in ``simulate``.
      option: the name of the option that bounds memory; "limit" for "bfc".
      **options: other options of the allocator.

    Returns:
      Bytes.

    Raises:
      ValueError: no capacity suffices.
    """
    step = blocks.SEGMENT_ALIGNMENT
    failing, enough = 0, 1
    while not simulate(trace, allocator, **{option: enough * step}, **options).survived:
        failing, enough = enough, 2 * enough
        if enough * step > blocks.UNLIMITED // 4:
            raise ValueError(f"smallest_limit: {allocator!r} cannot serve the trace at all.")
    while enough - failing > 1:
        middle = (failing + enough) // 2
        if simulate(trace, allocator, **{option: middle * step}, **options).survived:
            enough = middle
        else:
            failing = middle
    return enough * step


def _offline(trace: Trace, events: Events, offsets: Int64[np.ndarray, " requests"]) -> Replay:
    served = offsets[events.request] >= 0
    change = np.where(events.malloc, 1, -1) * trace.size[events.request] * served
    live = np.cumsum(change)
    height = int((offsets + trace.size)[offsets >= 0].max(initial=0))
    counters = {**dict.fromkeys(blocks.COUNTERS, 0), "segments": 1, "driver_mallocs": 1}
    heap = np.asarray([[0, height, 0, 0]], np.int64)
    return Replay(
        "tflite",
        events.request,
        events.malloc,
        events.time,
        offsets,
        np.full(live.size, height, np.int64),
        live,
        live,
        counters,
        heap,
    )


@kernel
@typing.no_type_check
def _replay(heap, settings, request, malloc, size, stream, address, curves):
    block_of = np.full(size.size, NONE, np.int64)
    for event in range(request.size):
        row = request[event]
        if malloc[event] and size[row] > 0:
            if settings.code == CACHING:
                block = caching.malloc(heap, settings, size[row], stream[row])
            elif settings.code == BFC:
                block = bfc.malloc(heap, settings, size[row])
            else:
                block = floor.malloc(heap, settings, size[row])
            block_of[row] = block
            if block != NONE:
                address[row] = heap.address[block]
                if heap.linked[block] != NONE:  # parts under one range of virtual addresses
                    address[row] = heap.totals[blocks.TOP]
                    heap.totals[blocks.TOP] += -(-size[row] // caching.GMLAKE_PAGE) * (
                        caching.GMLAKE_PAGE
                    )
        elif not malloc[event] and block_of[row] != NONE:
            block = block_of[row]
            if settings.code == CACHING:
                caching.free(heap, block)
            elif settings.code == BFC:
                blocks.give_back(heap, block)
            else:
                floor.free(heap, settings, block)
        curves[0, event] = heap.totals[blocks.RESERVED]
        curves[1, event] = heap.totals[blocks.ALLOCATED]
        curves[2, event] = heap.totals[blocks.REQUESTED]
