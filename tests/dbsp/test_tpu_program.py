"""The real TPU compiler hides the ring's hops behind the attention of the same step."""

import fcntl
import importlib.util
import json
import pathlib
import tempfile

import pytest

from tests.distributed.launch import run_processes


@pytest.mark.tpu_aot
@pytest.mark.parametrize("implementation", ["reference", "xla"])
def test_tpu_computes_while_the_next_keys_travel(implementation: str) -> None:
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu, the TPU compiler, is not installed")
    lock = pathlib.Path(tempfile.gettempdir()) / "jaxlab-libtpu.lock"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # libtpu allows one process at a time
        (finished,) = run_processes(
            ["-m", "tests.dbsp.tpu_program", implementation],
            processes=1,
            timeout=280,
            environment={
                "TPU_SKIP_MDS_QUERY": "1",
                "TPU_WORKER_HOSTNAMES": "localhost",
                "TPU_WORKER_ID": "0",
                "TPU_ACCELERATOR_TYPE": "v5litepod-4",
            },
        )
    answer = json.loads(finished.output.splitlines()[-1])
    assert not answer["gathers"]
    assert answer["order"]
    for steps in answer["order"]:
        assert steps[:2] == ["start", "start"]  # keys and values leave before anything else
        assert "work" in steps[2 : steps.index("done")]
