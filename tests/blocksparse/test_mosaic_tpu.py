"""The TPU kernels: numerics, trips, races, lowering, and the real TPU compiler."""

import dataclasses
import fcntl
import importlib.util
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.blocksparse import BlockMask, mosaic_tpu
from tests.blocksparse.kernel_cases import (
    CASES,
    abstract_call,
    check,
    deviations,
    loops_that_follow_memory,
)
from tests.blocksparse.kernel_process import run_apart

SIMULATED = ("permuted",)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n == "tall" else ()) for n in CASES]
)
def test_results_match_float64(name):
    case = CASES[name]
    check(case, deviations(mosaic_tpu, case, interpret=True))


def test_float32_keeps_float32_accuracy():
    case = dataclasses.replace(CASES["ragged"], dtype="float32", batch=1, mask_batch=1)
    check(case, deviations(mosaic_tpu, case, interpret=True))


def test_zero_scale_averages_and_stops_gradients_of_queries_and_keys():
    case = dataclasses.replace(CASES["tall"], kv_len=130, scale=0.0, dtype="float32")
    mask, arrays = case.mask(), case.arrays()
    q, k, v = (arrays[n] for n in ("q", "k", "v"))
    out, lse, _ = mosaic_tpu.forward(q, k, v, mask, scale=0.0, interpret=True)
    dq, dk, _ = mosaic_tpu.backward(
        q, k, v, mask, out, lse, arrays["d_out"], arrays["d_lse"], scale=0.0, interpret=True
    )
    assert not np.any(dq)
    assert not np.any(dk)
    with np.errstate(divide="ignore"):
        keys = np.log(np.asarray(mask.to_tokens()).sum(-1)).swapaxes(1, 2)
    np.testing.assert_allclose(lse, keys, rtol=1e-6)


@pytest.fixture(scope="module")
def simulated():
    return run_apart("simulate-tpu", *SIMULATED, seconds=200, JAX_PLATFORMS="cpu")


@pytest.mark.parametrize("name", SIMULATED)
def test_simulated_copies_do_not_race(simulated, name):
    check(CASES[name], simulated[name])
    assert simulated[name]["races"] is False


@pytest.mark.oldest
@pytest.mark.parametrize(("direction", "kernels"), [("forward", 1), ("backward", 2)])
@pytest.mark.parametrize("name", ["permuted", "whole blocks"])
def test_lowers_to_loops_that_follow_the_mask(name, direction, kernels):
    run, shapes = abstract_call(mosaic_tpu, CASES[name], direction)
    lowered = jax.jit(run).trace(*shapes).lower(lowering_platforms=("tpu",))
    loops = loops_that_follow_memory(lowered)
    assert len(loops) == kernels
    assert min(loops) >= (2 if name == "permuted" else 1)


def test_new_blocks_do_not_recompile():
    case = dataclasses.replace(CASES["whole blocks"], q_len=128, kv_len=128)
    arrays = case.arrays()
    run = jax.jit(
        lambda mask: mosaic_tpu.forward(
            arrays["q"], arrays["k"], arrays["v"], mask, scale=1.0, interpret=True
        )
    )
    totals = [int(run(case.mask(density))[2].sum()) for density in (0.0, 1.0)]
    assert totals == [1, 2]
    assert run._cache_size() == 1


def test_says_what_it_cannot_run():
    def reason(dtype=jnp.bfloat16, dim=64, q_block=64):
        q = jax.ShapeDtypeStruct((1, 128, 1, dim), dtype)
        return mosaic_tpu.unsupported(
            q, q, q, BlockMask(np.ones((1, -(-128 // q_block), 2), bool), q_block, 64, 128, 128)
        )

    assert reason() is None
    assert "float16" in reason(dtype=jnp.float16)
    assert "512" in reason(dim=512)
    assert "q_block" in reason(q_block=24)
    q = jnp.ones((1, 128, 1, 64), jnp.float16)
    mask = BlockMask(np.ones((1, 2, 2), bool), 64, 64, 128, 128)
    with pytest.raises(ValueError, match=r"float16.*implementation='xla'"):
        mosaic_tpu.forward(q, q, q, mask, scale=1.0)
    with pytest.raises(ValueError, match=r"float16.*implementation='xla'"):
        mosaic_tpu.backward(q, q, q, mask, q, q[..., 0], q, q[..., 0], scale=1.0)


@pytest.mark.tpu_aot
@pytest.mark.parametrize(
    ("topology", "accelerator"), [("v5e:2x2", "v5litepod-4"), ("v6e:2x2", "v6e-4")]
)
def test_tpu_compiler_accepts_the_kernels(topology, accelerator):
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu, the TPU compiler, is not installed")
    lock = pathlib.Path(tempfile.gettempdir()) / "jaxlab-libtpu.lock"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # libtpu allows one process at a time
        report = run_apart(
            topology,
            *CASES,
            seconds=280,
            JAX_PLATFORMS="cpu",
            TPU_SKIP_MDS_QUERY="1",
            TPU_WORKER_HOSTNAMES="localhost",
            TPU_WORKER_ID="0",
            TPU_ACCELERATOR_TYPE=accelerator,
        )
    assert report == {name: {"forward": True, "backward": True} for name in CASES}
