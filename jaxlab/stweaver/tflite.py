"""TensorFlow Lite's arena: greedy by size, each tensor into the tightest gap of those placed."""

import typing

import numpy as np
from jaxtyping import Int64

from jaxlab.stweaver.kernel import kernel
from jaxlab.stweaver.trace import Trace


def tflite_offsets(trace: Trace, alignment: int = 64) -> Int64[np.ndarray, " requests"]:
    """Offsets by TensorFlow Lite's arena planner.

    Tensors that live during the whole trace come first, in the order of the rows, then the others
    by falling size, earlier first. A tensor goes into the smallest gap between the placed tensors
    that are live with it, or behind them all. The time is quadratic in the requests, as there.

    Args:
      trace: the requests; a period is refused.
      alignment: bytes to whose multiples offsets are rounded up.

    Returns:
      int64 ``[requests]``, bytes; -1 for requests that are never live or have no bytes.

    Raises:
      ValueError: the trace is periodic, or the alignment is not positive.
    """
    if trace.period is not None:
        raise ValueError("simulate: 'tflite' plans no periodic trace; unroll it.")
    if alignment < 1:
        raise ValueError(f"simulate: alignment={alignment} of 'tflite' must be positive.")
    offsets = np.full(len(trace), -1, np.int64)
    rows = np.flatnonzero((trace.end > trace.start) & (trace.size > 0))
    if not rows.size:
        return offsets
    start, end, size = trace.start[rows], trace.end[rows], trace.size[rows]
    whole = (start == start.min()) & (end == end.max())
    keys = (rows, np.where(whole, 0, start), np.where(whole, 0, -size), ~whole)
    order = np.lexsort(keys)
    offsets[rows[order]] = _place(start[order], end[order], size[order], alignment)
    return offsets


@kernel
@typing.no_type_check
def _place(start, end, size, alignment):
    count = size.size
    offsets = np.empty(count, np.int64)
    order = np.empty(count, np.int64)  # placed tensors by offset
    for tensor in range(count):
        best, best_gap = -1, np.int64(1) << 62
        reach = 0
        for position in range(tensor):
            other = order[position]
            if end[other] <= start[tensor] or start[other] >= end[tensor]:
                continue
            aligned = -(-reach // alignment) * alignment
            if aligned + size[tensor] <= offsets[other] and offsets[other] - aligned < best_gap:
                best = aligned
                best_gap = offsets[other] - reach  # from the unaligned end, as the original does
            reach = max(reach, offsets[other] + size[other])
        if best < 0:
            best = -(-reach // alignment) * alignment
        offsets[tensor] = best
        position = tensor
        while position > 0 and offsets[order[position - 1]] > best:
            order[position] = order[position - 1]
            position -= 1
        order[position] = tensor
    return offsets
