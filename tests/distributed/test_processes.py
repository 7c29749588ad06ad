"""Two processes of four devices get what one process of eight devices gets."""

import json
import os
import time

import jax
import numpy as np
import pytest

from tests.distributed import ring
from tests.distributed.launch import ProcessesFailed, run_processes

JOIN = [
    "--coordinator-address", "{address}", "--num-processes", "{processes}", "--process-id",
    "{process}",
]  # fmt: skip


def test_one_process_equals_plain_loops() -> None:
    function, sharding = ring.program()
    total, everything = function(jax.device_put(ring.inputs(), sharding))
    np.testing.assert_allclose(np.asarray(total), ring.expected(), rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(everything, (ring.expected() ** 2).sum(), rtol=1e-5)


@pytest.mark.distributed
def test_two_processes_equal_one() -> None:
    function, sharding = ring.program()
    total, everything = function(jax.device_put(ring.inputs(), sharding))
    total = np.asarray(total)
    finished = run_processes([ring.__file__, *JOIN], processes=2, devices=4)
    seen = np.zeros(ring.SHAPE, int)
    for entry in finished:
        part = json.loads(entry.output.splitlines()[-1])
        assert part["processes"] == 2
        assert part["devices"] == [4, 8]
        np.testing.assert_allclose(part["everything"], everything, rtol=1e-6)
        assert len(part["shards"]) == 4
        for shard in part["shards"]:
            place = tuple(slice(*limits) for limits in shard["place"])
            seen[place] += 1
            np.testing.assert_array_equal(
                np.float32(shard["values"]).reshape(total[place].shape), total[place]
            )
    assert (seen == 1).all()


@pytest.mark.distributed
def test_a_failing_process_ends_the_others_and_shows_every_output() -> None:
    script = (
        "import os, sys, time\n"
        "print('started', os.getpid())\n"
        "time.sleep(1)\n"
        "if sys.argv[1] == '1': sys.exit('no luck in ' + sys.argv[2])\n"
        "time.sleep(60)\n"
    )
    begun = time.monotonic()
    with pytest.raises(ProcessesFailed) as failure:
        run_processes(["-c", script, "{process}", "process {process} of {processes}"], processes=3)
    assert time.monotonic() - begun < 30
    message = str(failure.value)
    assert "a process failed" in message
    assert "no luck in process 1 of 3" in message
    assert message.count("ended here") == 2
    assert message.count("started") == 3
    _assert_ended(message)


@pytest.mark.distributed
def test_a_process_that_hangs_is_ended() -> None:
    script = "import os, time; print('started', os.getpid()); time.sleep(60)"
    with pytest.raises(ProcessesFailed, match=r"not all ended within 3 s") as failure:
        run_processes(["-c", script], processes=2, timeout=3)
    _assert_ended(str(failure.value))


def _assert_ended(message: str) -> None:
    started = [int(line.split()[1]) for line in message.splitlines() if line.startswith("started")]
    assert started
    for process in started:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
