"""The paper's planner: HomoPhase groups, then HomoSize layers."""

import numpy as np
from jaxtyping import Int64

from jaxlab.stweaver.gaps import Boxes, boxes
from jaxlab.stweaver.homophase import Group, grouped_boxes, homophase
from jaxlab.stweaver.homosize import grades, homosize
from jaxlab.stweaver.lifetimes import Lifetimes
from jaxlab.stweaver.trace import Trace

MAX_SINGLE = 50_000  # above, planning every request as its own box takes too long
_TOLERANCES = (0.0, 1 / 64, 1 / 16, 1 / 4)


def stweaver(trace: Trace, lives: Lifetimes) -> Int64[np.ndarray, " live"]:
    """Offsets of the paper's planner: with groups or without, whichever is lower.

    Args:
      trace: the requests with their phases.
      lives: the same, as lifetimes.

    Returns:
      int64 ``[live]``, bytes.

    Source: section 2.3-2.5 of the notes, intended semantics.
    """
    groups = homophase(trace, lives)
    plans = [_planned(lives, groups)]
    if groups and lives.size.size <= MAX_SINGLE:
        plans.append(_planned(lives, []))
    return min(plans, key=lambda offsets: int((offsets + lives.size).max(initial=0)))


def _planned(lives: Lifetimes, groups: list[Group]) -> Int64[np.ndarray, " live"]:
    state, box, inside = grouped_boxes(lives, groups)
    grade = state.size.copy()
    grade[: len(groups)] = _group_grades(state, len(groups))
    homosize(state, grade)
    return state.offset[box] + inside


def _group_grades(state: Boxes, count: int) -> Int64[np.ndarray, " groups"]:
    """Size classes of the groups: those that pack the groups alone lowest."""
    size = state.size[:count]
    best, lowest = size, None
    for tolerance in _TOLERANCES if count else ():
        alone = boxes(
            size, state.first[:count], state.last[:count], state.wrap[:count], state.sections
        )
        grade = grades(size, tolerance)
        homosize(alone, grade)
        height = int((alone.offset + size).max())
        if lowest is None or height < lowest:
            best, lowest = grade, height
    return best
