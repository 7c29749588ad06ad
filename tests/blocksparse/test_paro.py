"""PARO masks against loops over tokens; recovery of planted orders; properties; bad input."""

import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.blocksparse import axis_order, paro_mask
from tests.oracles import mask_rules

AXES = list(itertools.permutations(range(3)))


@pytest.mark.parametrize(
    ("grid", "block", "text", "density"),
    [((3, 5, 7), 8, 0, 0.3), ((2, 4, 3), 5, 4, 0.6), ((3, 1, 7), 4, 2, 0.01)],
)
def test_orders_and_blocks_are_the_ones_of_the_loops(grid, block, text, density):
    rng = np.random.default_rng(block)
    tokens = int(np.prod(grid)) + text
    q = 2 * rng.normal(size=(2, tokens, 4, 6)).astype(np.float32)
    k = rng.normal(size=(2, tokens, 2, 6)).astype(np.float32)
    found = paro_mask(
        jnp.asarray(q), jnp.asarray(k), grid, density=density, block=block, text_tokens=text
    )
    axes, blocks = mask_rules.paro(q, k, grid, density, block, text)
    np.testing.assert_array_equal(found.mask.blocks, blocks)
    for head in range(4):
        np.testing.assert_array_equal(found.orders[head], axis_order(grid, axes[head], text))


def near(grid, axes):
    """Queries that attend to the tokens beside them along the last of ``axes``, else to nobody."""
    rng = np.random.default_rng(0)
    places = np.indices(grid).reshape(3, -1)
    line = np.ravel_multi_index(tuple(places[a] for a in axes[:2]), (grid[axes[0]], grid[axes[1]]))
    codes = rng.normal(size=(line.max() + 1, 24))
    return 3 * codes[line]


@pytest.mark.parametrize("axis", [0, pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_head_that_looks_along_one_axis_gets_it_as_the_fastest(axis):
    grid = (5, 6, 7)
    others = [a for a in range(3) if a != axis]
    x = jnp.asarray(near(grid, (*others, axis)), jnp.float32)[None, :, None]
    found = paro_mask(x, x, grid, density=0.1, block=grid[axis])
    fastest = [axes for axes in AXES if axes[2] == axis]
    assert any(np.array_equal(found.orders[0], axis_order(grid, axes)) for axes in fastest)
    assert found.mask.blocks[0].diagonal().all()


@pytest.mark.parametrize(
    ("density", "count"),
    [
        (1e-6, 14),
        pytest.param(0.3, 58, marks=pytest.mark.slow),
        (0.6, 117),
        pytest.param(1.0, 196, marks=pytest.mark.slow),
    ],
)
def test_density_is_met_and_no_row_is_empty(density, count):
    q, k = jax.random.normal(jax.random.key(1), (2, 1, 105, 2, 8))
    mask = paro_mask(q, k, (3, 5, 7), density=density, block=8).mask
    np.testing.assert_array_equal(mask.head_counts(), [count, count])
    assert np.asarray(mask.blocks).any(-1).all()


@pytest.mark.slow
def test_renaming_the_axes_renames_the_choice():
    grid, moved_grid = (3, 4, 5), (5, 3, 4)
    q, k = jax.random.normal(jax.random.key(2), (2, 1, 60, 3, 8))

    def moved(x):
        return x.reshape(1, *grid, 3, 8).transpose(0, 3, 1, 2, 4, 5).reshape(x.shape)

    plain = paro_mask(q, k, grid, density=0.3, block=8)
    renamed = paro_mask(moved(q), moved(k), moved_grid, density=0.3, block=8)
    np.testing.assert_array_equal(plain.mask.blocks, renamed.mask.blocks)
    token = np.arange(60).reshape(grid).transpose(2, 0, 1).reshape(-1)
    np.testing.assert_array_equal(plain.orders, token[np.asarray(renamed.orders)])


def test_no_array_of_all_token_pairs_is_formed():
    tokens, block = 2048, 16
    shape = jax.ShapeDtypeStruct((1, tokens, 2, 8), jnp.float32)
    compiled = (
        jax.jit(lambda q, k: paro_mask(q, k, (8, 16, 16), density=0.2, block=block))
        .lower(shape, shape)
        .compile()
    )
    tables = 2 * 6 * (tokens // block) ** 2 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < tokens**2 * 4 // 2 + tables


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": (2, 3, 5)}, r"must be \[batch, 30"),
        ({"k": jnp.zeros((1, 24, 3, 4))}, "heads of k that divide"),
        ({"k": jnp.zeros((2, 24, 2, 4))}, "must match q"),
        ({"q": jnp.zeros((1, 24, 2, 4)).at[0, 3].set(jnp.nan)}, "q holds NaN or infinity"),
        ({"k": np.full((1, 24, 2, 4), np.inf, "f4")}, "k holds NaN or infinity"),
        ({"density": 0.0}, r"density must lie in \(0, 1\]"),
        ({"density": 1.01}, r"density must lie in \(0, 1\]"),
        ({"scale": float("nan")}, "scale must be finite in float32, got nan"),
        ({"scale": -float("inf")}, "scale must be finite in float32, got -inf"),
        ({"scale": 1e300}, "scale must be finite in float32"),
        ({"block": 0}, "block must be"),
        ({"text_tokens": -1}, "text_tokens must be"),
    ],
)
def test_bad_input_is_named(change, message):
    zeros = jnp.zeros((1, 24, 2, 4))
    arguments = {"q": zeros, "k": zeros, "grid": (2, 3, 4), "density": 0.5, "block": 8} | change
    # unwrapped: else the shape checker of the tests answers before the function
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(paro_mask)(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": [1.0]}, r"q must be an array, got list; convert it.*`jnp\.asarray\(q\)`"),
        ({"k": jnp.zeros((1, 24, 2, 4), int)}, "k must be floating point, got int32; cast it"),
        ({"grid": (2, 3.0, 4)}, "grid must be"),
        ({"block": 8.0}, "block must be an integer, got 8.0"),
        ({"text_tokens": 1.5}, "text_tokens must be an integer, got 1.5"),
        ({"density": "half"}, "density must be a number, got 'half'"),
        ({"scale": "1"}, "scale must be a number, got '1'"),
    ],
)
def test_arguments_of_the_wrong_kind_are_named(change, message):
    zeros = jnp.zeros((1, 24, 2, 4))
    arguments = {"q": zeros, "k": zeros, "grid": (2, 3, 4), "density": 0.5, "block": 8} | change
    with pytest.raises(TypeError, match=message):
        inspect.unwrap(paro_mask)(**arguments)
