"""Running a program on its plan: planned addresses, reused holes, and a fallback for the rest."""

import dataclasses
import functools
import typing

import numpy as np
from jaxtyping import Bool, Int64

from jaxlab.stweaver import blocks, caching, intervals, matching
from jaxlab.stweaver.check import check
from jaxlab.stweaver.events import Events
from jaxlab.stweaver.kernel import kernel
from jaxlab.stweaver.ordered import NONE
from jaxlab.stweaver.plan import Plan
from jaxlab.stweaver.replay import Replay
from jaxlab.stweaver.reuse import LayerSpans, Windows, layer_runs, layer_spans, reusable
from jaxlab.stweaver.trace import Trace

SLOT = 512  # bytes: requests up to this are never planned; sizes are rounded up to it
SLOT_BASE = 1 << 52  # addresses from here belong to the slots,
FALLBACK_BASE = 1 << 54  # and from here to the fallback allocator

_SERVED = (
    "planned",
    "reused",
    "slots",
    "fallback",
    "unmatched",
    "occupied",
    "no_room",
    "searches",
    "slot_growths",
)
(
    _PLANNED,
    _REUSED,
    _SLOTS,
    _FALLBACK,
    _UNMATCHED,
    _OCCUPIED,
    _NO_ROOM,
    _SEARCHES,
    _SLOT_GROWTHS,
) = range(9)


def static_part(profile: Trace) -> Trace:
    """The requests that a plan is made for: repeatable ones of more than 512 bytes.

    Args:
      profile: all requests of the profiled program.

    Returns:
      Their trace, sizes rounded up to multiples of 512 bytes. When the last iteration will repeat,
      what it leaves to the next one is live in all of it: its bytes are still in use when the
      iteration begins again.
    """
    part = profile.select(_planned(profile))
    start = part.start
    if _repeats(profile):
        last = profile.iteration.max()
        within = profile.phase_start[profile.iteration == last]
        left = (part.iteration == last) & ~np.isin(part.phase_end, within)
        start = np.where(left, profile.start[profile.iteration == last].min(), start)
    return dataclasses.replace(part, size=-(-part.size // SLOT) * SLOT, start=start)


def _planned(profile: Trace) -> Bool[np.ndarray, " requests"]:
    return ~profile.dynamic & (profile.size > SLOT)


def _repeats(profile: Trace) -> bool:
    """Whether the profile shows a first iteration and one like all later ones."""
    return profile.period is None and len(set(profile.iteration[profile.iteration >= 0])) > 1


@typing.no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class Runtime:
    """An allocator that follows a plan: what it learned from the profile.

    - Requests of at most 512 bytes go to a pool of slots.
    - A static request goes where the plan has put it, if it can be matched with a planned one and
      all of that range is free at this moment.
    - A dynamic request goes to the tightest free range that the plan leaves idle between its
      layers.
    - Everything else goes to a caching allocator, whose reserved bytes count.

    Two live requests never share a byte, whatever the program does.

    Attributes:
      profile: the profiled requests. A period repeats; so does the last of several iterations,
        as often as a run needs (the first iteration of training differs from all others).
      offsets: int64 ``[planned]``, an address in the arena for each request of
        ``static_part(profile)``, in its order.
      height: bytes of the arena.
    """

    profile: Trace
    offsets: Int64[np.ndarray, " planned"]
    height: int

    @classmethod
    def of(cls, profile: Trace, plan: Plan) -> "Runtime":
        """The runtime of a plan.

        Args:
          profile: the profiled requests.
          plan: the plan of ``static_part(profile)``.

        Returns:
          The runtime.

        Raises:
          ValueError: the plan is one of another trace: a number of requests differs, two that live
            at one time share bytes, or one lies outside the arena.

        Example:
          >>> from jaxlab.stweaver import plan
          >>> profile = Trace.of(size=[1024, 4096, 1024], start=[0, 1, 3], end=[2, 4, 5])
          >>> runtime = Runtime.of(profile, plan(static_part(profile)))
          >>> replay = runtime.replay(profile)
          >>> replay.counters["planned"], replay.peak_reserved
          (3, 5120)
        """
        runtime = cls(profile, plan.offsets, plan.height)
        check(runtime._static, plan)
        return runtime

    def __post_init__(self) -> None:
        offsets = np.asarray(self.offsets)
        static = self._static
        if offsets.shape != (len(static),) or not np.issubdtype(offsets.dtype, np.integer):
            raise ValueError(
                f"Runtime: offsets must hold {len(static)} integers, one for each request of "
                f"static_part(profile), got {offsets.dtype} of shape {offsets.shape}."
            )
        offsets = offsets.astype(np.int64)
        outside = (offsets < 0) | (offsets + static.size > self.height)
        if outside.any():
            row = int(np.argmax(outside))
            raise ValueError(
                f"Runtime: request {str(static.id[row])!r} at offset {offsets[row]} with "
                f"{static.size[row]} bytes lies outside the arena of {self.height} bytes."
            )
        if self.height >= SLOT_BASE:
            raise ValueError(f"Runtime: height={self.height} must be less than {SLOT_BASE}.")
        object.__setattr__(self, "offsets", offsets)

    @functools.cached_property
    def _static(self) -> Trace:
        return static_part(self.profile)

    @functools.cached_property
    def _spans(self) -> LayerSpans:
        return layer_spans(self.profile)

    @functools.cached_property
    def _sequence(self) -> tuple[Int64[np.ndarray, " planned"], int]:
        """Planned requests in the order of their allocation, and where they go on after the last.

        NONE if they do not.
        """
        start = self.profile.start[_planned(self.profile)]
        order = np.argsort(start, kind="stable")
        if self.profile.period is not None:
            return order, 0 if order.size else int(NONE)
        repeated = self._static.iteration[order] == self.profile.iteration.max(initial=0)
        again = _repeats(self.profile) and repeated.any()
        return order, int(np.argmax(repeated)) if again else int(NONE)

    @functools.cached_property
    def _slots(self) -> int:
        """Slots of the pool at first: twice the profiled peak."""
        small = (self.profile.size <= SLOT) & (self.profile.size > 0)
        events = Events.of(self.profile)
        change = np.where(events.malloc, 1, -1) * small[events.request]
        return 2 * int(np.cumsum(change).max(initial=0))

    def replay(
        self,
        trace: Trace,
        *,
        resynchronize: bool = True,
        reuse: bool = True,
        capacity: int | None = None,
    ) -> Replay:
        """Serves the requests of a run.

        Args:
          trace: the requests of the run, in phases and layers named like those of the profile. Of
            a periodic trace one period is run; ``unroll`` gives more.
          resynchronize: find the place in the plan again after an unexpected request; the paper's
            runtime only counts on.
          reuse: serve dynamic requests from idle holes of the plan.
          capacity: bytes of the device; what arena and slots leave is the fallback's. None is no
            limit.

        Returns:
          Addresses (arena, slots and fallback in ranges of their own), curves and counters:
          requests served as ``planned``, ``reused``, ``slots`` and ``fallback``, the reasons for
          the last (``unmatched``, ``occupied``, ``no_room``), ``searches`` of the matcher,
          ``slot_growths``, and ``fallback_reserved``, the peak of its bytes.

        Raises:
          ValueError: the capacity is less than the arena.
        """
        if capacity is not None and capacity < self.height:
            raise ValueError(
                f"Runtime: capacity={capacity} is less than the arena of {self.height} bytes."
            )
        order, again = self._sequence
        expected, codes = _codes(self._static, trace)
        window, ranges = self._windows(trace) if reuse else _no_windows(trace)
        events = Events.of(trace)
        slots = self._slots
        heap = blocks.new_heap(len(trace), 1)
        free = intervals.whole(self.height, len(trace))
        settings = caching.caching(
            capacity=None if capacity is None else max(1, capacity - self.height - slots * SLOT)
        )
        address = np.full(len(trace), NONE, np.int64)
        curves = np.empty((3, events.time.size), np.int64)
        served = np.zeros(len(_SERVED), np.int64)
        fallback_reserved = _run(
            events.request,
            events.malloc,
            trace.size,
            codes,
            window,
            expected[order],
            self.offsets[order],
            again,
            resynchronize,
            free,
            tuple(ranges),
            heap,
            settings,
            self.height,
            slots,
            address,
            curves,
            served,
        )
        reserved, allocated, requested = curves
        counters = dict(zip(_SERVED, served.tolist(), strict=True))
        counters |= {
            "fallback_reserved": int(fallback_reserved),
            "out_of_memory": int(heap.totals[blocks.OUT_OF_MEMORY]),
            "driver_mallocs": int(heap.totals[blocks.DRIVER_MALLOCS]),
            "driver_frees": int(heap.totals[blocks.DRIVER_FREES]),
            "retries": int(heap.totals[blocks.RETRIES]),
        }
        return Replay(
            "stweaver",
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

    def _windows(self, trace: Trace) -> tuple[Int64[np.ndarray, " requests"], Windows]:
        """For each request the number of its window (or NONE), and the windows' idle ranges."""
        period, spans = self.profile.period, self._spans
        last = int(self.profile.iteration.max(initial=0)) if _repeats(self.profile) else None
        begins, ends = layer_runs(trace, self.profile.layers, period is not None, last)
        seen = np.isin(begins, spans.key) & np.isin(ends, spans.key)
        rows = np.flatnonzero(seen & trace.dynamic & (trace.size > SLOT))
        keys = int(spans.key.max(initial=0)) + 1
        pairs, window_of = np.unique(begins[rows] * keys + ends[rows], return_inverse=True)
        window = np.full(len(trace), NONE, np.int64)
        window[rows] = window_of
        opens, closes = np.searchsorted(spans.key, np.divmod(pairs, keys))
        times = np.stack([spans.first[opens], spans.last[closes] + 1], axis=1)
        if period is not None:  # freed in the next period
            times[:, 1] += np.where(times[:, 1] <= times[:, 0], period, 0)
        return window, reusable(self._static, self.offsets, self.height, times)


def _no_windows(trace: Trace) -> tuple[Int64[np.ndarray, " requests"], Windows]:
    empty = np.empty(0, np.int64)
    return np.full(len(trace), NONE, np.int64), Windows(np.zeros(1, np.int64), empty, empty)


def _codes(
    static: Trace, trace: Trace
) -> tuple[Int64[np.ndarray, " planned"], Int64[np.ndarray, " requests"]]:
    """A code for each planned request and each request of the run: equal where they look alike.

    What the runtime sees of a request is its size, rounded, and the phase and layer it is in. A run
    that has none of the profile's phases (or layers) is matched without them.
    """
    planned, run = (-(-part.size // SLOT) for part in (static, trace))
    for names in ("phases", "layers"):
        number = {name: code for code, name in enumerate(getattr(static, names))}
        theirs = [number.get(name, NONE) for name in getattr(trace, names)]
        if set(theirs) <= {NONE}:
            continue
        field, base = f"{names[:-1]}_start", len(number) + 1
        planned = planned * base + getattr(static, field) + 1
        run = run * base + np.asarray([*theirs, NONE])[getattr(trace, field)] + 1
    return planned, np.where(trace.dynamic, NONE, run)


@kernel
@typing.no_type_check
def _run(
    request,
    malloc,
    size,
    codes,
    window,
    expected,
    offsets,
    again,
    resynchronize,
    free,
    ranges,
    heap,
    settings,
    height,
    slots,
    address,
    curves,
    served,
):
    first, lows, highs = ranges
    matcher = np.zeros(matching.MATCHER, np.int64)
    edits = np.empty(2 * matching.BAND + 1, np.int64)
    block_of = np.full(size.size, NONE, np.int64)
    vacant = np.empty(size.size + 1, np.int64)  # slots that were used and are free again
    vacants, touched = 0, 0
    allocated, requested, fallback_peak = 0, 0, 0
    for event in range(request.size):
        row = request[event]
        bytes_needed = -(-size[row] // SLOT) * SLOT
        if malloc[event]:
            place = NONE
            if size[row] == 0:
                place = NONE
            elif size[row] <= SLOT:
                if vacants > 0:
                    vacants -= 1
                    place = SLOT_BASE + vacant[vacants] * SLOT
                else:
                    if touched == slots:
                        slots = max(2 * slots, 1)
                        served[_SLOT_GROWTHS] += 1
                    place = SLOT_BASE + touched * SLOT
                    touched += 1
                served[_SLOTS] += 1
            elif codes[row] == NONE:
                if window[row] != NONE:
                    low, high = first[window[row]], first[window[row] + 1]
                    place = intervals.tightest(free, lows[low:high], highs[low:high], bytes_needed)
                if place != NONE:
                    intervals.claim(free, place, place + bytes_needed)
                    served[_REUSED] += 1
                else:
                    served[_NO_ROOM] += 1
            else:
                found = matching.match(expected, again, resynchronize, matcher, edits, codes[row])
                if found == NONE:
                    served[_UNMATCHED] += 1
                else:
                    place = offsets[matching.entry_at(expected.size, again, found)]
                    if intervals.claim(free, place, place + bytes_needed):
                        served[_PLANNED] += 1
                    else:
                        served[_OCCUPIED] += 1
                        place = NONE
            if place == NONE and size[row] > 0:
                served[_FALLBACK] += 1
                block = caching.malloc(heap, settings, size[row], np.int64(0))
                block_of[row] = block
                if block != NONE:
                    place = FALLBACK_BASE + heap.address[block]
            elif place != NONE:
                allocated += bytes_needed
                requested += size[row]
            address[row] = place
        elif address[row] >= FALLBACK_BASE:
            caching.free(heap, block_of[row])
        elif address[row] != NONE:
            allocated -= bytes_needed
            requested -= size[row]
            if address[row] >= SLOT_BASE:
                vacant[vacants] = (address[row] - SLOT_BASE) // SLOT
                vacants += 1
            else:
                intervals.release(free, address[row], address[row] + bytes_needed)
        fallback = heap.totals[blocks.RESERVED]
        fallback_peak = max(fallback_peak, fallback)
        curves[0, event] = height + slots * SLOT + fallback
        curves[1, event] = allocated + heap.totals[blocks.ALLOCATED]
        curves[2, event] = requested + heap.totals[blocks.REQUESTED]
    served[_SEARCHES] = matcher[matching.SEARCHES]
    return fallback_peak
