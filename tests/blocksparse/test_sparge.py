"""Sparge masks against loops over tokens, in float64; properties; bad input."""

import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxlab.blocksparse import sparge_mask
from jaxlab.blocksparse.sparge import heaviest_prefix
from tests.oracles import mask_rules


def inputs(seed, q_len=43, kv_len=37, heads=4, kv_heads=2, batch=2, dim=6):
    """Runs of look-alike tokens, with some blocks of noise, so that every step of the rule acts."""
    rng = np.random.default_rng(seed)

    def tokens(length, count):
        centers = np.repeat(rng.normal(size=(batch, length // 5 + 1, count, dim)), 5, axis=1)
        blur = np.repeat(rng.choice([0.3, 3.0], size=(batch, length // 5 + 1, count, 1)), 5, axis=1)
        noise = rng.normal(size=centers.shape)
        return (2 * centers + blur * noise)[:, :length].astype(np.float32)

    return jnp.asarray(tokens(q_len, heads)), jnp.asarray(tokens(kv_len, kv_heads))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cdf": 0.5, "similarity": 0.4},
        {"top_k": 0.35, "similarity": 0.3},
        {"sink": True, "smooth": False, "cdf": 0.3, "similarity": -1.0},
        {"causal": True, "cdf": 0.4, "similarity": 0.3},
        {"causal": True, "top_k": 0.2, "similarity": 1.0},
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_blocks_are_the_ones_of_the_loops(options, seed):
    q, k = inputs(seed)
    rule = {"similarity": 0.1, "cdf": 0.9} | options
    names = {"similarity": "similarity_threshold", "cdf": "cdf_threshold", "smooth": "smooth_k"}
    mask = sparge_mask(
        q, k, q_block=8, kv_block=5, **{names.get(name, name): x for name, x in rule.items()}
    )
    expected = mask_rules.sparge(q, k, 8, 5, **rule)
    np.testing.assert_array_equal(mask.blocks, expected)
    assert mask.validate().causal == options.get("causal", False)
    assert 0.05 < expected.mean() < 1  # the rule had something to decide
    assert expected.any(-1).all()


def test_a_threshold_for_every_head():
    q, k = inputs(2)
    similarity, cdf = np.array([0.0, 0.3, 0.5, 1.0]), np.array([0.9, 0.2, 0.5, 0.7])
    together = sparge_mask(
        q, k, q_block=8, kv_block=5, similarity_threshold=similarity, cdf_threshold=cdf
    )
    for head in range(4):
        alone = mask_rules.sparge(q, k, 8, 5, similarity[head], cdf[head])
        np.testing.assert_array_equal(together.blocks[:, head], alone[:, head])


def test_padding_tokens_of_the_last_block_do_not_count():
    q = jnp.ones((1, 17, 1, 4))
    k = jnp.repeat(jnp.array([1.0, 2.0, 3.0]), 10)[None, :21, None, None] * jnp.ones((1, 1, 1, 4))
    mask = sparge_mask(
        q,
        k,
        q_block=16,
        kv_block=10,
        smooth_k=False,
        similarity_threshold=0.9,
        cdf_threshold=0.0,
    )
    # the last key block is a single token: the heaviest mean, and similar to itself
    np.testing.assert_array_equal(mask.blocks[0, 0], [[False, False, True]] * 2)


def test_zero_tokens_give_no_nan_and_keep_everything():
    q, k = jnp.zeros((1, 20, 2, 4)), jnp.zeros((1, 20, 2, 4))
    assert bool(sparge_mask(q, k, q_block=8, kv_block=4).blocks.all())


def test_density_grows_with_the_mass_to_keep():
    q, k = inputs(4, q_len=80, kv_len=90)
    kept = [
        np.asarray(
            sparge_mask(
                q, k, q_block=8, kv_block=5, cdf_threshold=cdf, similarity_threshold=-1.0
            ).blocks
        )
        for cdf in (0.0, 0.3, 0.6, 0.9, 1.0)
    ]
    assert (kept[0].sum(-1) == 1).all()
    assert kept[-1].all()
    for less, more in itertools.pairwise(kept):
        assert (less <= more).all()
        assert less.sum() < more.sum()


def test_moving_blocks_of_keys_moves_columns():
    q, k = inputs(5, kv_len=40)
    order = np.random.default_rng(0).permutation(8)
    moved = k.reshape(2, 8, 5, 2, 6)[:, order].reshape(k.shape)
    options = {"q_block": 8, "kv_block": 5, "cdf_threshold": 0.6}
    np.testing.assert_array_equal(
        sparge_mask(q, moved, **options).blocks, sparge_mask(q, k, **options).blocks[..., order]
    )


def test_a_shift_of_all_keys_changes_nothing_when_they_are_centered():
    q, k = inputs(6)
    options = {"q_block": 8, "kv_block": 5, "cdf_threshold": 0.6, "similarity_threshold": 0.5}
    centered = [sparge_mask(q, x, **options).blocks for x in (k, k + 5)]
    np.testing.assert_array_equal(*centered)
    raw = [sparge_mask(q, x, smooth_k=False, **options).blocks for x in (k, k + 5)]
    assert (raw[0] != raw[1]).any()


def test_under_jit_and_vmap_with_traced_thresholds():
    q, k = inputs(7)
    plain = sparge_mask(q, k, q_block=8, kv_block=5, cdf_threshold=0.6)

    @jax.jit
    def traced(q, k, cdf):
        return sparge_mask(q, k, q_block=8, kv_block=5, cdf_threshold=cdf)

    np.testing.assert_array_equal(traced(q, k, 0.6).blocks, plain.blocks)
    assert traced(q, k, 0.6).kv_len == 37
    mapped = jax.vmap(lambda q, k: traced(q[None], k[None], 0.6))(q, k)
    np.testing.assert_array_equal(mapped.blocks[:, 0], plain.blocks)
    compiled = traced._cache_size()
    traced(q + 1, 2 * k, 0.3)
    assert traced._cache_size() == compiled


def test_half_precision_inputs_are_accepted():
    q, k = inputs(8)
    low = sparge_mask(q.astype(jnp.bfloat16), k.astype(jnp.bfloat16), q_block=8, kv_block=5)
    high = sparge_mask(q, k, q_block=8, kv_block=5)
    assert float((low.blocks == high.blocks).mean()) > 0.9


@given(
    mass=st.lists(st.integers(0, 4), min_size=5, max_size=5),
    threshold=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),
)
def test_the_prefix_is_the_smallest_that_reaches_the_mass(mass, threshold):
    kept = np.asarray(heaviest_prefix(jnp.asarray(mass, jnp.float32), threshold))
    falling = sorted(range(5), key=lambda j: (-mass[j], j))
    smallest = next(
        size
        for size in range(1, 6)
        if sum(mass[j] for j in falling[:size]) >= threshold * sum(mass)
    )
    assert set(np.flatnonzero(kept)) == set(falling[:smallest])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": jnp.zeros((1, 8, 2, 5))}, "same batch and dim"),
        ({"k": jnp.zeros((1, 8, 3, 4))}, "3 heads of k do not divide 4"),
        ({"k": jnp.zeros((1, 0, 2, 4))}, "must not be empty"),
        ({"q_block": 0}, "q_block must be an integer from 1 on"),
        ({"kv_block": -2}, "kv_block must be an integer from 1 on"),
        ({"top_k": 0.0}, r"top_k must be a fraction in \(0, 1\]"),
        ({"q": jnp.full((1, 8, 4, 4), jnp.nan)}, "sparge_mask: q holds NaN or infinity"),
        ({"k": np.full((1, 8, 2, 4), -np.inf)}, r"k holds NaN or infinity.*`jnp\.nan_to_num\(k\)`"),
        ({"cdf_threshold": 1.5}, r"cdf_threshold must lie in \[0, 1\]"),
        ({"similarity_threshold": float("nan")}, "similarity_threshold must lie in"),
        ({"cdf_threshold": np.array([0.5, 0.5])}, "one for each of 4 heads"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"q": jnp.zeros((1, 8, 4, 4)), "k": jnp.zeros((1, 8, 2, 4))} | change
    # unwrapped: else the shape checker of the tests answers before the function
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(sparge_mask)(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q_block": 2.0}, "q_block must be an integer"),
        ({"kv_block": float("inf")}, "kv_block must be an integer, got inf"),
        ({"q": [1.0]}, "q must be an array, got list"),
        ({"q": jnp.zeros((1, 8, 4, 4), int)}, "q must be floating point, got int32"),
        ({"cdf_threshold": "a"}, "cdf_threshold must be one number or one for each of 4 heads"),
        ({"similarity_threshold": True}, "similarity_threshold must be one number .* got True"),
        ({"top_k": "a"}, "top_k must be a number, got 'a'"),
    ],
)
def test_arguments_of_the_wrong_kind_are_named(change, message):
    with pytest.raises(TypeError, match=message):
        inspect.unwrap(sparge_mask)(**(dict.fromkeys("qk", jnp.zeros((1, 8, 4, 4))) | change))
