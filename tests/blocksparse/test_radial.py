"""Radial masks against loops over tokens; properties; bad input; the size of a real video."""

import inspect
import math

import numpy as np
import pytest

from jaxlab.blocksparse import radial_mask
from tests.oracles import mask_rules

GRIDS = [
    ((3, 5, 7), 8, 0),
    ((9, 2, 7), 6, 0),
    ((7, 3, 3), 16, 5),
    ((6, 3, 5), 4, 3),
    ((5, 1, 3), 7, 1),
]


@pytest.mark.parametrize(("grid", "block", "text"), GRIDS)
@pytest.mark.parametrize(("decay", "neighbor", "sink"), [(0.5, 1.0, True), (1.0, 0.5, False)])
def test_blocks_are_the_ones_of_the_loops(grid, block, text, decay, neighbor, sink):
    mask = radial_mask(
        grid,
        heads=1,
        block=block,
        decay=decay,
        neighbor_window=neighbor,
        sink_first_frame=sink,
        text_tokens=text,
    )
    expected = mask_rules.radial(grid, block, decay, neighbor, sink, text)
    np.testing.assert_array_equal(mask.blocks[0], expected)
    assert mask.q_len == mask.kv_len == np.prod(grid) + text


def test_windows_narrow_with_distance_and_far_frames_are_thinned_out():
    mask = radial_mask((24, 8, 16), heads=1, block=16, decay=1.0, sink_first_frame=False)
    by_frame = mask.blocks[0].reshape(24, 8, 24, 8).sum((1, 3))
    reach = by_frame[0]
    assert reach[0] == reach[1] == 64
    assert reach[2] > reach[4] > reach[8] > 0
    assert reach[16] == reach[18] > 0  # w = 8 < 16: multiples of 2 only
    assert reach[17] == reach[19] == 0
    np.testing.assert_array_equal(by_frame, by_frame.T)
    np.testing.assert_array_equal(by_frame[3:, 3:], by_frame[:-3, :-3])


def test_density_grows_with_the_decay():
    counts = radial_mask((12, 6, 11), heads=3, block=8, decay=(0.1, 0.5, 1.0)).head_counts()
    assert counts[0] < counts[1] < counts[2]


def test_heads_take_their_own_decay():
    together = radial_mask((9, 4, 7), heads=3, block=8, decay=(1.0, 0.2, 1.0), text_tokens=3)
    for head, decay in enumerate((1.0, 0.2, 1.0)):
        alone = radial_mask((9, 4, 7), heads=1, block=8, decay=decay, text_tokens=3)
        np.testing.assert_array_equal(together.blocks[head], alone.blocks[0])


def test_every_query_keeps_its_own_block_and_the_sink():
    mask = radial_mask((40, 1, 2), heads=2, block=64, sink_first_frame=False)
    assert mask.blocks.diagonal(axis1=1, axis2=2).all()
    sink = radial_mask((9, 4, 8), heads=1, block=8)
    assert sink.blocks[0, :, :4].all()


@pytest.mark.slow
def test_a_720p_video_at_full_size():
    mask = radial_mask((21, 45, 80), heads=2)
    assert mask.blocks.shape == (2, 1182, 1182)
    assert mask.blocks[0, :, : 3600 // 64].all()
    assert 0.2 < mask.density() < 0.6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": (3, 5)}, "grid must be"),
        ({"grid": (3, 0, 5)}, "grid must be"),
        ({"block": 0}, "block must be an integer from 1 on, got 0"),
        ({"heads": 0}, "heads must be an integer from 1 on"),
        ({"decay": 0.0}, "decay must be positive"),
        ({"decay": math.inf}, "decay must be positive and finite"),
        ({"decay": (math.nan, 0.5)}, "decay must be positive and finite"),
        ({"decay": (0.5, 0.5, 0.5)}, "one for each of 2 heads"),
        ({"neighbor_window": 1.5}, "neighbor_window must lie"),
        ({"text_tokens": -1}, "text_tokens must be an integer from 0 on, got -1"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(radial_mask)(**({"grid": (3, 5, 7), "heads": 2, "block": 8} | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": (3, 5.0, 7)}, r"grid must be .* got \(3, 5\.0, 7\); convert each with `int`"),
        ({"grid": (3, 5, math.inf)}, "grid must be"),
        ({"grid": 105}, "grid must be"),
        ({"block": 8.0}, r"block must be an integer, got 8\.0; convert it .* `int\(block\)`"),
        ({"block": math.nan}, "block must be an integer, got nan"),
        ({"heads": 2.0}, "heads must be an integer"),
        ({"text_tokens": math.inf}, "text_tokens must be an integer"),
        ({"heads": True}, "heads must be an integer, got True"),
        ({"decay": "x"}, "decay must be one number or one for each of 2 heads, got 'x'"),
        ({"decay": (0.5, (0.5, 1.0))}, "decay must be one number or one for each of 2 heads"),
        ({"neighbor_window": None}, "neighbor_window must be a number, got None"),
    ],
)
def test_arguments_of_the_wrong_kind_are_named(change, message):
    with pytest.raises(TypeError, match=message):
        inspect.unwrap(radial_mask)(**({"grid": (3, 5, 7), "heads": 2, "block": 8} | change))
