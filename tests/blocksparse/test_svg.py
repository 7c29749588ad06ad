"""SVG masks and head kinds against loops over tokens; reordering; properties; bad input."""

import dataclasses
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.blocksparse import (
    BlockMask,
    ReorderedMask,
    svg_head_kinds,
    svg_mask,
    svg_reordered_mask,
)
from tests.oracles import mask_rules

GRIDS = [
    ((3, 5, 7), 8, 0.7, 0),
    ((5, 2, 3), 4, 1.0, 3),
    ((4, 3, 5), 7, 0.4, 6),
    ((7, 3, 4), 6, 2.0, 0),
]


@pytest.mark.parametrize(("grid", "block", "width", "text"), GRIDS)
def test_blocks_are_the_ones_of_the_loops(grid, block, width, text):
    mask = svg_mask(grid, ("temporal", "spatial"), block=block, width=width, text_tokens=text)
    for head, kind in enumerate(("temporal", "spatial")):
        expected = mask_rules.svg(grid, kind, block, width, text)
        np.testing.assert_array_equal(mask.blocks[head], expected)


@pytest.mark.parametrize(("grid", "block", "width", "text"), GRIDS)
def test_a_reordered_mask_means_the_rule_itself(grid, block, width, text):
    kinds = ("spatial", "temporal", "temporal")
    reordered = svg_reordered_mask(grid, kinds, block=block, width=width, text_tokens=text)
    in_order = np.asarray(reordered.mask.to_tokens())
    for head, kind in enumerate(kinds):
        place = np.argsort(reordered.orders[head])
        original = in_order[head][place][:, place]
        expected = mask_rules.svg_tokens(grid, kind, block, width, text)
        np.testing.assert_array_equal(original, expected)


def test_without_reordering_a_mask_attends_to_no_less():
    grid, kinds = (5, 4, 6), ("temporal", "spatial")
    plain = svg_mask(grid, kinds, block=8, width=0.5, text_tokens=3)
    assert isinstance(plain, BlockMask)
    reordered = svg_reordered_mask(grid, kinds, block=8, width=0.5, text_tokens=3)
    assert isinstance(reordered, ReorderedMask)
    place = np.argsort(reordered.orders[0])
    rule = np.asarray(reordered.mask.to_tokens())[0][place][:, place]
    assert (rule <= np.asarray(plain.to_tokens())[0]).all()
    assert plain.head_counts()[0] > reordered.mask.head_counts()[0]


def test_density_grows_with_the_width_and_own_blocks_stay():
    masks = [
        svg_mask((6, 4, 7), ("temporal", "spatial"), block=8, width=w) for w in (1e-3, 0.5, 2.0)
    ]
    for less, more in itertools.pairwise(masks):
        assert (less.blocks <= more.blocks).all()
        assert (less.head_counts() < more.head_counts()).all()
    assert masks[0].blocks.diagonal(axis1=1, axis2=2).all()


def attention(q, k, v, tokens):
    group = q.shape[2] // k.shape[2]
    k, v = (np.repeat(x, group, axis=2) for x in (k, v))
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[3] ** -0.5
    weights = mask_rules.softmax_rows(np.where(tokens, scores, -np.inf))
    return np.einsum("bhqk,bkhd->bqhd", weights, v)


def test_reorder_attend_restore_is_attention_under_the_rule():
    grid, kinds = (4, 3, 5), ("temporal", "temporal", "spatial", "spatial")
    rng = np.random.default_rng(0)
    q = rng.normal(size=(2, 62, 4, 6)).astype(np.float32)
    k, v = rng.normal(size=(2, 2, 62, 2, 6)).astype(np.float32)
    reordered = svg_reordered_mask(grid, kinds, block=7, width=0.4, text_tokens=2)
    moved = [np.asarray(reordered.reorder(jnp.asarray(x))) for x in (q, k, v)]
    out = attention(*moved, np.asarray(reordered.mask.to_tokens()))
    rule = np.stack([mask_rules.svg_tokens(grid, kind, 7, 0.4, 2) for kind in kinds])
    np.testing.assert_allclose(
        reordered.restore(jnp.asarray(out)), attention(q, k, v, rule), rtol=2e-5, atol=2e-6
    )


def test_reordering_refuses_what_does_not_fit():
    reordered = svg_reordered_mask((2, 3, 4), ("spatial", "temporal"), block=8)
    with pytest.raises(ValueError, match="share key head 0"):
        reordered.reorder(jnp.zeros((1, 24, 1, 4)))
    for shape in ((1, 23, 2, 4), (1, 24, 3, 4)):
        with pytest.raises(ValueError, match=r"expected \[batch, 24, heads, dim\]"):
            reordered.restore(jnp.zeros(shape))


ORDERS = np.stack([np.arange(24), np.arange(24)[::-1]])


@pytest.mark.parametrize(
    ("orders", "error", "message"),
    [
        (ORDERS.astype(float), TypeError, "orders must be an integer array, got float64"),
        (ORDERS.tolist(), TypeError, "orders must be an integer array, got list"),
        (ORDERS[:1], ValueError, r"orders has shape \(1, 24\)"),
        (ORDERS[:, :23], ValueError, r"needs .* orders \[2, 24\]"),
        (ORDERS // 2, ValueError, r"orders\[0\] is not a permutation of 0\.\.23"),
        (ORDERS + np.array([[0], [1]]), ValueError, r"orders\[1\] is not a permutation"),
    ],
)
def test_orders_that_cannot_be_undone_are_refused(orders, error, message):
    mask = svg_reordered_mask((2, 3, 4), ("spatial", "temporal"), block=8).mask
    reordered = ReorderedMask(mask, orders)
    for method in (ReorderedMask.reorder, ReorderedMask.restore):
        with pytest.raises(error, match=message):
            inspect.unwrap(method)(reordered, jnp.zeros((1, 24, 2, 4)))


def test_a_reordered_mask_of_fewer_keys_is_refused():
    mask = dataclasses.replace(svg_mask((2, 3, 4), ("spatial",) * 2, block=8), kv_len=20)
    with pytest.raises(ValueError, match="24 queries and 20 keys needs as many queries as keys"):
        ReorderedMask(mask, ORDERS).validate()


@pytest.mark.parametrize(
    ("largest", "scale", "message"),
    [
        (1, float("nan"), "scale must be finite in float32, got nan"),
        (1, float("inf"), "scale must be finite in float32, got inf"),
        (1e30, None, "attention overflows float32 in head 0"),
    ],
)
def test_kinds_are_not_chosen_by_errors_that_are_not_finite(largest, scale, message):
    q = np.linspace(-largest, largest, 192, dtype="f4").reshape(1, 24, 2, 4)
    with pytest.raises(ValueError, match=message):
        svg_head_kinds(q, q, q, (2, 3, 4), key=jax.random.key(0), block=8, scale=scale)


def test_a_reordered_mask_is_a_pytree():
    reordered = svg_reordered_mask((2, 3, 4), ("spatial", "temporal"), block=8)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 24, 2, 3)))
    moved = jax.jit(lambda mask, x: mask.restore(mask.reorder(x)))(reordered, x)
    np.testing.assert_array_equal(moved, x)
    assert jax.tree.map(lambda _: None, reordered).orders is None


def test_head_kinds_follow_the_smaller_error():
    grid, text = (5, 4, 6), 3
    rng = np.random.default_rng(1)
    tokens = 123
    q = rng.normal(size=(2, tokens, 4, 8))
    k, v = rng.normal(size=(2, 2, tokens, 2, 8))
    kinds = svg_head_kinds(
        *(jnp.asarray(x, jnp.float32) for x in (q, k, v)),
        grid,
        key=jax.random.key(0),
        rows=1000,  # more than there are: all of them, so that the loops use the same rows
        block=8,
        width=0.5,
        text_tokens=text,
    )
    errors = mask_rules.svg_errors(q, k, v, grid, range(120), 8, 0.5, text)
    smaller = np.where(errors["spatial"] <= errors["temporal"], "spatial", "temporal")
    assert kinds == tuple(smaller)
    assert len(set(kinds)) == 2  # seed chosen so that both kinds occur


def test_heads_that_look_along_frames_or_pixels_are_recognized_from_few_rows():
    grid = (6, 4, 5)
    t, y, x = np.indices(grid).reshape(3, -1)
    same_frame = np.eye(6)[t]
    same_pixel = np.eye(20)[y * 5 + x]
    rng = np.random.default_rng(2)
    vectors = np.zeros((1, 120, 2, 20))
    vectors[0, :, 0] = 6 * same_pixel
    vectors[0, :, 1, :6] = 6 * same_frame
    values = rng.normal(size=(1, 120, 2, 20))
    q, v = jnp.asarray(vectors, jnp.float32), jnp.asarray(values, jnp.float32)
    kinds = svg_head_kinds(q, q, v, grid, key=jax.random.key(3), rows=9, block=4, width=1.0)
    assert kinds == ("temporal", "spatial")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": (0, 5, 7)}, "grid must be"),
        ({"kinds": ()}, "kinds must name"),
        ({"kinds": ("spatial", "causal")}, "kinds must name"),
        ({"block": -1}, "block must be"),
        ({"width": 0.0}, "width must be positive"),
        ({"text_tokens": -1}, "text_tokens must be"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        svg_mask(**({"grid": (3, 5, 7), "kinds": ("spatial",), "block": 8} | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": jnp.zeros((1, 23, 2, 4))}, r"must be \[batch, 24"),
        ({"v": jnp.zeros((1, 24, 1, 4))}, r"must be \[batch, 24"),
        (dict.fromkeys("kv", jnp.zeros((1, 24, 2, 5))), "must match q"),
        ({"rows": 0}, "rows must be an integer from 1 on"),
        ({"v": jnp.full((1, 24, 2, 4), jnp.inf)}, "v holds NaN or infinity"),
        ({"width": -1.0}, "width must be positive"),
    ],
)
def test_bad_profiling_input_is_named(change, message):
    arrays = {name: jnp.zeros((1, 24, 2, 4)) for name in "qkv"}
    arguments = arrays | {"grid": (2, 3, 4), "key": jax.random.key(0), "block": 8} | change
    # unwrapped: else the shape checker of the tests answers before the function
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(svg_head_kinds)(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": (3, 5, 7.0)}, "grid must be"),
        ({"block": float("inf")}, "block must be an integer, got inf"),
        ({"text_tokens": 1.5}, "text_tokens must be"),
        ({"width": "2"}, "width must be a number, got '2'"),
    ],
)
def test_arguments_of_the_wrong_kind_are_named(change, message):
    with pytest.raises(TypeError, match=message):
        inspect.unwrap(svg_mask)(
            **({"grid": (3, 5, 7), "kinds": ("spatial",), "block": 8} | change)
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": [1.0]}, "q must be an array, got list"),
        ({"v": jnp.zeros((1, 24, 2, 4), int)}, "v must be floating point, got int32"),
        ({"key": 3}, "key must be one random key, got 3"),
        ({"rows": 8.0}, "rows must be an integer, got 8.0"),
        ({"grid": (2, 3.0, 4)}, "grid must be"),
        ({"width": None}, "width must be a number, got None"),
        ({"scale": "1"}, "scale must be a number, got '1'"),
    ],
)
def test_profiling_arguments_of_the_wrong_kind_are_named(change, message):
    arrays = {name: jnp.zeros((1, 24, 2, 4)) for name in "qkv"}
    arguments = arrays | {"grid": (2, 3, 4), "key": jax.random.key(0), "block": 8} | change
    with pytest.raises(TypeError, match=message):
        inspect.unwrap(svg_head_kinds)(**arguments)
