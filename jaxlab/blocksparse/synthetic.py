"""Seeded masks with the statistics of a video model's attention, without a video model."""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32, Key

from jaxlab.blocksparse.arguments import random_key, real_number, whole_number
from jaxlab.blocksparse.mask import BlockMask
from jaxlab.blocksparse.sparge import heaviest_prefix
from jaxlab.blocksparse.token_grid import axis_order, video_tokens

_WIDTH_LOG_MEANS = (1.2, 2.0, 2.4)
_WIDTH_LOG_DEVIATION = 0.8
_FIELD_LOG_DEVIATION = 0.5
_FIELD_SMOOTHING = 8
_NOISE_DEVIATION = 0.6
_SINK_BLOCKS = 2
_SINK_SCORE = 2.0


def gaussian_field_mask(
    key: Key[Array, ""],
    *,
    heads: int = 40,
    grid: Sequence[int] = (21, 30, 52),
    block: int = 128,
    cdf_threshold: float = 0.9,
    step: int = 0,
    drift: float = 0.15,
) -> BlockMask:
    """Draws heads that look around themselves, each along its own axes and with its own reach.

    Every head draws an order of the three grid axes, in which its tokens stand, and a width along
    every axis, log-normal with log-means 1.2 (frames), 2.0 (rows), 2.4 (columns) and log-deviation
    0.8, in tokens. With ``c`` the centroids of blocks of tokens, query block ``i`` scores key block
    ``j`` by

        -0.5 sum_a ((c[i, a] - c[j, a]) / width[a])^2 / field[i] + 0.6 noise[i, j] + 2 [j < 2]

    and keeps the smallest set of heaviest blocks whose softmax mass is at least ``cdf_threshold``.
    ``field`` lets the reach vary smoothly along the sequence: the exponential of white noise,
    smoothed by a Gaussian of 8 blocks around the ends and scaled to deviation 0.5. Everything but
    the noise stays as denoising goes on; ``step`` redraws a part of the noise so many times.

    Args:
      key: decides all draws; head ``h`` draws from ``fold_in(key, h)``, so that fewer heads are
        the first ones of more.
      heads: number of heads.
      grid: frames, height and width in tokens; the default is Wan 2.1 at 480p.
      block: tokens in a block, for queries and keys.
      cdf_threshold: softmax mass to keep, in [0, 1].
      step: how often a part of the noise has been redrawn.
      drift: the part of the noise's variance that is redrawn at every step, in [0, 1].

    Returns:
      A mask whose blocks refer, head by head, to tokens in the head's axis order. Only the pattern
      of work is meant to be used: the orders are not returned.

    Raises:
      TypeError: a count is not an integer, ``key`` no random key, or a threshold no number.
      ValueError: a malformed geometry, threshold, step or drift.

    Source: reconstructed. A description names the distributions; the factor 0.5, the field's law
    and that it belongs to query blocks are ours. ``docs/sources/blocksparse.md`` compares figures.

    Example:
      >>> import jax
      >>> mask = gaussian_field_mask(jax.random.key(0), heads=3, grid=(5, 6, 7), block=8)
      >>> mask.blocks.shape
      (3, 27, 27)
    """
    video = video_tokens("gaussian_field_mask", grid, block)
    heads = whole_number("gaussian_field_mask", "heads", heads)
    random_key("gaussian_field_mask", key)
    step = whole_number("gaussian_field_mask", "step", step, least=0)
    if not 0 <= real_number("gaussian_field_mask", "cdf_threshold", cdf_threshold) <= 1:
        raise ValueError(
            f"gaussian_field_mask: cdf_threshold must lie in [0, 1], got {cdf_threshold}."
        )
    if not 0 <= real_number("gaussian_field_mask", "drift", drift) <= 1:
        raise ValueError(f"gaussian_field_mask: drift must lie in [0, 1], got {drift}.")
    starts = np.arange(0, video, block)
    tokens = np.diff(np.append(starts, video))
    coordinates = np.indices(tuple(grid)).reshape(3, -1)
    centroids = [
        np.add.reduceat(coordinates[:, axis_order(grid, axes)], starts, axis=1) / tokens
        for axes in itertools.permutations(range(3))
    ]
    blocks = _blocks(
        key,
        jnp.asarray(np.stack(centroids), jnp.float32),
        jnp.float32(cdf_threshold),
        jnp.int32(step),
        jnp.float32(drift),
        heads=heads,
    )
    return BlockMask(blocks, block, block, video, video)


@functools.partial(jax.jit, static_argnames="heads")
def _blocks(
    key: Key[Array, ""],
    centroids: Float[Array, "orders 3 blocks"],
    cdf_threshold: Float[Array, ""],
    step: Int32[Array, ""],
    drift: Float[Array, ""],
    *,
    heads: int,
) -> Bool[Array, "heads blocks blocks"]:
    count = centroids.shape[2]
    ahead = np.arange(count)
    distance = np.minimum(ahead, count - ahead)
    smoothing = np.fft.rfft(np.exp(-0.5 * (distance / _FIELD_SMOOTHING) ** 2))
    sink = _SINK_SCORE * (ahead < _SINK_BLOCKS)

    def of_head(head: Array) -> Bool[Array, "blocks blocks"]:
        head_key = jax.random.fold_in(key, head)
        order, widths, field, noise = (jax.random.fold_in(head_key, name) for name in range(4))
        places = centroids[jax.random.randint(order, (), 0, centroids.shape[0])]
        reach = jnp.exp(
            jnp.asarray(_WIDTH_LOG_MEANS) + _WIDTH_LOG_DEVIATION * jax.random.normal(widths, (3,))
        )
        apart = (places[:, :, None] - places[:, None, :]) / reach[:, None, None]
        white = jnp.fft.rfft(jax.random.normal(field, (count,)))
        smooth = jnp.fft.irfft(white * smoothing, count)
        deviation = jnp.maximum(smooth.std(), jnp.finfo(smooth.dtype).tiny)
        stretch = jnp.exp(_FIELD_LOG_DEVIATION * smooth / deviation)
        score = -0.5 * (apart**2).sum(0) / stretch[:, None]

        def redraw(number: Int32[Array, ""], drawn: Float[Array, "blocks blocks"]) -> Array:
            fresh = jax.random.normal(jax.random.fold_in(noise, number), drawn.shape)
            return jnp.sqrt(1 - drift) * drawn + jnp.sqrt(drift) * fresh

        drawn = jax.random.normal(noise, (count, count))
        drawn = jax.lax.fori_loop(1, step + 1, redraw, drawn)
        score += _NOISE_DEVIATION * drawn + sink
        return heaviest_prefix(jax.nn.softmax(score, axis=-1), cdf_threshold)

    return jax.lax.map(of_head, jnp.arange(heads))
