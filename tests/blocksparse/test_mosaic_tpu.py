"""The TPU kernels: numerics, trips, races, and the real TPU compiler."""

import dataclasses
import fcntl
import importlib.util
import pathlib
import tempfile

import jax
import numpy as np
import pytest

from jaxlab.blocksparse import mosaic_tpu
from tests.blocksparse.kernel_cases import CASES, check, deviations
from tests.blocksparse.kernel_process import run_apart

SIMULATED = ("small",)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_results_match_float64(name):
    case = CASES[name]
    check(case, deviations(mosaic_tpu, case, interpret=True))


def test_float32_keeps_float32_accuracy():
    case = dataclasses.replace(CASES["small"], dtype="float32", batch=2, mask_batch=2)
    check(case, deviations(mosaic_tpu, case, interpret=True))


@pytest.mark.slow
def test_zero_scale_averages_and_stops_gradients_of_queries_and_keys():
    case = dataclasses.replace(CASES["small"], scale=0.0, dtype="float32")
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


@pytest.mark.slow
def test_copies_of_a_shuffled_mask_do_not_race():
    measured = run_apart("simulate-tpu", "permuted", seconds=200, JAX_PLATFORMS="cpu")["permuted"]
    check(CASES["permuted"], measured)
    assert measured["races"] is False


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
