"""The machine and the versions that a figure came from."""

import os
import platform
import re
import subprocess
from pathlib import Path

import jax
import jaxlib.version
import numpy as np


def environment() -> dict[str, str | int]:
    """Records what a figure depends on beside the code: versions, devices, processor, memory.

    Nothing in it names the machine, its users or its files. It asks jax for its devices, which
    starts the backend if nothing has started it yet.

    Returns:
      ``python``, ``jax``, ``jaxlib``, ``numpy``: versions; ``system``, ``architecture``: of the
      operating system; ``platform``, ``device``, ``devices``: jax's default backend, the kind of
      its devices and their number over all processes; ``processes``: their number; ``cpu``: model
      name; ``cores``: those this process may use; ``memory_bytes``: main memory, 0 if unknown;
      ``xla_flags``: the flags set in the process's environment, but for those that name files.

    Example:
      >>> sorted(environment())[:4]
      ['architecture', 'cores', 'cpu', 'device']
    """
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.version.__version__,
        "numpy": np.__version__,
        "system": platform.system(),
        "architecture": platform.machine(),
        "platform": devices[0].platform,
        "device": devices[0].device_kind,
        "devices": len(devices),
        "processes": jax.process_count(),
        "cpu": _processor(),
        "cores": _usable_cores(),
        "memory_bytes": _memory_bytes(),
        "xla_flags": _xla_flags(),
    }


def _xla_flags() -> str:
    flags = os.environ.get("XLA_FLAGS", "").split()
    return " ".join(flag for flag in sorted(flags) if "/" not in flag and "\\" not in flag)


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", listing.read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    if platform.system() == "Darwin":
        asked = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"],
            capture_output=True,
            text=True,
            check=False,
        )
        if asked.stdout.strip():
            return asked.stdout.strip()
    return platform.processor() or platform.machine() or "unknown"


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0
