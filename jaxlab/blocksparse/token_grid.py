"""Video tokens on a (frames, height, width) grid: in which order they stand in the sequence."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from jaxlab.blocksparse.arguments import along_axes, whole_number


def video_tokens(rule: str, grid: Any, block: Any, text_tokens: Any = 0) -> int:
    """Checks a token geometry and counts its video tokens.

    Args:
      rule: name of the public function, for error messages.
      grid: frames, height and width in tokens.
      block: tokens in a block.
      text_tokens: text tokens behind the video tokens.

    Returns:
      ``frames * height * width``.

    Raises:
      TypeError: an argument is not made of integers.
      ValueError: the grid is not three positive integers, ``block`` is not positive or
        ``text_tokens`` is negative.
    """
    sizes = along_axes(rule, "grid", grid)
    whole_number(rule, "block", block)
    whole_number(rule, "text_tokens", text_tokens, least=0)
    return math.prod(sizes)


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
      TypeError: a size or count is not an integer.
      ValueError: the grid or the axes are malformed.

    Example:
      >>> axis_order((2, 1, 3), (1, 2, 0), text_tokens=1)
      array([0, 3, 1, 4, 2, 5, 6])
    """
    video = video_tokens("axis_order", grid, 1, text_tokens)
    if not all(isinstance(axis, int | np.integer) for axis in axes) or sorted(axes) != [0, 1, 2]:
        raise ValueError(f"axis_order: axes must be a permutation of (0, 1, 2), got {axes!r}.")
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
      TypeError: a size or count is not an integer.
      ValueError: the grid or the tile are malformed.

    Example:
      >>> tile_order((1, 2, 3), (1, 2, 2))
      array([0, 1, 3, 4, 2, 5])
    """
    video = video_tokens("tile_order", grid, 1, text_tokens)
    walked = np.argsort(tile_of_token("tile_order", grid, tile), kind="stable")
    return np.concatenate([walked, np.arange(video, video + text_tokens)])


def tile_of_token(rule: str, grid: Any, tile: Any) -> Int64[np.ndarray, " video_tokens"]:
    """Number of the tile, in raster order of tiles, that holds each raster-order token.

    Args:
      rule: name of the public function, for error messages.
      grid: frames, height and width in tokens.
      tile: frames, height and width of a tile in tokens.

    Returns:
      int64 ``[frames * height * width]``.

    Raises:
      TypeError: the tile is not made of integers.
      ValueError: the tile is not three positive integers.
    """
    sizes = along_axes(rule, "tile", tile)
    coordinates = np.indices(tuple(grid)).reshape(3, -1) // np.reshape(sizes, (3, 1))
    counts = tuple(-(-size // step) for size, step in zip(grid, sizes, strict=True))
    return np.asarray(np.ravel_multi_index(tuple(coordinates), counts), np.int64)
