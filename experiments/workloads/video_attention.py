"""Queries, keys and values of a video diffusion transformer, made from real frames.

No pretrained weights are needed: what block-sparse mask rules react to is content that repeats and
moves, and heads that look at it differently. Both are here. Frames become a grid of patch features;
every head projects them by its own random matrix, adds its own constant direction, and rotates the
result by its token's (time, row, column) position. The rotated constant makes a head prefer
neighbors, the projected content makes it prefer look-alikes; heads draw how much of either they
have, and how sharp they are.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8


def token_features(
    frames: UInt8[np.ndarray, "frames height width 3"], patch: tuple[int, int, int]
) -> Float[np.ndarray, "time rows columns features"]:
    """Cuts frames into patches and standardizes every feature over the whole clip.

    Args:
      frames: uint8 ``[frames, height, width, 3]``; what does not fill a patch is left out.
      patch: frames, rows and columns of one patch.

    Returns:
      float32 ``[frames // t, height // y, width // x, t * y * x * 3]``.

    Raises:
      ValueError: the clip is smaller than one patch.
    """
    grid = tuple(size // step for size, step in zip(frames.shape[:3], patch, strict=True))
    if 0 in grid:
        raise ValueError(f"token_features: frames {frames.shape} hold no whole patch of {patch}.")
    t, y, x = (count * step for count, step in zip(grid, patch, strict=True))
    cut = frames[:t, :y, :x].reshape(grid[0], patch[0], grid[1], patch[1], grid[2], patch[2], 3)
    features = cut.transpose(0, 2, 4, 1, 3, 5, 6).reshape(*grid, -1).astype(np.float32)
    spread = features.std((0, 1, 2)) + 1e-3
    return (features - features.mean((0, 1, 2))) / spread


def rotate_3d(
    x: Float[Array, "tokens heads dim"], grid: tuple[int, int, int], base: float = 10_000.0
) -> Float[Array, "tokens heads dim"]:
    """Rotary position embedding over time, row and column.

    The pairs of the head dimension are shared out over the three axes, time taking the remainder.

    Args:
      x: float ``[tokens, heads, dim]``, tokens in (time, row, column) order, ``dim`` even.
      grid: time, rows, columns; their product is ``tokens``.
      base: slowest wavelength of the rotation, in tokens, up to a factor of 2 pi.

    Returns:
      The rotated array.
    """
    return rotate(x, rotation_angles(grid, x.shape[-1] // 2, base).astype(x.dtype))


def rotation_angles(
    grid: tuple[int, int, int], pairs: int, base: float = 10_000.0
) -> Float[Array, "tokens pairs"]:
    """Angle of every token for every pair of head dimensions, as ``rotate_3d`` turns them.

    Args:
      grid: time, rows, columns.
      pairs: half the head size.
      base: as in ``rotate_3d``.

    Returns:
      float32 ``[tokens, pairs]``, tokens in (time, row, column) order.
    """
    share = (pairs - 2 * (pairs // 3), pairs // 3, pairs // 3)
    places = jnp.meshgrid(*(jnp.arange(size, dtype=jnp.float32) for size in grid), indexing="ij")
    return jnp.concatenate(
        [
            place.reshape(-1, 1) * base ** (-jnp.arange(count, dtype=jnp.float32) / count)
            for place, count in zip(places, share, strict=True)
        ],
        axis=1,
    )


def rotate(
    x: Float[Array, "*batch tokens heads dim"], angles: Float[Array, "tokens pairs"]
) -> Float[Array, "*batch tokens heads dim"]:
    """Turns every pair (i, i + dim / 2) of head dimensions by a token's angles.

    Args:
      x: float ``[*batch, tokens, heads, dim]``, ``dim`` even.
      angles: float ``[tokens, dim / 2]``, in the order of the tokens.

    Returns:
      The rotated array.
    """
    pairs = x.shape[-1] // 2
    angles = angles[:, None, :]
    first, second = x[..., :pairs], x[..., pairs:]
    return jnp.concatenate(
        [
            first * jnp.cos(angles) - second * jnp.sin(angles),
            first * jnp.sin(angles) + second * jnp.cos(angles),
        ],
        axis=-1,
    )


PUBLISHED = (1.0, 1.2)
"""Sharpness fitted so that the masks' density and its spread over heads come near the counts that
db-SP's authors published for Wan2.1 (density 0.38 to 0.58, coefficient of variation 0.61)."""

PLAIN = (0.0, 0.8)
"""Sharpness as first chosen, before any mask was seen: milder heads, denser and more alike."""


@functools.partial(jax.jit, static_argnames=("heads", "dim"))
def attention_inputs(
    key: Key[Array, ""],
    features: Float[Array, "time rows columns features"],
    *,
    heads: int,
    dim: int,
    sharpness: tuple[float, float] = PUBLISHED,
) -> tuple[
    Float[Array, "1 tokens heads dim"],
    Float[Array, "1 tokens heads dim"],
    Float[Array, "1 tokens heads dim"],
]:
    """Makes queries, keys and values of one attention layer.

    Args:
      key: decides the heads (projection, constant direction, balance of content and place,
        sharpness). The same key on another window of the clip is the same layer at another time.
      features: float ``[time, rows, columns, features]`` from ``token_features``.
      heads: number of heads.
      dim: head size, even.
      sharpness: mean and deviation of the logarithm of the factor on a head's scores.

    Returns:
      q, k, v, each float32 ``[1, tokens, heads, dim]``.
    """
    streams = [jax.random.fold_in(key, stream) for stream in range(6)]
    grid = features.shape[:3]
    tokens = features.reshape(-1, features.shape[-1])
    width = tokens.shape[1]
    shared = jax.random.normal(streams[0], (width, heads, dim)) / jnp.sqrt(width)
    own = jax.random.normal(streams[1], (2, width, heads, dim)) / jnp.sqrt(width)
    direction = jax.random.normal(streams[2], (heads, dim))
    content = jax.random.uniform(streams[3], (heads, 1))
    mean, deviation = sharpness
    factor = jnp.exp(mean + deviation * jax.random.normal(streams[4], (heads, 1)))

    def head_vectors(private: Float[Array, "width heads dim"]) -> Float[Array, "tokens heads dim"]:
        projected = jnp.einsum("tf,fhd->thd", tokens, 0.8 * shared + 0.6 * private)
        mixed = jnp.sqrt(content) * projected + jnp.sqrt(1 - content) * direction
        return rotate_3d(jnp.sqrt(factor) * mixed, grid)

    q, k = head_vectors(own[0]), head_vectors(own[1])
    v = jnp.einsum(
        "tf,fhd->thd", tokens, jax.random.normal(streams[5], (width, heads, dim)) / jnp.sqrt(width)
    )
    return q[None], k[None], v[None]
