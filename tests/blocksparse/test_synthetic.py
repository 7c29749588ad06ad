"""The generator's statistics against the figures described for it."""

import inspect

import jax
import numpy as np
import pytest

from jaxlab.blocksparse import gaussian_field_mask
from tests.oracles import balance


@pytest.fixture(scope="module")
def blocks():
    return np.asarray(gaussian_field_mask(jax.random.key(0)).blocks)


def imbalance(blocks, ulysses, ring):
    heads, count, _ = blocks.shape
    parts = (ulysses, heads // ulysses, ring, count // ring, ring, count // ring)
    return balance.imbalance_by_steps(blocks.reshape(parts).sum((1, 3, 5)))


def test_density_and_imbalance_are_near_those_described(blocks):
    assert blocks.shape == (40, 256, 256)
    assert 0.22 < blocks.mean() < 0.40
    by_head = blocks.mean((1, 2))
    assert by_head.min() < 0.12
    assert by_head.max() > 0.5
    assert 1.1 < imbalance(blocks, 8, 1) < 2.0
    assert 1.08 < imbalance(blocks, 1, 8) < 1.3


def test_sinks_are_kept_more_often_and_no_row_is_empty(blocks):
    assert blocks.any(-1).all()
    columns = blocks.mean((0, 1))
    assert columns[:2].mean() > 1.3 * columns[-2:].mean()  # the other end has no sink


def test_heads_have_bands_where_their_axes_put_them(blocks):
    near = np.abs(np.subtract.outer(np.arange(256), np.arange(256))) <= 1
    assert blocks[:, near].mean() > 2 * blocks.mean()


def test_the_key_decides_and_heads_are_drawn_one_by_one():
    options = {"grid": (5, 6, 7), "block": 8}
    three = gaussian_field_mask(jax.random.key(1), heads=3, **options)
    five = gaussian_field_mask(jax.random.key(1), heads=5, **options)
    np.testing.assert_array_equal(three.blocks, five.blocks[:3])
    other = gaussian_field_mask(jax.random.key(2), heads=3, **options)
    assert (three.blocks != other.blocks).any()
    assert (three.blocks[0] != three.blocks[1]).any()
    assert three.q_len == 210


def test_density_grows_with_the_mass_to_keep():
    less, more = (
        gaussian_field_mask(jax.random.key(3), heads=2, grid=(3, 5, 7), block=8, cdf_threshold=c)
        for c in (0.5, 0.9)
    )
    assert bool((less.blocks <= more.blocks).all())
    assert less.density() < more.density()


def test_steps_redraw_a_part_of_the_noise():
    options = {"heads": 3, "grid": (5, 6, 7), "block": 8}
    first, second, still, fresh = (
        gaussian_field_mask(jax.random.key(1), **options, **change).blocks
        for change in ({}, {"step": 1}, {"step": 5, "drift": 0.0}, {"step": 1, "drift": 1.0})
    )
    np.testing.assert_array_equal(first, still)
    assert 0 < (first != second).mean() < (first != fresh).mean()


def test_one_block_is_a_mask_too():
    assert gaussian_field_mask(jax.random.key(0), heads=2, grid=(1, 2, 3), block=8).density() == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 0}, "heads must be"),
        ({"grid": (1, 2)}, "grid must be"),
        ({"block": 0}, "block must be"),
        ({"step": -1}, "step must be an integer from 0 on, got -1"),
        ({"drift": 1.5}, r"drift must lie in \[0, 1\], got 1.5"),
        ({"cdf_threshold": 1.1}, r"cdf_threshold must lie in \[0, 1\]"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(gaussian_field_mask)(jax.random.key(0), **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": 0}, r"key must be one random key, got 0; pass `jax\.random\.key\(0\)`"),
        ({"key": jax.random.split(jax.random.key(0))}, "key must be one random key"),
        ({"heads": 2.0}, "heads must be an integer, got 2.0"),
        ({"block": 8.0}, "block must be an integer, got 8.0"),
        ({"step": 2.0}, "step must be an integer, got 2.0"),
        ({"drift": "0"}, "drift must be a number, got '0'"),
        ({"cdf_threshold": None}, "cdf_threshold must be a number, got None"),
    ],
)
def test_arguments_of_the_wrong_kind_are_named(change, message):
    with pytest.raises(TypeError, match=message):
        inspect.unwrap(gaussian_field_mask)(**({"key": jax.random.key(0)} | change))
