"""Video tokens on a (frames, height, width) grid: in which order they stand in the sequence."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64


def video_tokens(rule: str, grid: Sequence[int], block: int, text_tokens: int = 0) -> int:
    """Checks a token geometry and counts its video tokens.

    Args:
      rule: name of the public function, for error messages.
      grid: frames, height and width in tokens.
      block: tokens in a block.
      text_tokens: text tokens behind the video tokens.

    Returns:
      ``frames * height * width``.

    Raises:
      ValueError: the grid is not three positive integers, ``block`` is not positive or
        ``text_tokens`` is negative.
    """
    if len(grid) != 3 or any(size != int(size) or size < 1 for size in grid):
        raise ValueError(
            f"{rule}: grid must be (frames, height, width) in tokens, three positive integers, "
            f"got {tuple(grid)}."
        )
    if block != int(block) or block < 1:
        raise ValueError(f"{rule}: block must be a positive number of tokens, got {block}.")
    if text_tokens != int(text_tokens) or text_tokens < 0:
        raise ValueError(f"{rule}: text_tokens must be 0 or more, got {text_tokens}.")
    return math.prod(int(size) for size in grid)


def axis_order(
    grid: Sequence[int], axes: Sequence[int], text_tokens: int = 0
) -> Int64[np.ndarray, " tokens"]:
    """Token order that walks the grid axis by axis, slowest axis first.

    Args:
      grid: frames, height and width in tokens.
      axes: a permutation of ``(0, 1, 2)``, slowest axis first. ``(0, 1, 2)`` is raster order, in
        which video models hand over their tokens; ``(1, 2, 0)`` puts all frames of a pixel side
        by side.
      text_tokens: text tokens behind the video tokens; they stay behind, in their order.

    Returns:
      int64 ``[tokens]``; ``order[p]`` is the raster-order token that stands at place ``p``, so
      that ``x[:, order]`` reorders and ``np.argsort(order)`` undoes.

    Raises:
      ValueError: the grid or the axes are malformed.

    Example:
      >>> axis_order((2, 1, 3), (1, 2, 0), text_tokens=1)
      array([0, 3, 1, 4, 2, 5, 6])
    """
    video = video_tokens("axis_order", grid, 1, text_tokens)
    if sorted(axes) != [0, 1, 2]:
        raise ValueError(f"axis_order: axes must be a permutation of (0, 1, 2), got {tuple(axes)}.")
    walked = np.arange(video).reshape(tuple(grid)).transpose(tuple(axes)).reshape(-1)
    return np.concatenate([walked, np.arange(video, video + text_tokens)])


def tile_order(
    grid: Sequence[int], tile: Sequence[int], text_tokens: int = 0
) -> Int64[np.ndarray, " tokens"]:
    """Token order that walks the grid tile by tile.

    Tiles follow each other in raster order and so do the tokens inside a tile. Tiles at the far
    borders are smaller where the tile does not divide the grid.

    Args:
      grid: frames, height and width in tokens.
      tile: frames, height and width of a tile in tokens.
      text_tokens: text tokens behind the video tokens; they stay behind, in their order.

    Returns:
      int64 ``[tokens]``; ``order[p]`` is the raster-order token that stands at place ``p``.

    Raises:
      ValueError: the grid or the tile are malformed.

    Example:
      >>> tile_order((1, 2, 3), (1, 2, 2))
      array([0, 1, 3, 4, 2, 5])
    """
    video = video_tokens("tile_order", grid, 1, text_tokens)
    walked = np.argsort(tile_of_token(grid, tile), kind="stable")
    return np.concatenate([walked, np.arange(video, video + text_tokens)])


def tile_of_token(grid: Sequence[int], tile: Sequence[int]) -> Int64[np.ndarray, " video_tokens"]:
    """Number of the tile, in raster order of tiles, that holds each raster-order token.

    Args:
      grid: frames, height and width in tokens.
      tile: frames, height and width of a tile in tokens.

    Returns:
      int64 ``[frames * height * width]``.

    Raises:
      ValueError: the tile is not three positive integers.
    """
    if len(tile) != 3 or any(size != int(size) or size < 1 for size in tile):
        raise ValueError(
            f"tile must be (frames, height, width) in tokens, three positive integers, got "
            f"{tuple(tile)}."
        )
    coordinates = np.indices(tuple(grid)).reshape(3, -1) // np.reshape(tile, (3, 1))
    counts = tuple(-(-size // step) for size, step in zip(grid, tile, strict=True))
    return np.asarray(np.ravel_multi_index(tuple(coordinates), counts), np.int64)
