"""Radial Attention's mask: the farther two frames are apart, the narrower the window."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int64

from jaxlab.blocksparse.arguments import per_head, real_number, whole_number
from jaxlab.blocksparse.coarsen import add_dense_text
from jaxlab.blocksparse.mask import BlockMask
from jaxlab.blocksparse.token_grid import video_tokens


def radial_mask(
    grid: Sequence[int],
    *,
    heads: int,
    block: int = 64,
    decay: float | Sequence[float] = 0.5,
    neighbor_window: float = 1.0,
    sink_first_frame: bool = True,
    text_tokens: int = 0,
) -> BlockMask:
    """Windows that halve with every doubling of the distance between frames.

    Let ``n`` be the tokens of a frame, ``d`` the distance between the frames of a query and a key
    and ``bits(x)`` the length of ``x`` in binary. The places of the two tokens inside their frames
    may differ by at most

    - ``n`` for ``d = 0`` and ``neighbor_window * n`` for ``d = 1``;
    - ``max(decay * w(d), block)`` for ``d >= 2``, where ``w(d) = 2^(bits(n) - bits(d))``. Where
      ``w(d) < block``, only distances ``d`` that are multiples of ``floor(block / w(d))`` attend.

    A block of tokens is active when more than 60 % of its columns (keys) that attend at all are
    attended by more than a third of its queries; blocks on the diagonal are always active.

    Args:
      grid: frames, height and width in tokens.
      heads: number of heads.
      block: tokens in a block, for queries and keys.
      decay: factor on the windows of distant frames, one number or one a head.
      neighbor_window: window between neighboring frames, as a part of a frame.
      sink_first_frame: every query attends to the whole first frame.
      text_tokens: text tokens behind the video tokens; blocks that hold text are dense.

    Returns:
      A mask over tokens in raster order (frame, row, column), text last; numpy ``blocks``
      ``[heads, blocks, blocks]``. It does not depend on content.

    Raises:
      TypeError: a count is not an integer, or a factor not a number.
      ValueError: a malformed geometry, or a window that is not positive.

    Source: Radial Attention (arXiv 2506.19852); windows, sink and rounding as in public code. What
    is read differently elsewhere stands in ``docs/sources/blocksparse.md``.

    Example:
      >>> radial_mask((9, 8, 16), heads=2, block=64)
      BlockMask(heads=2, blocks=18x18 of 64x64, tokens=1152x1152, density=0.877)
    """
    video = video_tokens("radial_mask", grid, block, text_tokens)
    heads = whole_number("radial_mask", "heads", heads)
    decays = per_head("radial_mask", "decay", decay, heads)
    if not ((decays > 0) & np.isfinite(decays)).all():
        raise ValueError(f"radial_mask: decay must be positive and finite, got {decay}.")
    neighbor_window = real_number("radial_mask", "neighbor_window", neighbor_window)
    if not 0 < neighbor_window <= 1:
        raise ValueError(f"radial_mask: neighbor_window must lie in (0, 1], got {neighbor_window}.")
    frame = video // grid[0]
    distinct, of_head = np.unique(np.broadcast_to(decays, (heads,)), return_inverse=True)
    masks = [
        _shrink(
            _windows(grid[0], frame, block, float(value), neighbor_window),
            frame,
            block,
            sink_first_frame,
        )
        for value in distinct
    ]
    blocks = add_dense_text(np.stack(masks), video, text_tokens, block)[of_head]
    return BlockMask(blocks, block, block, video + text_tokens, video + text_tokens).validate()


def _windows(
    frames: int, frame: int, block: int, decay: float, neighbor_window: float
) -> Int64[np.ndarray, " frames"]:
    """Largest difference of places in the frame that attends at each distance; -1 for none."""
    windows = np.full(frames, frame, np.int64)
    for distance in range(1, frames):
        if distance == 1:
            windows[distance] = int(neighbor_window * frame)
            continue
        width = 2.0 ** (frame.bit_length() - distance.bit_length())
        survives = width >= block or distance % int(block / width) == 0
        windows[distance] = int(max(decay * width, block)) if survives else -1
    return windows


def _shrink(
    windows: Int64[np.ndarray, " frames"], frame: int, block: int, sink_first_frame: bool
) -> Bool[np.ndarray, "blocks blocks"]:
    """Rounds the token rule to blocks, one row of blocks at a time."""
    frames = windows.size
    tokens = frames * frame
    starts = np.arange(0, tokens, block)
    place = np.arange(frame, dtype=np.int32)
    blocks = np.zeros((starts.size, starts.size), bool)
    for row, start in enumerate(starts):
        stop = min(start + block, tokens)
        attending = np.zeros((frames, frame), np.int32)  # queries of this row for every key
        for query_frame in range(start // frame, (stop - 1) // frame + 1):
            first = max(start - query_frame * frame, 0)
            last = min(stop - query_frame * frame, frame) - 1
            window = windows[np.abs(np.arange(frames) - query_frame), None].astype(np.int32)
            seen = np.minimum(last, place + window) - np.maximum(first, place - window) + 1
            seen = np.where(window < 0, 0, np.maximum(seen, 0))
            if sink_first_frame:
                seen[0] = last - first + 1
            attending += seen
        attending = attending.reshape(-1)
        columns = np.add.reduceat(attending > 0, starts, dtype=np.int32)
        dense = np.add.reduceat(3 * attending > stop - start, starts, dtype=np.int32)
        blocks[row] = 5 * dense > 3 * columns
    np.fill_diagonal(blocks, True)
    return blocks
