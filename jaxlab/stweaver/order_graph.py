"""Which equation of a program needs what another makes: the graph that an order must respect."""

import dataclasses
import typing
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int64

from jaxlab.stweaver.jaxpr import Program
from jaxlab.stweaver.script import Apply, Script, Slot


@typing.no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """Equations, the values between them, and what each equation needs for itself.

    Attributes:
      size: int64 ``[values]``, bytes.
      producer: int64 ``[values]``, the equation that makes the value, -1 for arguments.
      kept: bool ``[values]``, never freed: results, and arguments that are not donated or not
        read.
      reads: values that each equation reads, each once; ``reads[reads_at[e] : reads_at[e + 1]]``.
      on_entry: bool ``[reads]``, the equation (a loop) copies the value and needs it no more.
      writes: values that each equation makes, likewise.
      workspace: int64 ``[equations]``, peak bytes within the equation (a loop, a branch).
      after: for each equation the equations it depends on, in the same form as ``reads``.
    """

    size: Int64[np.ndarray, " values"]
    producer: Int64[np.ndarray, " values"]
    kept: Bool[np.ndarray, " values"]
    reads: Int64[np.ndarray, " reads"]
    reads_at: Int64[np.ndarray, " equations+1"]
    on_entry: Bool[np.ndarray, " reads"]
    writes: Int64[np.ndarray, " writes"]
    writes_at: Int64[np.ndarray, " equations+1"]
    workspace: Int64[np.ndarray, " equations"]
    after: Int64[np.ndarray, " dependencies"]
    after_at: Int64[np.ndarray, " equations+1"]

    def __len__(self) -> int:
        return self.workspace.size

    @classmethod
    def of(cls, program: Program) -> "Graph":
        """The top-level actions of a program."""
        steps = program.script.steps
        slots = [*program.arguments, *(slot for step in steps for slot in step.born)]
        number = {slot: row for row, slot in enumerate(slots)}
        read = {o for step in steps for o in step.action.reads if isinstance(o, Slot)}
        kept = {*program.arguments} - (program.donated & read)
        kept |= {operand for operand in program.results if isinstance(operand, Slot)}
        producer = np.full(len(slots), -1, np.int64)
        reads, entries, writes, after = [], [], [], []
        effectful: list[int] = []
        for row, step in enumerate(steps):
            action = step.action
            producer[[number[slot] for slot in step.born]] = row
            used = [operand for operand in action.reads if isinstance(operand, Slot)]
            early = [operand for operand in action.read_on_entry if isinstance(operand, Slot)]
            unique = list(dict.fromkeys(used))
            reads.append([number[slot] for slot in unique])
            entries.append([used.count(slot) == early.count(slot) for slot in unique])
            writes.append([number[slot] for slot in step.born])
            earlier = {int(producer[number[slot]]) for slot in unique} - {-1}
            if isinstance(action, Apply) and action.eqn.effects:
                earlier |= set(effectful[-1:])
                effectful.append(row)
            after.append(sorted(earlier))
        (reads, reads_at), (writes, writes_at) = _packed(reads), _packed(writes)
        after, after_at = _packed(after)
        return cls(
            size=np.array([slot.size for slot in slots], np.int64),
            producer=producer,
            kept=np.array([slot in kept for slot in slots], bool),
            reads=reads,
            reads_at=reads_at,
            on_entry=np.array([flag for flags in entries for flag in flags], bool),
            writes=writes,
            writes_at=writes_at,
            workspace=np.array(
                [max(map(_peak, step.action.nested), default=0) for step in steps], np.int64
            ),
            after=after,
            after_at=after_at,
        )


def _packed(lists: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    at = np.concatenate([[0], np.cumsum([len(items) for items in lists])]).astype(np.int64)
    return np.array([item for items in lists for item in items], np.int64), at


def _peak(script: Script) -> int:
    """Peak bytes of what is born within a script."""
    live = top = 0
    for step in script.steps:
        live += sum(slot.size for slot in step.born)
        top = max(top, live)
        live -= sum(slot.size for slot in step.dead_on_entry)
        top = max([top, *(live + _peak(nested) for nested in step.action.nested)])
        live -= sum(slot.size for slot in step.dead)
    return top
