"""The simulated allocators against those of a real GPU."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxlab.stweaver import Trace, simulate
from tests.stweaver.test_torch_snapshot import same_addresses

# A program's name and bytes of an array in MiB. None has a matrix product or a convolution: tuning
# those allocates, and the peak of a process cannot be reset.
PROGRAMS = {"sort": 64, "scan": 48, "branches": 80}

CHILD = """
import json, sys
import jax, jax.numpy as jnp, numpy as np

def sort(x, y):
    return jnp.sort(x) + jnp.sort(y)[::-1], jnp.cumsum(x)

def scan(x, y):
    def turn(carry, step):
        return jnp.sort(carry) * 0.5 + step * y, carry.sum()
    return jax.lax.scan(turn, x, jnp.arange(4.0))

def branches(x, y):
    return jax.lax.cond(y[0] > 0, lambda: jnp.sort(x), lambda: jnp.sort(y)[::-1] - x)

program, mebibytes = sys.argv[1], int(sys.argv[2])
device = jax.devices()[0]
stats = lambda: {name: device.memory_stats()[name] for name in
                 ("bytes_in_use", "peak_bytes_in_use", "bytes_limit")}
before = stats()
count = (mebibytes << 18) + 13  # no multiple of 256 bytes
args = [jax.device_put(np.full(count, value, np.float32), device) for value in (2.0, 1.0)]
jax.block_until_ready(args)
placed = stats()
compiled = jax.jit(globals()[program]).lower(*args).compile()
ready = stats()
out = jax.block_until_ready(compiled(*args))
ran = stats()
print(json.dumps({
    "stats": [before, placed, ready, ran],
    "args": [array.nbytes for array in args],
    "out": [array.nbytes for array in jax.tree.leaves(out)],
    "temp": compiled.memory_analysis().temp_size_in_bytes,
}))
"""


@pytest.mark.gpu
@pytest.mark.skipif(jax.default_backend() != "gpu", reason="jax sees no GPU")
@pytest.mark.parametrize("growing", [False, True])
@pytest.mark.parametrize("program", PROGRAMS)
def test_peak_of_a_program_is_that_of_the_simulated_bfc(program: str, growing: bool) -> None:
    """Peak bytes in use, as the device counts them, within 2 MiB of the simulator's.

    What it assumes of jax on CUDA:

    - the allocator is BFC, with one region (the default) or with regions as needed, whose
      ``memory_stats()`` counts whole chunks, as the simulator's ``allocated`` does;
    - a program is one allocation for each output and then one for its temporaries, of the size
      that ``memory_analysis()`` names, live together while it runs; arguments are not copied;
    - constants of a program stay below 2 MiB, or show in ``bytes_in_use`` before the run and are
      added to both sides; what compiling and loading take and return is one allocation before it;
    - each program has a process of its own, as a peak cannot be reset.
    """
    environment = {
        **os.environ,
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.3",
        "XLA_PYTHON_CLIENT_PREALLOCATE": str(not growing).lower(),
    }
    done = subprocess.run(
        [sys.executable, "-c", CHILD, program, str(PROGRAMS[program])],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    facts = json.loads(done.stdout.splitlines()[-1])
    before, placed, ready, ran = facts["stats"]
    # Times: arguments at 0 and 1, what loading takes and returns from 2 to 3, the run from 4 to 5;
    # outputs, which are allocated first, stay.
    loading = ready["peak_bytes_in_use"] - ready["bytes_in_use"]
    size = [*facts["args"], *([loading] if loading else []), *facts["out"], facts["temp"]]
    start = [0, 1, *([2] if loading else []), *([4] * len(facts["out"])), 4]
    end = [6, 6, *([3] if loading else []), *([6] * len(facts["out"])), 5]
    replay = simulate(
        Trace.of(size, start, end), "bfc", limit=before["bytes_limit"], allow_growth=growing
    )
    allocated = replay.allocated[replay.malloc]
    assert placed["bytes_in_use"] - before["bytes_in_use"] == allocated[1]
    assert replay.peak_allocated > 1.2 * allocated[1]  # the run adds to its arguments
    assert ready["peak_bytes_in_use"] < ready["bytes_in_use"] + facts["temp"]  # compiling is below
    others = ready["bytes_in_use"] - placed["bytes_in_use"] + before["bytes_in_use"]
    assert abs(ran["peak_bytes_in_use"] - others - replay.peak_allocated) <= 2 << 20
    stays = replay.allocated[np.flatnonzero(replay.malloc)[-1] + 1]
    assert abs(ran["bytes_in_use"] - others - stays) <= 2 << 20


@pytest.mark.gpu
def test_a_recorded_step_of_pytorch_is_replayed_address_by_address(tmp_path):
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    if not torch.cuda.is_available():
        pytest.skip("needs PyTorch with CUDA")
    if "expandable" in os.environ.get("PYTORCH_CUDA_ALLOC_CONF", ""):
        pytest.skip("expandable segments are configured")
    path = tmp_path / "snapshot.pickle"
    torch.cuda.memory._record_memory_history(max_entries=200_000)
    layers = [torch.nn.Linear(1 << k, 1 << k, device="cuda") for k in (9, 11, 12)]
    for _ in range(3):
        for layer in layers:
            x = torch.ones(777, layer.in_features, device="cuda")
            torch.nn.functional.gelu(layer(x)).square().mean().backward()
    torch.cuda.memory._dump_snapshot(str(path))
    torch.cuda.memory._record_memory_history(enabled=None)
    assert same_addresses(path) > 2
