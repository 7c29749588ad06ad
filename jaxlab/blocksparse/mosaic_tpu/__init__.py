"""Block-sparse attention on TPU: Pallas kernels for the Mosaic TPU backend.

A grid step works on one row of blocks. It reads the row's work list from scalar memory and loops
as often as the list says, copying the next listed block from HBM while it multiplies the present
one: a block that is not listed is neither copied nor computed.

Scores are kept transposed, keys down and queries across, so that what belongs to a query (its
maximum, its sum, its log-sum-exp) lies along the lanes.

Source: online softmax and its backward pass as in FlashAttention-2 (Dao, 2023).
"""

from jaxlab.blocksparse.mosaic_tpu.backward_kernels import backward
from jaxlab.blocksparse.mosaic_tpu.forward_kernel import forward
from jaxlab.blocksparse.mosaic_tpu.limits import unsupported

__all__ = ["backward", "forward", "unsupported"]
