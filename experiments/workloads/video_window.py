"""A window that slides over a clip, as attention inputs of one layer at successive steps."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from experiments.assets import clip, fixture_clip, frames
from experiments.workloads.video_attention import PUBLISHED, attention_inputs, token_features


@dataclasses.dataclass(frozen=True)
class Window:
    """The window and where it goes.

    Attributes:
      grid: tokens over time, rows and columns.
      patch: frames, rows and columns of one token; the window slides by one token at a time.
      steps: positions of the window.
    """

    grid: tuple[int, int, int] = (21, 30, 52)
    patch: tuple[int, int, int] = (4, 4, 4)
    steps: int = 4

    def video(self, name: str) -> UInt8[np.ndarray, "frames height width 3"]:
        """Decodes as much of a clip as the window needs, scaled so that a patch is a token.

        Args:
          name: of a clip, or ``fixture`` for the few frames in the repository, which are cut
            instead of scaled.

        Returns:
          uint8 ``[frames, height, width, 3]``.

        Raises:
          AssetUnavailable: the clip is not to be had.
          ValueError: the clip is shorter or smaller than the window's way.
        """
        needed = (self.grid[0] + self.steps - 1) * self.patch[0]
        height, width = (
            size * step for size, step in zip(self.grid[1:], self.patch[1:], strict=True)
        )
        if name == "fixture":
            video = fixture_clip()[:needed, :height, :width]
        else:
            video = frames(clip(name), needed, height=height, width=width)
        if video.shape[:3] != (needed, height, width):
            raise ValueError(
                f"the window needs {needed} frames of {height}x{width}, {name} has "
                f"{video.shape[0]} of {video.shape[1]}x{video.shape[2]}: choose a smaller grid."
            )
        return video

    def inputs(
        self,
        video: UInt8[np.ndarray, "frames height width 3"],
        step: int,
        *,
        key: Key[Array, ""],
        heads: int,
        dim: int,
        sharpness: tuple[float, float] = PUBLISHED,
    ) -> tuple[Float[Array, "1 tokens heads dim"], ...]:
        """Queries, keys and values of a layer when the window stands at ``step``.

        Args:
          video: from ``video``.
          step: position of the window.
          key: of the layer.
          heads: of the layer.
          dim: head size.
          sharpness: of the heads, see ``attention_inputs``.

        Returns:
          q, k, v, each float32 ``[1, tokens, heads, dim]``.
        """
        start = step * self.patch[0]
        window = video[start : start + self.grid[0] * self.patch[0]]
        features = jnp.asarray(token_features(window, self.patch))
        return attention_inputs(key, features, heads=heads, dim=dim, sharpness=sharpness)
