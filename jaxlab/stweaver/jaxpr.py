"""What a jaxpr does to memory: every equation as an action on slots that are born and die.

A ``Script`` is read twice: ``trace_jaxpr`` walks it with a clock, ``run_in_arena`` with numbers, so
that the program that runs is the program that was planned.
"""

import dataclasses
import math
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.extend.core import JaxprEqn, jaxprs_in_params
from jax.extend.core import Literal as Immediate
from jax.extend.source_info_util import summarize

DEPTHS = ("equations", "calls", "loops", "iterations")
PHASES = ("arguments", "forward", "backward", "other", "results")

_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "eval_jaxpr": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "shard_map": "jaxpr",
}


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


@typing.no_type_check
@dataclasses.dataclass(frozen=True)
class Program:
    """A whole jaxpr: its arguments and constants, its steps and its results.

    Attributes:
      arguments: one slot for each constant, then for each argument of the jaxpr.
      constants: values of the first arguments.
      donated: arguments that die after their last use; the others outlive the program.
      script: the steps.
      results: one operand for each result of the jaxpr.
      tree: structure of the results.
    """

    arguments: tuple[Slot, ...]
    constants: tuple[Any, ...]
    donated: frozenset[Slot]
    script: Script
    results: tuple[Operand, ...]
    tree: Any

    @classmethod
    def of(
        cls,
        fn: Callable[..., Any],
        args: Sequence[Any],
        donate_argnums: Iterable[int],
        depth: str,
        alignment: int,
    ) -> "Program":
        """Traces ``fn`` and writes its script."""
        if depth not in DEPTHS:
            raise ValueError(f"depth={depth!r} is not one of {DEPTHS}.")
        if alignment < 1:
            raise ValueError(f"alignment={alignment} must be a positive number of bytes.")
        donated_numbers = set(donate_argnums)
        if not donated_numbers <= set(range(len(args))):
            raise ValueError(
                f"donate_argnums={sorted(donated_numbers)} names an argument beyond the "
                f"{len(args)} given."
            )
        jaxpr, shapes = jax.make_jaxpr(fn, return_shape=True)(*args)
        writer = _Writer(depth, alignment)
        constants = [writer.hoist(value) for value in jaxpr.consts]
        leaves = [
            (number, f"args[{number}]{jax.tree_util.keystr(path)}")
            for number, arg in enumerate(args)
            for path, _ in jax.tree_util.tree_leaves_with_path(arg)
        ]
        arguments = [
            writer.slot(name, var.aval, phase="arguments")
            for (_, name), var in zip(leaves, jaxpr.jaxpr.invars, strict=True)
        ]
        donated = frozenset(
            slot
            for (number, _), slot in zip(leaves, arguments, strict=True)
            if number in donated_numbers
        )
        actions, results = writer.actions(jaxpr, [*constants, *arguments], _Frame("", {}))
        known = [slot for slot, _ in writer.hoisted] + arguments
        script = _with_lifetimes(actions, set(known), donated - set(_slots(results)), results)
        return cls(
            arguments=tuple(known),
            constants=tuple(value for _, value in writer.hoisted),
            donated=donated,
            script=script,
            results=tuple(results),
            tree=jax.tree_util.tree_structure(shapes),
        )

    def slots(self) -> Iterator[Slot]:
        """Every slot, in the order of birth."""
        yield from self.arguments
        yield from _born(self.script)


def called_jaxpr(eqn: JaxprEqn) -> Any | None:
    """The jaxpr that an equation only calls, so that its equations could stand in its place."""
    parameter = _CALLS.get(eqn.primitive.name)
    if parameter is None or parameter not in eqn.params:
        return None
    jaxpr = eqn.params[parameter]
    if eqn.primitive.name == "shard_map" and (
        math.prod(eqn.params["mesh"].shape.values()) > 1 or _names_an_axis(jaxpr)
    ):
        return None
    return jaxpr


def scan_parts(eqn: JaxprEqn) -> tuple[int, int]:
    """Numbers of constants and carried values of a scan equation."""
    constants, carry, _ = eqn.params["ft_in"].update(range(len(eqn.invars))).unpack()
    return len(list(constants)), len(list(carry))


def _names_an_axis(jaxpr: Any) -> bool:
    return any(
        "axis_name" in eqn.params
        or any(isinstance(axis, str) for axis in np.atleast_1d(eqn.params.get("axes", ())))
        or any(_names_an_axis(inner) for inner in jaxprs_in_params(eqn.params))
        for eqn in jaxpr.eqns
    )


@dataclasses.dataclass(frozen=True)
class _Frame:
    """Where a jaxpr stands: its name stack, and slots that its variables must be written to."""

    layer: str
    targets: dict[Any, Slot]
    suffix: str = ""


class _Writer:
    """Turns equations into actions and counts the slots."""

    def __init__(self, depth: str, alignment: int):
        self.depth = DEPTHS.index(depth)
        self.alignment = alignment
        self.count = 0
        self.hoisted: list[tuple[Slot, Any]] = []

    def slot(self, name: str, aval: Any, *, layer: str = "", phase: str = "other") -> Slot:
        shape = ",".join(map(str, aval.shape))
        size = math.prod(aval.shape) * aval.dtype.itemsize
        slot = Slot(
            id=f"{self.count} {name} {aval.dtype.name}[{shape}]",
            aval=aval,
            nbytes=size,
            size=-(-size // self.alignment) * self.alignment,
            layer=layer,
            phase=phase,
        )
        self.count += 1
        return slot

    def hoist(self, value: Any) -> Slot:
        slot = self.slot("constant", jax.typeof(value), phase="arguments")
        self.hoisted.append((slot, value))
        return slot

    def actions(
        self, jaxpr: Any, inputs: Sequence[Operand], frame: _Frame
    ) -> tuple[list[Action], list[Operand]]:
        """The actions of a jaxpr whose constants come first in ``inputs``, and its results."""
        inner = jaxpr.jaxpr
        variables = [*inner.constvars, *inner.invars]
        env: dict[Any, Operand] = dict(zip(variables, inputs, strict=True))
        written: list[Action] = []

        def read(atom: Any) -> Operand:
            return atom if isinstance(atom, Immediate) else env[atom]

        for eqn in inner.eqns:
            reads = [read(atom) for atom in eqn.invars]
            stack = str(eqn.source_info.name_stack)
            here = dataclasses.replace(frame, layer="/".join(filter(None, (frame.layer, stack))))
            called = called_jaxpr(eqn) if self.depth >= DEPTHS.index("calls") else None
            name = eqn.primitive.name
            if called is not None:
                targets = {
                    inside: frame.targets[outside]
                    for inside, outside in zip(called.jaxpr.outvars, eqn.outvars, strict=True)
                    if outside in frame.targets and not isinstance(inside, Immediate)
                }
                operands = [*(self.hoist(value) for value in called.consts), *reads]
                body, results = self.actions(
                    called, operands, dataclasses.replace(here, targets=targets)
                )
                written += body
                env.update(zip(eqn.outvars, results, strict=True))
                continue
            writes = [
                frame.targets.get(var) or self._slot_of(eqn, var.aval, here) for var in eqn.outvars
            ]
            env.update(zip(eqn.outvars, writes, strict=True))
            if self.depth < DEPTHS.index("loops") or name not in ("scan", "while", "cond"):
                written.append(Apply(tuple(reads), tuple(writes), eqn))
            else:
                expand = {"scan": self._scan, "while": self._while, "cond": self._cond}[name]
                written.append(expand(eqn, reads, writes, here))
        return written, [read(atom) for atom in inner.outvars]

    def _slot_of(self, eqn: JaxprEqn, aval: Any, frame: _Frame, label: str = "") -> Slot:
        where = Path(summarize(eqn.source_info).partition(" (")[0]).name.rsplit(":", 1)[0]
        if "transpose(" in frame.layer:
            phase = "backward"
        else:
            phase = "forward" if "jvp(" in frame.layer else "other"
        name = f"{eqn.primitive.name}{label} {where}{frame.suffix}"
        return self.slot(name, aval, layer=frame.layer, phase=phase)

    def _operands(self, jaxpr: Any, operands: Sequence[Operand]) -> list[Operand]:
        return [*(self.hoist(value) for value in jaxpr.consts), *operands]

    def _scan(
        self, eqn: JaxprEqn, reads: list[Operand], writes: list[Slot], frame: _Frame
    ) -> Action:
        jaxpr = eqn.params["jaxpr"]
        length, reverse = eqn.params["length"], eqn.params["reverse"]
        n_constants, n_carry = scan_parts(eqn)
        constants, initial = reads[:n_constants], reads[n_constants : n_constants + n_carry]
        rows, carry, stacked = reads[n_constants + n_carry :], writes[:n_carry], writes[n_carry:]
        constants = self._operands(jaxpr, constants)

        def turn(index: int | None) -> Script:
            suffix = frame.suffix if index is None else f"{frame.suffix} turn {index}"
            inside = dataclasses.replace(frame, targets={}, suffix=suffix)
            row_avals = [var.aval for var in jaxpr.jaxpr.invars[n_constants + n_carry :]]
            slices = [self._slot_of(eqn, aval, inside, " row") for aval in row_avals]
            taken = [Slice((row,), (s,), index) for row, s in zip(rows, slices, strict=True)]
            body, results = self.actions(jaxpr, [*constants, *carry, *slices], inside)
            stores = [
                Store((result,), (target,), index)
                for result, target in zip(results[n_carry:], stacked, strict=True)
            ]
            actions = [*taken, *body, *stores, Action(tuple(results[:n_carry]), tuple(carry))]
            return self._inside(actions, frame, writes)

        if self.depth < DEPTHS.index("iterations"):
            turns = (turn(None),) if length else ()
        else:
            turns = tuple(turn(length - 1 - i if reverse else i) for i in range(length))
        return Loop(
            reads=(*constants, *reads[n_constants:]),
            writes=tuple(writes),
            initial=tuple(initial),
            carry=tuple(carry),
            turns=turns,
            trips=length,
            reverse=reverse,
            predicate=None,
        )

    def _while(
        self, eqn: JaxprEqn, reads: list[Operand], writes: list[Slot], frame: _Frame
    ) -> Action:
        condition, body = eqn.params["cond_jaxpr"], eqn.params["body_jaxpr"]
        n_condition, n_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        initial = reads[n_condition + n_body :]
        inside = dataclasses.replace(frame, targets={})
        condition_constants = self._operands(condition, reads[:n_condition])
        body_constants = self._operands(body, reads[n_condition : n_condition + n_body])
        tests, verdict = self.actions(condition, [*condition_constants, *writes], inside)
        turn, results = self.actions(body, [*body_constants, *writes], inside)
        return Loop(
            reads=(*condition_constants, *body_constants, *initial),
            writes=tuple(writes),
            initial=tuple(initial),
            carry=tuple(writes),
            turns=(self._inside([*turn, Action(tuple(results), tuple(writes))], frame, writes),),
            trips=None,
            reverse=False,
            predicate=self._inside([*tests, Test(tuple(verdict), ())], frame, writes),
        )

    def _cond(
        self, eqn: JaxprEqn, reads: list[Operand], writes: list[Slot], frame: _Frame
    ) -> Action:
        branches = []
        all_reads = list(reads)
        for jaxpr in eqn.params["branches"]:
            operands = self._operands(jaxpr, reads[1:])
            all_reads += operands
            targets: dict[Any, Slot] = {}
            defined = {var for inner in jaxpr.jaxpr.eqns for var in inner.outvars}
            for atom, target in zip(jaxpr.jaxpr.outvars, writes, strict=True):
                if not isinstance(atom, Immediate) and atom in defined:
                    targets.setdefault(atom, target)
            actions, results = self.actions(
                jaxpr, operands, dataclasses.replace(frame, targets=targets)
            )
            moved = [(r, w) for r, w in zip(results, writes, strict=True) if r is not w]
            if moved:
                sources, targets_left = zip(*moved, strict=True)
                actions.append(Action(sources, targets_left))
            branches.append(self._inside(actions, frame, writes))
        return Branch(tuple(all_reads), tuple(writes), tuple(branches))

    def _inside(self, actions: list[Action], frame: _Frame, writes: Sequence[Slot]) -> Script:
        """A script within an action: what it did not make itself belongs to the outside."""
        return _with_lifetimes(actions, {*writes, *frame.targets.values()}, frozenset(), ())


def _slots(operands: Iterable[Operand]) -> Iterator[Slot]:
    return (operand for operand in operands if isinstance(operand, Slot))


def _with_lifetimes(
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
    mortal -= set(_slots(kept))
    last = {
        slot: position
        for position, action in enumerate(actions)
        for slot in (*_slots(action.reads), *action.writes)
        if slot in mortal
    }
    ends: list[list[Slot]] = [[] for _ in actions]
    for slot, position in last.items():
        ends[position].append(slot)
    steps = []
    for action, fresh, dead in zip(actions, born, ends, strict=True):
        uses = list(_slots(action.reads))
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


def _born(script: Script) -> Iterator[Slot]:
    for step in script.steps:
        yield from step.born
        for nested in step.action.nested:
            yield from _born(nested)
