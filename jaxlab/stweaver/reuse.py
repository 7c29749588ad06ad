"""Where dynamic requests may go: bytes that the plan leaves idle while two layers run."""

import typing
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from jaxlab.stweaver.kernel import kernel, kernel_part
from jaxlab.stweaver.trace import Trace


class Windows(typing.NamedTuple):
    """For each pair of layers the ascending, disjoint ranges that stay idle.

    Window ``w`` has the ranges ``low[first[w]:first[w + 1]]`` to ``high[...]``.
    """

    first: Int64[np.ndarray, " windows_and_one"]
    low: Int64[np.ndarray, " ranges"]
    high: Int64[np.ndarray, " ranges"]


class LayerSpans(typing.NamedTuple):
    """When each layer runs, iteration by iteration.

    Entry ``i`` is about the run of a layer that ``key[i]`` numbers; keys ascend.
    """

    key: Int64[np.ndarray, " runs"]
    first: Int64[np.ndarray, " runs"]  # time of the first allocation or free in it
    last: Int64[np.ndarray, " runs"]


def layer_runs(
    trace: Trace, layers: Sequence[str], periodic: bool, last: int | None = None
) -> tuple[Int64[np.ndarray, " requests"], Int64[np.ndarray, " requests"]]:
    """Numbers the runs of layers in which each request is allocated and freed.

    Args:
      trace: the requests.
      layers: the names that count.
      periodic: whether every iteration is the same one.
      last: iterations after this one are like it; None if every one counts by itself.

    Returns:
      Two keys a request; -1 where the layer is not among the names.
    """
    number = {name: code for code, name in enumerate(layers)}
    known = np.asarray([*(number.get(name, -1) for name in trace.layers), -1], np.int64)
    iterations, places = np.unique(trace.iteration, return_inverse=True)
    begins = np.full(iterations.size, np.iinfo(np.int64).max)
    np.minimum.at(begins, places, trace.start)
    keys = []
    for codes, time in ((trace.layer_start, trace.start), (trace.layer_end, trace.end)):
        layer = known[codes]
        at = np.maximum(np.searchsorted(begins, time, side="right") - 1, 0)
        iteration = np.zeros(len(trace), np.int64) if periodic else iterations[at] + 1
        if last is not None:
            iteration = np.minimum(iteration, last + 1)
        keys.append(np.where(layer < 0, -1, iteration * len(layers) + layer))
    return keys[0], keys[1]


def layer_spans(profile: Trace) -> LayerSpans:
    """When each layer runs.

    Args:
      profile: the requests; ``iteration`` must not fall with time.

    Returns:
      First and last time of every run of a layer: of its allocations and of the frees it does.
    """
    starts, ends = layer_runs(profile, profile.layers, profile.period is not None)
    keys = np.concatenate([starts, ends])
    times = np.concatenate([profile.start, profile.end])
    if profile.period is not None:
        times = np.where(times > profile.period, times - profile.period, times)
    times, keys = times[keys >= 0], keys[keys >= 0]
    key, place = np.unique(keys, return_inverse=True)
    first = np.full(key.size, np.iinfo(np.int64).max)
    last = np.full(key.size, np.iinfo(np.int64).min)
    np.minimum.at(first, place, times)
    np.maximum.at(last, place, times)
    return LayerSpans(key, first, last)


def reusable(
    static: Trace,
    offsets: Int64[np.ndarray, " requests"],
    height: int,
    windows: Int64[np.ndarray, "windows 2"],
) -> Windows:
    """The byte ranges that no static request uses during each time window.

    One sweep over windows and requests in time order; the work grows with the requests that meet a
    window, summed over the windows.

    Args:
      static: the planned requests; a period counts.
      offsets: int64 ``[requests]``, where they lie.
      height: bytes of the arena.
      windows: int64 ``[windows, 2]``, half-open times.

    Returns:
      The ranges of each window.

    Source: STAlloc section 6 (HomoLayer groups), with half-open times.
    """
    copies = (0,) if static.period is None else (-static.period, 0, static.period)
    start = np.concatenate([static.start + shift for shift in copies])
    end = np.concatenate([static.end + shift for shift in copies])
    low = np.tile(offsets, len(copies))
    high = low + np.tile(static.size, len(copies))
    live = (end > start) & (high > low)
    order = np.flatnonzero(live)[np.argsort(start[live], kind="stable")]
    by_start = np.argsort(windows[:, 0], kind="stable")
    return Windows(
        *_sweep(start[order], end[order], low[order], high[order], height, windows, by_start)
    )


@kernel
@typing.no_type_check
def _sweep(start, end, low, high, height, windows, by_start):
    count = windows.shape[0]
    lows = [np.empty(0, np.int64)] * count
    highs = [np.empty(0, np.int64)] * count
    active = np.empty(start.size, np.int64)
    actives, reached = 0, 0
    for window in by_start:
        opens, closes = windows[window, 0], windows[window, 1]
        while reached < start.size and start[reached] <= opens:
            active[actives] = reached
            actives += 1
            reached += 1
        kept = 0
        for position in range(actives):
            if end[active[position]] > opens:
                active[kept] = active[position]
                kept += 1
        actives = kept
        later = reached
        while later < start.size and start[later] < closes:
            later += 1
        if closes <= opens:
            meeting = active[:0]
        else:
            meeting = np.concatenate((active[:actives], np.arange(reached, later)))
        lows[window], highs[window] = _gaps(low[meeting], high[meeting], height)
    first = np.zeros(count + 1, np.int64)
    for window in range(count):
        first[window + 1] = first[window] + lows[window].size
    all_low = np.empty(first[count], np.int64)
    all_high = np.empty(first[count], np.int64)
    for window in range(count):
        all_low[first[window] : first[window + 1]] = lows[window]
        all_high[first[window] : first[window + 1]] = highs[window]
    return first, all_low, all_high


@kernel_part
@typing.no_type_check
def _gaps(low, high, height):
    """The ranges of ``[0, height)`` that no ``[low, high)`` covers."""
    order = np.argsort(low)
    gap_low = np.empty(low.size + 1, np.int64)
    gap_high = np.empty(low.size + 1, np.int64)
    gaps, reach = 0, 0
    for entry in order:
        if low[entry] > reach:
            gap_low[gaps], gap_high[gaps] = reach, low[entry]
            gaps += 1
        reach = max(reach, high[entry])
    if reach < height:
        gap_low[gaps], gap_high[gaps] = reach, height
        gaps += 1
    return gap_low[:gaps].copy(), gap_high[:gaps].copy()
