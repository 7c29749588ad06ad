"""Sparse VideoGen's masks: spatial heads look along a frame, temporal heads along a pixel."""

import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jaxlab.blocksparse.arguments import (
    finite,
    floating,
    random_key,
    real_number,
    score_scale,
    whole_number,
)
from jaxlab.blocksparse.coarsen import add_dense_text, round_up
from jaxlab.blocksparse.mask import BlockMask
from jaxlab.blocksparse.reordered import ReorderedMask
from jaxlab.blocksparse.token_grid import axis_order, video_tokens

_AXES = {"spatial": (0, 1, 2), "temporal": (1, 2, 0)}

HeadKind = Literal["spatial", "temporal"]


def svg_mask(
    grid: Sequence[int],
    kinds: Sequence[str],
    *,
    block: int = 64,
    width: float = 2.0,
    text_tokens: int = 0,
) -> BlockMask:
    """A band and a sink, over tokens in frame order or in pixel order.

    Spatial heads: tokens in raster order (frame, row, column). Block ``i`` attends to block ``j``
    when ``|i - j| * block < width * n``, where ``n`` is the tokens of a frame, or when block ``j``
    holds one of the first ``n`` tokens (the first frame). Temporal heads: the very same blocks,
    over tokens in (row, column, frame) order, in which the first ``n`` tokens are all frames of
    the first pixels. Here they are rounded up to the raster-order blocks in which any token pair
    attends, which costs more blocks; ``svg_reordered_mask`` gives the rule itself.

    Args:
      grid: frames, height and width in tokens.
      kinds: ``"spatial"`` or ``"temporal"`` for every head, see ``svg_head_kinds``.
      block: tokens in a block, for queries and keys.
      width: distance at which the band ends, in frames of tokens.
      text_tokens: text tokens behind the video tokens; blocks that hold text are dense.

    Returns:
      A mask over tokens in raster order, text last; numpy ``blocks`` ``[heads, blocks, blocks]``.
      It does not depend on content.

    Raises:
      TypeError: a size or count is not an integer.
      ValueError: a malformed geometry, an unknown kind of head, or a width that is not positive.

    Source: Sparse VideoGen (arXiv 2502.01776), from a restatement of its public code. Rounding up
    is ours.

    Example:
      >>> svg_mask((8, 8, 16), ("spatial", "temporal"))
      BlockMask(heads=2, blocks=16x16 of 64x64, tokens=1024x1024, density=0.74)
    """
    video, banded = _banded("svg_mask", grid, kinds, block, width, text_tokens)
    masks = {"spatial": banded}
    if "temporal" in kinds:
        place = np.argsort(axis_order(grid, _AXES["temporal"]))
        masks["temporal"] = round_up(lambda rows: banded[rows].any(0), place // block, block)
    return _over_heads([masks[kind] for kind in kinds], video, block, text_tokens)


def svg_reordered_mask(
    grid: Sequence[int],
    kinds: Sequence[str],
    *,
    block: int = 64,
    width: float = 2.0,
    text_tokens: int = 0,
) -> ReorderedMask:
    """The rule of ``svg_mask`` itself, and the token order it needs in every head.

    Args:
      grid: as for ``svg_mask``, here and below.
      kinds: as for ``svg_mask``.
      block: as for ``svg_mask``.
      width: as for ``svg_mask``.
      text_tokens: as for ``svg_mask``.

    Returns:
      A mask whose blocks refer to raster order for spatial heads and to
      ``axis_order(grid, (1, 2, 0), text_tokens)`` for temporal ones, and these orders; all numpy.

    Raises:
      TypeError: as for ``svg_mask``.
      ValueError: as for ``svg_mask``.

    Source: Sparse VideoGen (arXiv 2502.01776), from a restatement of its public code.

    Example:
      >>> svg_reordered_mask((8, 8, 16), ("spatial", "temporal")).mask
      BlockMask(heads=2, blocks=16x16 of 64x64, tokens=1024x1024, density=0.48)
    """
    video, banded = _banded("svg_reordered_mask", grid, kinds, block, width, text_tokens)
    orders = np.stack([axis_order(grid, _AXES[kind], text_tokens) for kind in kinds])
    mask = _over_heads([banded] * len(kinds), video, block, text_tokens)
    return ReorderedMask(mask, orders.astype(np.int32))


def svg_head_kinds(
    q: Float[Array, "batch tokens heads dim"] | Float[np.ndarray, "batch tokens heads dim"],
    k: Float[Array, "batch tokens kv_heads dim"] | Float[np.ndarray, "batch tokens kv_heads dim"],
    v: Float[Array, "batch tokens kv_heads dim"] | Float[np.ndarray, "batch tokens kv_heads dim"],
    grid: Sequence[int],
    *,
    key: Key[Array, ""],
    rows: int = 64,
    block: int = 64,
    width: float = 2.0,
    text_tokens: int = 0,
    scale: float | None = None,
) -> tuple[HeadKind, ...]:
    """Chooses every head's kind by the smaller output error on sampled rows.

    For ``rows`` video tokens, drawn without replacement and shared by all heads, the attention
    output is computed in full, under the spatial rule and under the temporal rule (that of
    ``svg_reordered_mask``). The kind with the smaller sum of squared errors over rows and batch
    wins; spatial wins a tie.

    Args:
      q: float ``[batch, tokens, heads, dim]`` in raster order, text last.
      k: float ``[batch, tokens, kv_heads, dim]``; ``kv_heads`` divides ``heads``.
      v: float ``[batch, tokens, kv_heads, dim]``.
      grid: frames, height and width in tokens.
      key: draws the rows.
      rows: number of sampled rows; at most all video tokens are used.
      block: as in ``svg_mask``.
      width: as in ``svg_mask``.
      text_tokens: as in ``svg_mask``.
      scale: factor on the scores, ``1 / sqrt(dim)`` by default.

    Returns:
      One kind a head, for ``svg_mask``. Needs concrete arrays.

    Raises:
      TypeError: a size or count is not an integer.
      ValueError: shapes that do not fit together, ``rows`` is not positive, ``scale`` is not
        finite, an array holds NaN or infinity, or attention overflows float32.

    Source: Sparse VideoGen (arXiv 2502.01776), online profiling; the sampling details are ours.
    """
    video = video_tokens("svg_head_kinds", grid, block, text_tokens)
    _check_width("svg_head_kinds", width)
    random_key("svg_head_kinds", key)
    floating("svg_head_kinds", q=q, k=k, v=v)
    tokens = video + text_tokens
    if q.ndim != 4 or q.shape[1] != tokens or k.shape != v.shape or q.shape[2] % k.shape[2]:
        raise ValueError(
            f"svg_head_kinds: q {q.shape}, k {k.shape}, v {v.shape} must be [batch, {tokens}, "
            "heads, dim] with heads of k and v that divide those of q."
        )
    if k.shape[:2] != q.shape[:2] or k.shape[3] != q.shape[3]:
        raise ValueError(f"svg_head_kinds: k {k.shape} must match q {q.shape} but for its heads.")
    whole_number("svg_head_kinds", "rows", rows)
    finite("svg_head_kinds", q=q, k=k, v=v)
    sampled = np.asarray(jax.random.permutation(key, video)[:rows])
    frame = video // grid[0]
    allowed = []
    for axes in _AXES.values():
        places = np.argsort(axis_order(grid, axes, text_tokens)) // block
        seen = _band(places[sampled, None], places, frame, block, width)
        if text_tokens:
            first = video // block
            seen |= (places >= first) | (places[sampled, None] >= first)
        allowed.append(seen)
    scale = score_scale("svg_head_kinds", scale, q.shape[3])
    errors = np.asarray(_errors(q[:, sampled], k, v, jnp.asarray(np.stack(allowed)), scale))
    if not np.isfinite(errors).all():
        head = int(np.isfinite(errors).all(1).argmin())
        raise ValueError(
            f"svg_head_kinds: attention overflows float32 in head {head}, so its kinds cannot be "
            f"compared; make q, k, v or scale={scale!r} smaller."
        )
    return tuple("spatial" if spatial <= temporal else "temporal" for spatial, temporal in errors)


@functools.partial(jax.jit, static_argnames="scale")
def _errors(
    q: Float[Array, "batch rows heads dim"],
    k: Float[Array, "batch tokens kv_heads dim"],
    v: Float[Array, "batch tokens kv_heads dim"],
    allowed: Bool[Array, "kinds rows tokens"],
    scale: float,
) -> Float[Array, "heads kinds"]:
    group = q.shape[2] // k.shape[2]

    def of_head(head: Int[Array, ""]) -> Float[Array, " kinds"]:
        queries = q[:, :, head].astype(jnp.float32)
        keys, values = (x[:, :, head // group].astype(jnp.float32) for x in (k, v))
        scores = jnp.einsum("bqd,bkd->bqk", queries, keys) * scale
        full = jax.nn.softmax(scores, axis=-1) @ values

        def error(seen: Bool[Array, "rows tokens"]) -> Float[Array, ""]:
            partial = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1) @ values
            return ((partial - full) ** 2).sum()

        return jax.lax.map(error, allowed)

    return jax.lax.map(of_head, jnp.arange(q.shape[2]))


def _band(
    rows: Int[np.ndarray, "rows 1"],
    columns: Int[np.ndarray, " columns"],
    frame: int,
    block: int,
    width: float,
) -> Bool[np.ndarray, "rows columns"]:
    """Which of the key blocks ``columns`` the query blocks ``rows`` attend to."""
    return (np.abs(rows - columns) * block < width * frame) | (columns * block < frame)


def _banded(
    rule: str, grid: Any, kinds: Sequence[str], block: Any, width: Any, text_tokens: Any
) -> tuple[int, Bool[np.ndarray, "blocks blocks"]]:
    """Number of video tokens, and their blocks in the order in which the rule is a band."""
    video = video_tokens(rule, grid, block, text_tokens)
    _check_width(rule, width)
    if len(kinds) == 0 or any(kind not in _AXES for kind in kinds):
        raise ValueError(
            f"{rule}: kinds must name 'spatial' or 'temporal' for every head, got {tuple(kinds)}."
        )
    numbers = np.arange(-(-video // block))
    return video, _band(numbers[:, None], numbers, video // grid[0], block, width)


def _over_heads(
    blocks: Sequence[Bool[np.ndarray, "blocks blocks"]], video: int, block: int, text_tokens: int
) -> BlockMask:
    tokens = video + text_tokens
    whole = add_dense_text(np.stack(blocks), video, text_tokens, block)
    return BlockMask(whole, block, block, tokens, tokens).validate()


def _check_width(rule: str, width: Any) -> None:
    if not real_number(rule, "width", width) > 0:
        raise ValueError(f"{rule}: width must be positive, in frames, got {width}.")
