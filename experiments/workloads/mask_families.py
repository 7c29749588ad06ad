"""Families of block masks on which plans are compared: one function, a name and a seed."""

import functools
import zlib
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, UInt8

from jaxlab.blocksparse import gaussian_field_mask, radial_mask, sliding_tile_mask, svg_mask

FAMILIES = (
    "gen",
    "gen+text",
    "periodic",
    "radial",
    "radial-var",
    "sta",
    "svg-orig",
    "svg-reord",
)

DRAWN = ("gen", "gen+text", "periodic")
"""Families whose every block is drawn at random."""

PERIOD = 8
TEXT_BLOCKS = 6
WINDOWS = ((4, 2, 2), (2, 3, 3), (3, 5, 1), (3, 1, 5), (1, 5, 5), (4, 1, 1), (1, 3, 2), (4, 4, 2))


class _Geometry(NamedTuple):
    grid: tuple[int, int, int]
    block: int
    tiles: tuple[int, int, int]


GEOMETRIES = {
    64: _Geometry((8, 16, 32), 64, (4, 4, 4)),
    256: _Geometry((21, 30, 52), 128, (4, 8, 8)),
    1184: _Geometry((21, 45, 80), 64, (6, 14, 14)),
}


def family_mask(
    family: str, *, seed: int, layer: int = 0, step: int = 0, n: int = 256, heads: int = 40
) -> Bool[np.ndarray, "heads blocks blocks"]:
    """The mask of one layer at one denoising step, drawn from a family.

    - ``gen``: heads drawn by ``gaussian_field_mask``; 15 % of its noise is redrawn at every step.
    - ``gen+text``: the same with the last 6 blocks dense, as rows and as columns.
    - ``periodic``: the same, and of every 8 blocks the first is a sink for half of the heads and
      looks everywhere in half of the heads: the pattern that a striped placement cannot spread.
    - ``radial``: one Radial Attention mask for all heads and layers, its decay drawn by the seed.
    - ``radial-var``: the same with a decay drawn for every head.
    - ``sta``: sliding tiles of one block each, in raster order of tiles, a window drawn for every
      head.
    - ``svg-orig``: Sparse VideoGen over tokens as they are, spatial or temporal drawn for every
      head; its width is drawn by the seed and grows by 5 % a step.
    - ``svg-reord``: the same for reordered tokens: one band and one sink for all heads.

    Args:
      family: one of ``FAMILIES``.
      seed: decides what the layers have in common.
      layer: decides the rest.
      step: denoising step.
      n: nominal number of blocks: 64, 256 (Wan 2.1 at 480p in blocks of 128 tokens) or 1184 (at
        720p in blocks of 64).
      heads: number of heads.

    Returns:
      bool ``[heads, blocks, blocks]``, where ``blocks`` is ``n`` but for 1184, which stands for
      1182 blocks (``sta``: 1176).

    Raises:
      ValueError: an unknown family or size.
    """
    if family not in FAMILIES or n not in GEOMETRIES:
        raise ValueError(
            f"family_mask: family must be one of {FAMILIES} and n one of {tuple(GEOMETRIES)}, got "
            f"{family!r} and {n}."
        )
    grid, block, tiles = GEOMETRIES[n]
    of_seed = np.random.default_rng([zlib.crc32(family.encode()), seed])
    of_layer = np.random.default_rng([zlib.crc32(family.encode()), seed, layer])
    if family in DRAWN:
        blocks = _drawn(seed, layer, step, n, heads)
        if family == "gen+text":
            blocks[:, -TEXT_BLOCKS:] = blocks[:, :, -TEXT_BLOCKS:] = True
        if family == "periodic":
            sinks, broad = of_layer.random((2, heads)) < 0.5
            blocks[sinks, :, ::PERIOD] = blocks[broad, ::PERIOD] = True
        return blocks
    if family == "radial":
        return _radial(grid, block, round(of_seed.uniform(0.3, 0.8), 2))[None].repeat(heads, 0)
    if family == "radial-var":
        decays = of_layer.choice([0.25, 0.35, 0.5, 0.7, 1.0], heads)
        return np.stack([_radial(grid, block, float(decay)) for decay in decays])
    if family == "sta":
        windows = [WINDOWS[i] for i in of_layer.integers(len(WINDOWS), size=heads)]
        return np.asarray(sliding_tile_mask(tiles, (1, 1, 1), windows, block=1).blocks)
    width = of_seed.uniform(1.5, 2.5) * 1.05**step
    if family == "svg-reord":
        return _svg(grid, block, "reordered", width)[None].repeat(heads, 0)
    kinds = of_layer.choice(["spatial", "temporal"], heads)
    return np.stack([_svg(grid, block, str(kind), width) for kind in kinds])


def _drawn(
    seed: int, layer: int, step: int, n: int, heads: int
) -> Bool[np.ndarray, "heads blocks blocks"]:
    size = -(-np.prod(GEOMETRIES[n].grid) // GEOMETRIES[n].block)
    packed = _drawn_bits(seed, layer, step, n, heads)
    return np.unpackbits(packed, count=heads * size * size).view(bool).reshape(heads, size, size)


@functools.lru_cache(maxsize=256)
def _drawn_bits(
    seed: int, layer: int, step: int, n: int, heads: int
) -> UInt8[np.ndarray, " bytes"]:
    """Three families share these masks, which take long to draw."""
    grid, block, _ = GEOMETRIES[n]
    key = jax.random.fold_in(jax.random.key(seed), layer)
    mask = gaussian_field_mask(key, heads=heads, grid=grid, block=block, step=step)
    return np.packbits(np.asarray(mask.blocks))


@functools.lru_cache(maxsize=32)
def _radial(
    grid: tuple[int, int, int], block: int, decay: float
) -> Bool[np.ndarray, "blocks blocks"]:
    return np.asarray(radial_mask(grid, heads=1, block=block, decay=decay).blocks[0])


@functools.lru_cache(maxsize=32)
def _svg(
    grid: tuple[int, int, int], block: int, kind: str, width: float
) -> Bool[np.ndarray, "blocks blocks"]:
    """A spatial head's blocks are those of every head once tokens are reordered."""
    kinds = ("spatial" if kind == "reordered" else kind,)
    return np.asarray(svg_mask(grid, kinds, block=block, width=width).blocks[0])
