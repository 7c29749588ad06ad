"""What all kernels share: loops that follow the mask, alone and under shard_map, and limits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxlab.blocksparse import BlockMask, mosaic_gpu, mosaic_tpu, tiles
from jaxlab.blocksparse.implementation import Kernels
from tests.blocksparse.kernel_cases import CASES, abstract_call, loops_that_follow_memory

PLATFORMS = {"cuda": mosaic_gpu, "tpu": mosaic_tpu}
# On a GPU a producer has a loop of its own beside the loops over whole and over partial blocks.
LEAST_LOOPS = {
    ("cuda", "permuted"): 3,
    ("cuda", "whole blocks"): 2,
    ("tpu", "permuted"): 2,
    ("tpu", "whole blocks"): 1,
}


@pytest.mark.oldest
@pytest.mark.parametrize("mapped", [False, True], ids=["alone", "in shard_map"])
@pytest.mark.parametrize(("direction", "kernels"), [("forward", 1), ("backward", 2)])
@pytest.mark.parametrize(("platform", "name"), LEAST_LOOPS)
def test_lowers_to_loops_that_follow_the_mask(platform, name, direction, kernels, mapped):
    case = CASES[name]
    if mapped:
        case = dataclasses.replace(case, batch=4, mask_batch=4)
    run, shapes = abstract_call(PLATFORMS[platform], case, direction)
    if mapped:
        mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
        specs = jax.tree.map(lambda x: P("data") if x.ndim > 1 else P(), shapes)

        def local(*arguments, run=run):
            results = run(*arguments)
            assert all(jax.typeof(x).mat.varying == {"data"} for x in results)
            return results

        run = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P("data"))
    lowered = jax.jit(run).trace(*shapes).lower(lowering_platforms=(platform,))
    loops = loops_that_follow_memory(lowered)
    assert len(loops) == kernels
    assert min(loops) >= LEAST_LOOPS[platform, name]


@pytest.mark.parametrize(
    ("platform", "dtype", "other_dtype", "dim", "block"),
    [("cuda", "bfloat16", "float32", 256, 32), ("tpu", "float32", "float16", 512, 24)],
)
def test_says_what_it_cannot_run(platform, dtype, other_dtype, dim, block):
    kernels = PLATFORMS[platform]

    def reason(dtype=dtype, dim=64, block=64):
        q = jax.ShapeDtypeStruct((1, 128, 1, dim), dtype)
        blocks = np.ones((1, -(-128 // block), 2), bool)
        return kernels.unsupported(q, q, q, BlockMask(blocks, block, 64, 128, 128))

    assert isinstance(kernels, Kernels)
    assert reason() is None
    assert other_dtype in reason(dtype=other_dtype)
    assert str(dim) in reason(dim=dim)
    assert "q_block" in reason(block=block)
    q = jnp.ones((1, 128, 1, 64), other_dtype)
    mask = BlockMask(np.ones((1, 2, 2), bool), 64, 64, 128, 128)
    with pytest.raises(ValueError, match=rf"{other_dtype}.*implementation='xla'"):
        kernels.forward(q, q, q, mask, scale=1.0)
    with pytest.raises(ValueError, match=rf"{other_dtype}.*implementation='xla'"):
        kernels.backward(q, q, q, mask, q, q[..., 0], q, q[..., 0], scale=1.0)


@pytest.mark.parametrize("scale", [0.3, -0.3, 0.0])
def test_a_factor_is_made_positive_without_changing_products(scale):
    q = jnp.arange(-4.0, 4.0).reshape(1, 2, 2, 2)
    folded, factor = tiles.fold_sign(q, scale)
    assert factor > 0
    np.testing.assert_array_equal(factor * folded, np.float32(scale) * q)
