"""Block-sparse attention: say which blocks attend, compute only those.

A mask rule decides on the host or under jit which blocks matter; the attention function computes
those blocks and skips the rest.

1. ``BlockMask``            which blocks are active, and what that means for every token pair

The result differs from dense attention by what the mask leaves out: a mask is an approximation.
"""

from jaxlab.blocksparse.attention import block_sparse_attention
from jaxlab.blocksparse.mask import BlockLists, BlockMask, compress

__all__ = ["BlockLists", "BlockMask", "block_sparse_attention", "compress"]
