"""The Hopper kernels: simulated numerics and races, compilation, and on a device."""

import dataclasses
import importlib.util
import time

import jax
import numpy as np
import pytest

from jaxlab.blocksparse import mosaic_gpu
from tests.blocksparse.kernel_cases import CASES, Case, check, deviations
from tests.blocksparse.kernel_process import run_apart

SIMULATED = ("small",)


def on_device(test):
    absent = jax.default_backend() != "gpu"
    return pytest.mark.gpu(pytest.mark.skipif(absent, reason="jax sees no GPU")(test))


def simulate(*names):
    return run_apart("simulate-gpu", *names, seconds=280, JAX_PLATFORMS="cpu")


@pytest.fixture(scope="module")
def simulated():
    return simulate(*SIMULATED)


@pytest.mark.parametrize("name", SIMULATED)
def test_simulated_results_match_float64_without_races(simulated, name):
    check(CASES[name], simulated[name])
    assert simulated[name]["races"] is False


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name not in SIMULATED])
def test_every_case_simulated(name):
    measured = simulate(name)[name]
    check(CASES[name], measured)
    assert measured["races"] is False


@pytest.mark.slow
def test_hopper_compiler_accepts_the_kernels(tmp_path):
    plugins = ("jax_plugins.xla_cuda13", "jax_plugins.xla_cuda12")
    if importlib.util.find_spec("jax_plugins") is None or not any(
        importlib.util.find_spec(plugin) for plugin in plugins
    ):
        pytest.skip("jax's CUDA plugin, which holds the compiler, is not installed")
    report = run_apart(
        "compile-gpu",
        *CASES,
        seconds=280,
        CUDA_VISIBLE_DEVICES="",
        JAX_PLATFORMS="cuda,cpu",
        JAX_SKIP_CUDA_CONSTRAINTS_CHECK="1",
        MOSAIC_GPU_DUMP_PTX="1",
        MOSAIC_GPU_DUMP_TO=str(tmp_path),
    )
    assert report == {name: {"forward": True, "backward": True} for name in CASES}
    programs = [path.read_text() for path in tmp_path.glob("*.ptx")]
    assert len(programs) == 3 * len(CASES)
    for program in programs:
        assert "wgmma.mma_async" in program
        assert "cp.async.bulk.tensor" in program


@on_device
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", CASES)
def test_device_results_match_float64(name, dtype):
    case = dataclasses.replace(CASES[name], dtype=dtype)
    check(case, deviations(mosaic_gpu, case))


@on_device
@pytest.mark.parametrize("blocks", [(64, 64), (64, 128), (128, 64), (128, 128)])
@pytest.mark.parametrize("dim", [64, 128])
def test_device_runs_long_lists(blocks, dim):
    """More blocks a row than buffers: every buffer is filled again many times."""
    case = Case(*blocks, 1111, 1999, 4, 2, dim, dim, batch=2, mask_batch=2, causal=False)
    check(case, deviations(mosaic_gpu, case))


@on_device
def test_device_results_repeat_exactly():
    case = Case(64, 64, 2048, 2048, 8, 4, 128, 128)
    arrays, mask = case.arrays(), case.mask()
    run = jax.jit(lambda m: mosaic_gpu.forward(arrays["q"], arrays["k"], arrays["v"], m, scale=0.1))
    first = run(mask)
    for _ in range(20):
        assert all(map(np.array_equal, first, run(mask)))


@on_device
def test_device_new_blocks_do_not_recompile():
    case = CASES["whole blocks"]
    arrays = case.arrays()
    run = jax.jit(lambda m: mosaic_gpu.forward(arrays["q"], arrays["k"], arrays["v"], m, scale=0.1))
    totals = [int(run(case.mask(density))[2].sum()) for density in (0.0, 1.0)]
    assert totals == [1, 21]
    assert run._cache_size() == 1


@on_device
@pytest.mark.parametrize("blocks", [(64, 64), (128, 128)])
def test_device_time_is_affine_in_blocks(blocks):
    case = Case(*blocks, 8192, 8192, 16, 16, 128, 128)
    arrays = case.arrays()
    run = jax.jit(lambda m: mosaic_gpu.forward(arrays["q"], arrays["k"], arrays["v"], m, scale=0.1))
    densities, seconds = (0.1, 0.2, 0.4, 0.7, 1.0), []
    for density in densities:
        mask = jax.device_put(case.mask(density))
        jax.block_until_ready(run(mask))
        samples = []
        for _ in range(5):
            start = time.perf_counter()
            for _ in range(10):
                result = run(mask)
            jax.block_until_ready(result)
            samples.append((time.perf_counter() - start) / 10)
        seconds.append(float(np.median(samples)))
    slope, offset = np.polyfit(densities, seconds, 1)
    residual = np.array(seconds) - (slope * np.array(densities) + offset)
    assert 1 - residual.var() / np.var(seconds) >= 0.99
    assert seconds[1] < 0.5 * seconds[-1]
