"""Runs kernels in a process of their own: ``python -m tests.blocksparse.kernel_process WHAT``.

A lost signal hangs a simulated kernel, and a compiler of another platform takes the whole process:
the tests give both a process that they can end. Prints one line of JSON.
"""

import json
import subprocess
import sys
from typing import Any

import jax

from tests.blocksparse.kernel_cases import CASES, Case, abstract_call, deviations

HOPPER = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84929347584
  cuda_compute_capability { major: 9 minor: 0 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 13 minor: 0 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def run_apart(*arguments: str, seconds: int, **environment: str) -> dict[str, Any]:
    """Runs this module with the arguments and returns what it printed."""
    import os

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.blocksparse.kernel_process", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def simulate_gpu(case: Case) -> dict[str, float]:
    from jax._src.pallas.mosaic_gpu.interpret import interpret_pallas_call
    from jax.experimental.pallas import mosaic_gpu as plgpu

    from jaxlab.blocksparse import mosaic_gpu

    errors = deviations(mosaic_gpu, case, plgpu.InterpretGPUParams(detect_races=True))
    return errors | {"races": interpret_pallas_call.get_races().races_found}


def simulate_tpu(case: Case) -> dict[str, float]:
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call
    from jax.experimental.pallas import tpu as pltpu

    from jaxlab.blocksparse import mosaic_tpu

    errors = deviations(mosaic_tpu, case, pltpu.InterpretParams(detect_races=True))
    return errors | {"races": interpret_pallas_call.races.races_found}


def compile_for(platform: str, kernels: Any, topology: Any, case: Case) -> dict[str, bool]:
    """Compiles both directions with the platform's own compiler, without a device."""
    mesh = jax.sharding.Mesh(topology.devices[:1], ("device",))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    finished = {}
    for direction in ("forward", "backward"):
        run, shapes = abstract_call(kernels, case, direction)
        jitted = jax.jit(run, in_shardings=everywhere, out_shardings=everywhere)
        compiled = jitted.trace(*shapes).lower(lowering_platforms=(platform,)).compile()
        finished[direction] = bool(compiled.as_text())
    return finished


def main(what: str, *names: str) -> None:
    from jax.experimental import topologies

    if what == "simulate-gpu":
        report = {name: simulate_gpu(CASES[name]) for name in names}
    elif what == "simulate-tpu":
        report = {name: simulate_tpu(CASES[name]) for name in names}
    elif what == "compile-gpu":
        from jaxlab.blocksparse import mosaic_gpu

        hopper = topologies.get_topology_desc(
            platform="cuda", target_config=HOPPER, topology="1x1x1"
        )
        report = {n: compile_for("cuda", mosaic_gpu, hopper, CASES[n]) for n in names}
    else:
        from jaxlab.blocksparse import mosaic_tpu

        chip = topologies.get_topology_desc(platform="tpu", topology_name=what)
        report = {n: compile_for("tpu", mosaic_tpu, chip, CASES[n]) for n in names}
    print(json.dumps(report))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
