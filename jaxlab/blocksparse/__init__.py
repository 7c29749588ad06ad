"""Block-sparse attention: say which blocks attend, compute only those.

A mask rule decides on the host or under jit which blocks matter; the attention function computes
those blocks and skips the rest.

1. ``BlockMask``            which blocks are active, and what that means for every token pair
2. mask rules               decide which blocks those are:
   ``sparge_mask``          from block means of queries and keys
   ``radial_mask``          from the distance of frames
   ``sliding_tile_mask``    from windows of tiles
   ``svg_mask``             from a band along frames or pixels, which ``svg_head_kinds`` chooses
   ``svg_reordered_mask``   the same, with the tokens in the order of the band
   ``paro_mask``            from measured attention, in the best axis order of every head
   ``gaussian_field_mask``  drawn at random, with a video model's statistics
3. ``block_sparse_attention``  computes the active blocks; differentiable
   ``block_sparse_gradients``  what one piece of the keys adds to the gradients

The result differs from dense attention by what the mask leaves out: a mask is an approximation.
"""

from jaxlab.blocksparse.attention import block_sparse_attention, block_sparse_gradients
from jaxlab.blocksparse.mask import BlockLists, BlockMask, compress
from jaxlab.blocksparse.paro import paro_mask
from jaxlab.blocksparse.radial import radial_mask
from jaxlab.blocksparse.reordered import ReorderedMask
from jaxlab.blocksparse.sliding_tile import sliding_tile_mask
from jaxlab.blocksparse.sparge import sparge_mask
from jaxlab.blocksparse.svg import svg_head_kinds, svg_mask, svg_reordered_mask
from jaxlab.blocksparse.synthetic import gaussian_field_mask
from jaxlab.blocksparse.token_grid import axis_order, tile_order

__all__ = [
    "BlockLists",
    "BlockMask",
    "ReorderedMask",
    "axis_order",
    "block_sparse_attention",
    "block_sparse_gradients",
    "compress",
    "gaussian_field_mask",
    "paro_mask",
    "radial_mask",
    "sliding_tile_mask",
    "sparge_mask",
    "svg_head_kinds",
    "svg_mask",
    "svg_reordered_mask",
    "tile_order",
]
