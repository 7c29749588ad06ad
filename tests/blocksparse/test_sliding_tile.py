"""Sliding tile masks against loops over tokens; token orders; properties; bad input."""

import inspect

import numpy as np
import pytest

from jaxlab.blocksparse import axis_order, sliding_tile_mask, tile_order
from tests.oracles import mask_rules


@pytest.mark.parametrize("order", ["tile", "raster"])
@pytest.mark.parametrize(
    ("grid", "tile", "block", "text"),
    [
        ((3, 5, 7), (1, 2, 3), 8, 0),
        ((4, 6, 4), (2, 3, 2), 6, 0),  # tiles divide the grid, blocks the tiles
        ((5, 3, 6), (2, 2, 2), 7, 4),
        ((2, 7, 3), (3, 2, 1), 5, 3),
    ],
)
@pytest.mark.parametrize("window", [(1, 3, 1), (3, 1, 2), (2, 9, 3)])
def test_blocks_are_the_ones_of_the_loops(order, grid, tile, block, text, window):
    mask = sliding_tile_mask(grid, tile, [window], block=block, order=order, text_tokens=text)
    expected = mask_rules.sliding_tile(grid, tile, window, block, order, text)
    np.testing.assert_array_equal(mask.blocks[0], expected)


def test_every_query_tile_sees_a_whole_window_even_at_the_border():
    mask = sliding_tile_mask((12, 15, 21), (3, 3, 3), [(3, 3, 5), (1, 5, 3)], block=27)
    assert (mask.blocks[0].sum(-1) == 3 * 3 * 5).all()
    assert (mask.blocks[1].sum(-1) == 1 * 5 * 3).all()


def test_heads_take_their_own_window():
    windows = [(3, 1, 1), (1, 1, 3), (3, 1, 1)]
    together = sliding_tile_mask((6, 4, 10), (2, 2, 2), windows, block=8, text_tokens=5)
    for head, window in enumerate(windows):
        alone = sliding_tile_mask((6, 4, 10), (2, 2, 2), [window], block=8, text_tokens=5)
        np.testing.assert_array_equal(together.blocks[head], alone.blocks[0])
    assert (together.blocks[0] != together.blocks[1]).any()


def test_raster_order_costs_more_blocks_than_tile_order():
    by_order = [
        sliding_tile_mask((6, 8, 12), (2, 4, 4), [(1, 1, 1)], block=32, order=order).density()
        for order in ("tile", "raster")
    ]
    assert by_order[0] == 1 / 18 < by_order[1]


def test_density_grows_with_the_window():
    windows = [(1, 1, 1), (1, 3, 1), (3, 3, 1), (3, 3, 3)]
    mask = sliding_tile_mask((7, 9, 11), (1, 2, 2), windows, block=8)
    for less, more in zip(mask.blocks, mask.blocks[1:], strict=False):
        assert (less <= more).all()
        assert less.sum() < more.sum()


def test_tile_order_walks_tile_by_tile():
    grid, tile = (3, 5, 7), (2, 2, 3)
    order = tile_order(grid, tile, text_tokens=2)
    assert sorted(order) == list(range(107))
    assert order[-2:].tolist() == [105, 106]
    coordinates = np.array(np.unravel_index(order[:-2], grid)).T // np.array(tile)
    assert (np.diff(np.ravel_multi_index(tuple(coordinates.T), (2, 3, 3))) >= 0).all()


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_axis_order_walks_the_last_axis_fastest(axes):
    order = axis_order((3, 5, 7), axes, text_tokens=1)
    place = np.argsort(order)
    assert place[:-1].tolist() == mask_rules.axis_places((3, 5, 7), axes)
    assert order[-1] == 105


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": (3, 5, -7)}, "grid must be"),
        ({"tile": (0, 2, 2)}, "tile must be"),
        ({"tile": (2, 2)}, "tile must be"),
        ({"windows": []}, "windows must hold one window a head"),
        ({"windows": [(1, 1, 1), (1, 2, 0)]}, r"windows\[1\] must be"),
        ({"windows": [(1, 2)]}, r"windows\[0\] must be"),
        ({"order": "frame"}, "order must be"),
        ({"block": 0}, "block must be"),
        ({"text_tokens": -3}, "text_tokens must be"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"grid": (3, 5, 7), "tile": (1, 2, 3), "windows": [(1, 1, 1)], "block": 8}
    # unwrapped: else the shape checker of the tests answers before the function
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(sliding_tile_mask)(**(arguments | change))


def test_axes_that_are_no_permutation_are_refused():
    with pytest.raises(ValueError, match="permutation"):
        axis_order((2, 3, 4), (0, 0, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"windows": [(1, 2.5, 1)]}, r"windows\[0\] must be .* in tiles"),
        ({"windows": [(1, float("inf"), 1)]}, r"windows\[0\] must be"),
        ({"tile": (1, 2.0, 3)}, "sliding_tile_mask: tile must be"),
        ({"grid": (3, float("nan"), 7)}, "grid must be"),
        ({"block": 2.5}, "block must be"),
    ],
)
def test_counts_that_are_no_integers_are_refused(change, message):
    with pytest.raises(TypeError, match=message):
        inspect.unwrap(sliding_tile_mask)(
            **({"grid": (3, 5, 7), "tile": (1, 2, 3), "windows": [(1, 1, 1)], "block": 8} | change)
        )
