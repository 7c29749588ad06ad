"""Block-sparse attention on NVIDIA Hopper: Pallas kernels for the Mosaic GPU backend.

A producer warpgroup reads the work list of a row of blocks and streams the listed blocks into
shared memory by TMA, as far ahead as there are buffers; one consumer warpgroup for every 64 rows
multiplies them with wgmma. Both loop as often as the list says: a block that is not listed is
neither loaded nor computed. Where a row has only 64 rows, a thread block works on two rows, each
with its own producer, so that one multiplies while the other takes exponentials.

Source: online softmax and its backward pass as in FlashAttention-2 (Dao, 2023); producer and
consumer warpgroups as in FlashAttention-3 (Shah et al., 2024).
"""

from jaxlab.blocksparse.mosaic_gpu.backward_kernels import backward
from jaxlab.blocksparse.mosaic_gpu.forward_kernel import forward
from jaxlab.blocksparse.mosaic_gpu.limits import unsupported

__all__ = ["backward", "forward", "unsupported"]
