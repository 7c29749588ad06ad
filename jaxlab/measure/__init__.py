"""Measurements whose meaning is the same everywhere in the library.

1. ``time_ratio``       how much longer one function takes than another, in one process
2. ``compiled_cost``    arithmetic, memory traffic and communication of a compiled program
3. ``critical_path``    how long synchronized steps take when every step waits for its slowest rank
4. ``environment``      the machine and the versions that a figure came from

A time is compared with another time of the same run, a count with a bound; neither stands alone.
"""

from jaxlab.measure.collectives import Collective
from jaxlab.measure.cost import CompiledCost, compiled_cost
from jaxlab.measure.environment import environment
from jaxlab.measure.path import CriticalPath, critical_path
from jaxlab.measure.timing import TimeRatio, time_ratio
from jaxlab.measure.trips import Loop

__all__ = [
    "Collective",
    "CompiledCost",
    "CriticalPath",
    "Loop",
    "TimeRatio",
    "compiled_cost",
    "critical_path",
    "environment",
    "time_ratio",
]
