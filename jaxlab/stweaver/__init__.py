"""STWeaver: plan the memory of a training step, and prove how good the plan is.

1. ``Trace``         which bytes are needed from when until when; ``read_csv``, ``write_csv``,
                     ``read_minimalloc``, ``schedule_trace`` (a ``Model`` under a ``Parallelism``),
                     ``trace_jaxpr``, ``trace_xla`` and ``xla_memory``, ``read_xla_dump``,
                     ``read_torch_snapshot``; ``cut_rectangle`` makes traces of known optimum;
                     ``memory_report`` says what is alive at the peak
2. ``lower_bound``   the bytes that no plan can undercut
3. ``plan``          an address for every request, as a ``Plan``: height, bound, gap
4. ``check``         an independent sweep that finds requests which overlap
5. ``simulate``      what today's allocators make of a trace, as a ``Replay``; ``smallest_limit``
6. ``Runtime``       runs a program on the plan of its ``static_part``, with a fallback
7. ``compare``, ``ablation``, ``fragmentation_reduction``, ``largest_microbatch``   what that gains
8. ``run_in_arena``   evaluates a function in one block of memory, where its plan says
9. ``reorder``        an order of a function's equations with a lower peak, as a ``Schedule``

A plan is a placement: it moves data and never changes the result.
"""

import importlib as _importlib
import typing as _typing

from jaxlab.stweaver.arena import run_in_arena
from jaxlab.stweaver.bound import lower_bound
from jaxlab.stweaver.check import check
from jaxlab.stweaver.csv_files import read_csv, read_minimalloc, write_csv
from jaxlab.stweaver.events import unroll
from jaxlab.stweaver.jaxpr_trace import trace_jaxpr
from jaxlab.stweaver.memory_report import Holder, MemoryReport, memory_report
from jaxlab.stweaver.models import Model
from jaxlab.stweaver.occupancy import draw_occupancy
from jaxlab.stweaver.order import Schedule, reorder
from jaxlab.stweaver.plan import Plan
from jaxlab.stweaver.planning import plan
from jaxlab.stweaver.schedule import MODELS, SCHEDULES, Parallelism, schedule_trace
from jaxlab.stweaver.synthetic import cut_rectangle
from jaxlab.stweaver.torch_snapshot import read_torch_snapshot
from jaxlab.stweaver.trace import Trace
from jaxlab.stweaver.xla import XlaMemory, read_xla_dump, trace_xla, xla_memory

if _typing.TYPE_CHECKING:
    from jaxlab.stweaver.efficiency import (
        ablation,
        compare,
        fragmentation_reduction,
        largest_microbatch,
    )
    from jaxlab.stweaver.replay import Replay, simulate, smallest_limit
    from jaxlab.stweaver.runtime import Runtime, static_part

__all__ = [
    "MODELS",
    "SCHEDULES",
    "Holder",
    "MemoryReport",
    "Model",
    "Parallelism",
    "Plan",
    "Replay",
    "Runtime",
    "Schedule",
    "Trace",
    "XlaMemory",
    "ablation",
    "check",
    "compare",
    "cut_rectangle",
    "draw_occupancy",
    "fragmentation_reduction",
    "largest_microbatch",
    "lower_bound",
    "memory_report",
    "plan",
    "read_csv",
    "read_minimalloc",
    "read_torch_snapshot",
    "read_xla_dump",
    "reorder",
    "run_in_arena",
    "schedule_trace",
    "simulate",
    "smallest_limit",
    "static_part",
    "trace_jaxpr",
    "trace_xla",
    "unroll",
    "write_csv",
    "xla_memory",
]

_COMPILED = {  # these need numba, which is imported with the first of them
    "efficiency": ("ablation", "compare", "fragmentation_reduction", "largest_microbatch"),
    "replay": ("Replay", "simulate", "smallest_limit"),
    "runtime": ("Runtime", "static_part"),
}


def __getattr__(name: str) -> _typing.Any:
    for module, names in _COMPILED.items():
        if name in names:
            return getattr(_importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
