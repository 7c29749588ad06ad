"""Sliding Tile Attention's mask: every tile of the grid attends to a box of tiles around it."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from jaxlab.blocksparse.arguments import along_axes
from jaxlab.blocksparse.coarsen import add_dense_text, round_up
from jaxlab.blocksparse.mask import BlockMask
from jaxlab.blocksparse.token_grid import tile_of_token, video_tokens


def sliding_tile_mask(
    grid: Sequence[int],
    tile: Sequence[int],
    windows: Sequence[Sequence[int]],
    *,
    block: int = 64,
    order: Literal["tile", "raster"] = "tile",
    text_tokens: int = 0,
) -> BlockMask:
    """A window of tiles around every query tile, moved inward at the borders of the grid.

    Along each axis with ``n`` tiles, query tile ``c`` attends to the ``w`` key tiles from
    ``clip(c - w // 2, 0, n - w)`` on, and to all of them when ``w >= n``: near a border the window
    keeps its size. A block is active when any of its token pairs attends, so the mask is exact
    when tiles divide the grid and ``block`` divides a tile (in tile order), and rounded up
    otherwise.

    Args:
      grid: frames, height and width in tokens.
      tile: frames, height and width of a tile in tokens; smaller tiles fill the far borders.
      windows: for every head, frames, height and width of its window in tiles.
      block: tokens in a block, for queries and keys.
      order: how the tokens stand. ``"tile"`` is ``tile_order(grid, tile, text_tokens)``,
        ``"raster"`` is (frame, row, column).
      text_tokens: text tokens behind the video tokens; blocks that hold text are dense.

    Returns:
      A mask over tokens in the given order; numpy ``blocks`` ``[heads, blocks, blocks]``. It does
      not depend on content.

    Raises:
      TypeError: an argument is not made of integers.
      ValueError: a malformed geometry, window or order.

    Source: Sliding Tile Attention (arXiv 2502.04507). Even windows, tiles that do not divide the
    grid and raster order are ours.

    Example:
      >>> sliding_tile_mask((12, 16, 16), (4, 8, 8), [(3, 1, 1), (1, 2, 1)], block=128)
      BlockMask(heads=2, blocks=24x24 of 128x128, tokens=3072x3072, density=0.208)
    """
    video = video_tokens("sliding_tile_mask", grid, block, text_tokens)
    of_token = tile_of_token("sliding_tile_mask", grid, tile)
    if len(windows) == 0:
        raise ValueError("sliding_tile_mask: windows must hold one window a head, got none.")
    of_head = [
        along_axes("sliding_tile_mask", f"windows[{head}]", window, "tiles")
        for head, window in enumerate(windows)
    ]
    if order not in ("tile", "raster"):
        raise ValueError(f"sliding_tile_mask: order must be 'tile' or 'raster', got {order!r}.")
    if order == "tile":
        of_token = np.sort(of_token)
    counts = tuple(-(-size // step) for size, step in zip(grid, tile, strict=True))
    distinct, number = np.unique(np.asarray(of_head), axis=0, return_inverse=True)
    masks = [
        round_up(lambda tiles, window=window: _boxes(tiles, counts, window), of_token, block)
        for window in distinct
    ]
    blocks = add_dense_text(np.stack(masks), video, text_tokens, block)[number.reshape(-1)]
    return BlockMask(blocks, block, block, video + text_tokens, video + text_tokens).validate()


def _boxes(
    tiles: Int[np.ndarray, " some"], counts: tuple[int, ...], window: Int[np.ndarray, " 3"]
) -> Bool[np.ndarray, " tiles"]:
    """Key tiles in the window of any of the given query tiles."""
    attended = np.zeros(counts, bool)
    size = np.minimum(window, counts)
    centers = np.stack(np.unravel_index(tiles, counts), 1)
    for start in np.clip(centers - size // 2, 0, counts - size):
        attended[tuple(slice(a, a + w) for a, w in zip(start, size, strict=True))] = True
    return attended.reshape(-1)
