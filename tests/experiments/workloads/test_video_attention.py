"""Token grids keep every pixel in its place; rotation depends on relative place alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.workloads.video_attention import attention_inputs, rotate_3d, token_features


def test_a_patch_holds_its_own_pixels():
    frames = np.random.default_rng(0).integers(0, 256, (5, 7, 11, 3), np.uint8)
    features = token_features(frames, (2, 3, 2))
    assert features.shape == (2, 2, 5, 36)
    every = np.stack(
        [
            frames[2 * t : 2 * t + 2, 3 * y : 3 * y + 3, 2 * x : 2 * x + 2].reshape(-1)
            for t in range(2)
            for y in range(2)
            for x in range(5)
        ]
    ).astype(float)
    expected = (every - every.mean(0)) / (every.std(0) + 1e-3)
    np.testing.assert_allclose(features.reshape(20, 36), expected, rtol=1e-4, atol=1e-4)


def test_a_clip_without_a_whole_patch_is_refused():
    with pytest.raises(ValueError, match="no whole patch"):
        token_features(np.zeros((1, 8, 8, 3), np.uint8), (2, 4, 4))


def test_rotated_products_depend_on_the_difference_of_places():
    grid = (3, 4, 5)
    same = jnp.broadcast_to(jax.random.normal(jax.random.key(0), (2, 1, 1, 14)), (2, 60, 1, 14))
    q, k = (rotate_3d(x, grid)[:, 0].reshape(*grid, 14) for x in same)
    for step in [(1, 0, 0), (0, 2, 0), (0, 0, 3), (1, 1, 2)]:
        near = q[0, 0, 0] @ k[step]
        far = q[1, 1, 1] @ k[tuple(s + 1 for s in step)]
        np.testing.assert_allclose(near, far, rtol=1e-4, atol=1e-4)
    by_axis = [float(q[0, 0, 0] @ k[step]) for step in [(1, 0, 0), (0, 1, 0), (0, 0, 1)]]
    assert len({round(x, 3) for x in by_axis}) == 3


def test_layers_follow_their_key_and_streams_differ():
    features = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 5, 12)), jnp.float32)
    q, k, v = attention_inputs(jax.random.key(0), features, heads=3, dim=8)
    assert q.shape == k.shape == v.shape == (1, 30, 3, 8)
    again = attention_inputs(jax.random.key(0), features, heads=3, dim=8)[0]
    np.testing.assert_array_equal(q, again)
    other = attention_inputs(jax.random.key(1), features, heads=3, dim=8)[0]
    assert not np.allclose(q, other)
    assert not np.allclose(q, k)
    assert not np.allclose(k, v)
