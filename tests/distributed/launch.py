"""Starts several processes on loopback, waits for all, and ends them all when one fails."""

import contextlib
import dataclasses
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Finished:
    """One process that has ended.

    Attributes:
      process: its index.
      status: exit status, negative for a signal; None where it had to be ended.
      output: what it wrote, standard error included.
    """

    process: int
    status: int | None
    output: str


class ProcessesFailed(AssertionError):
    """A process failed or did not end in time; the message holds the output of all."""


def run_processes(
    arguments: Sequence[str],
    *,
    processes: int = 2,
    devices: int = 4,
    timeout: float = 120.0,
    environment: Mapping[str, str] | None = None,
    directory: Path = ROOT,
) -> list[Finished]:
    """Runs Python several times at once, each process with virtual CPU devices of its own.

    Args:
      arguments: what follows ``python``: a script or ``-m module``, and its arguments.
        ``{address}``, ``{processes}`` and ``{process}`` in them become the coordinator's
        ``host:port``, the number of processes and the index of the process.
      processes: how many.
      devices: virtual CPU devices of each process.
      timeout: seconds until all must have ended.
      environment: variables to set beside those of this process.
      directory: where they run.

    Returns:
      One entry a process, in order, all with status 0.

    Raises:
      ProcessesFailed: one of them failed or ran too long; the others have been ended.
    """
    values = {"{address}": f"127.0.0.1:{_free_port()}", "{processes}": str(processes)}
    variables = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
        **(environment or {}),
    }
    with contextlib.ExitStack() as stack:
        started, outputs = [], []
        for process in range(processes):
            outputs.append(stack.enter_context(tempfile.TemporaryFile("w+")))
            command = [sys.executable]
            for argument in arguments:
                for mark, value in {**values, "{process}": str(process)}.items():
                    argument = argument.replace(mark, value)
                command.append(argument)
            started.append(
                subprocess.Popen(
                    command, cwd=directory, env=variables, text=True,
                    stdin=subprocess.DEVNULL, stdout=outputs[-1], stderr=subprocess.STDOUT,
                )
            )  # fmt: skip
            stack.callback(_end, started[-1])
        in_time = _wait(started, time.monotonic() + timeout)
        finished = []
        for process, (handle, output) in enumerate(zip(started, outputs, strict=True)):
            status = handle.poll()
            _end(handle)
            output.seek(0)
            finished.append(Finished(process, status, output.read()))
    if any(entry.status != 0 for entry in finished):
        reason = "a process failed" if in_time else f"not all ended within {timeout:g} s"
        raise ProcessesFailed(
            "\n".join(
                [reason]
                + [
                    f"--- process {entry.process}, "
                    f"{'ended here' if entry.status is None else f'status {entry.status}'}\n"
                    f"{entry.output}"
                    for entry in finished
                ]
            )
        )
    return finished


def _wait(started: Sequence[subprocess.Popen], deadline: float) -> bool:
    """Waits until all have ended or one has failed; False when the deadline came first."""
    while time.monotonic() < deadline:
        statuses = [handle.poll() for handle in started]
        if None not in statuses or any(status not in (None, 0) for status in statuses):
            return True
        time.sleep(0.05)
    return False


def _end(handle: subprocess.Popen) -> None:
    if handle.poll() is None:
        handle.kill()
    handle.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
