"""What a jaxpr does to memory: every equation as an action on slots that are born and die.

A ``Script`` is read twice: ``trace_jaxpr`` walks it with a clock, ``run_in_arena`` with numbers, so
that the program that runs is the program that was planned.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from jax.extend.core import JaxprEqn
from jax.extend.core import Literal as Immediate


@dataclasses.dataclass(frozen=True, eq=False)
class Slot:
    """A place for one array: a name that tells its source, a type, and bytes.

    ``size`` is ``nbytes`` rounded up to the alignment.
    """

    id: str
    aval: Any
    nbytes: int
    size: int
    layer: str
    phase: str


Operand = Slot | Immediate


@dataclasses.dataclass(frozen=True, eq=False)
class Action:
    """Something that reads operands and writes slots; a plain one copies them in order."""

    reads: tuple[Operand, ...]
    writes: tuple[Slot, ...]

    @property
    def read_on_entry(self) -> tuple[Operand, ...]:
        """Operands that are of no use any more once the action has begun."""
        return ()

    @property
    def nested(self) -> tuple["Script", ...]:
        """Scripts that run within the action."""
        return ()


@dataclasses.dataclass(frozen=True, eq=False)
class Apply(Action):
    """Evaluates one equation."""

    eqn: JaxprEqn


@dataclasses.dataclass(frozen=True, eq=False)
class Slice(Action):
    """Takes row ``index`` of the one operand, or the row of the loop's current iteration."""

    index: int | None


@dataclasses.dataclass(frozen=True, eq=False)
class Store(Action):
    """Writes the one operand into a row of the one slot."""

    index: int | None


@dataclasses.dataclass(frozen=True, eq=False)
class Test(Action):
    """Decides by the one operand whether the enclosing loop goes on."""


@dataclasses.dataclass(frozen=True, eq=False)
class Loop(Action):
    """Copies ``initial`` into ``carry``, then repeats ``body``: scan and while.

    ``trips`` is None for a while loop; then ``predicate`` runs before every turn.
    """

    initial: tuple[Operand, ...]
    carry: tuple[Slot, ...]
    turns: tuple["Script", ...]
    trips: int | None
    reverse: bool
    predicate: "Script | None"

    @property
    def read_on_entry(self) -> tuple[Operand, ...]:
        """The initial values; the loop goes on with its own copies."""
        return self.initial

    @property
    def nested(self) -> tuple["Script", ...]:
        """The predicate, if any, and the turns."""
        return (*((self.predicate,) if self.predicate else ()), *self.turns)


@dataclasses.dataclass(frozen=True, eq=False)
class Branch(Action):
    """Runs the script that the first operand selects."""

    branches: tuple["Script", ...]

    @property
    def nested(self) -> tuple["Script", ...]:
        """All branches; one of them runs."""
        return self.branches


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """An action, the slots born before it, and those that die on its entry and after it."""

    action: Action
    born: tuple[Slot, ...]
    dead_on_entry: tuple[Slot, ...]
    dead: tuple[Slot, ...]


@dataclasses.dataclass(frozen=True)
class Script:
    """Steps in the order in which they run."""

    steps: tuple[Step, ...]


def slots_of(operands: Iterable[Operand]) -> Iterator[Slot]:
    """The operands that are no immediate values."""
    return (operand for operand in operands if isinstance(operand, Slot))


def with_lifetimes(
    actions: Sequence[Action],
    outside: set[Slot],
    dying: Iterable[Slot],
    kept: Iterable[Operand],
) -> Script:
    """Births at the first write, deaths after the last use.

    Slots in ``outside`` are neither born nor, unless in ``dying``, die here; those in ``kept``
    outlive the script.
    """
    born: list[list[Slot]] = []
    seen = set(outside)
    for action in actions:
        fresh = [slot for slot in dict.fromkeys(action.writes) if slot not in seen]
        seen.update(fresh)
        born.append(fresh)
    mortal = {slot for slots in born for slot in slots} | set(dying)
    mortal -= set(slots_of(kept))
    last = {
        slot: position
        for position, action in enumerate(actions)
        for slot in (*slots_of(action.reads), *action.writes)
        if slot in mortal
    }
    ends: list[list[Slot]] = [[] for _ in actions]
    for slot, position in last.items():
        ends[position].append(slot)
    steps = []
    for action, fresh, dead in zip(actions, born, ends, strict=True):
        uses = list(slots_of(action.reads))
        entry = [
            slot
            for slot in dead
            if slot not in fresh
            and (count := uses.count(slot))
            and count == sum(operand is slot for operand in action.read_on_entry)
        ]
        rest = tuple(slot for slot in dead if slot not in entry)
        steps.append(Step(action, tuple(fresh), tuple(entry), rest))
    return Script(tuple(steps))


def born_in(script: Script) -> Iterator[Slot]:
    """Every slot of a script and of those within, in the order of birth."""
    for step in script.steps:
        yield from step.born
        for nested in step.action.nested:
            yield from born_in(nested)
