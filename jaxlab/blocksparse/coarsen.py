"""From a rule about groups of tokens to blocks of tokens, one strip of query blocks at a time."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Int


def round_up(
    attended: Callable[[Int[np.ndarray, " some"]], Bool[np.ndarray, " groups"]],
    group: Int[np.ndarray, " tokens"],
    block: int,
) -> Bool[np.ndarray, "blocks blocks"]:
    """Activates every block in which at least one token pair attends.

    Memory stays linear in the sequence length: no token-by-token matrix is formed.

    Args:
      attended: from numbers of query groups to the key groups that any of them attends to.
      group: int ``[tokens]``, the group of every token, in the order in which the tokens stand.
      block: tokens in a block.

    Returns:
      bool ``[blocks, blocks]``.
    """
    starts = np.arange(0, group.size, block)
    blocks = np.empty((starts.size, starts.size), bool)
    for row, start in enumerate(starts):
        keys = attended(np.unique(group[start : start + block]))
        blocks[row] = np.logical_or.reduceat(keys[group], starts)
    return blocks


def add_dense_text(
    blocks: Bool[np.ndarray, "*heads video_blocks video_blocks"],
    video: int,
    text_tokens: int,
    block: int,
) -> Bool[np.ndarray, "*heads blocks blocks"]:
    """Extends a mask over video tokens by text tokens that attend to all and are attended by all.

    Args:
      blocks: bool ``[*heads, video_blocks, video_blocks]``.
      video: video tokens, ahead of the text.
      text_tokens: text tokens; 0 returns ``blocks`` itself.
      block: tokens in a block.

    Returns:
      bool ``[*heads, blocks, blocks]``; every block row and column that holds text is full.
    """
    if text_tokens == 0:
        return blocks
    size = -(-(video + text_tokens) // block)
    first = video // block
    full = np.ones((*blocks.shape[:-2], size, size), bool)
    full[..., :first, :first] = blocks[..., :first, :first]
    return full
