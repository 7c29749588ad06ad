"""From a jaxpr to its script: calls inlined, loops and branches as actions with scripts within."""

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

from jaxlab.stweaver.script import (
    Action,
    Apply,
    Branch,
    Loop,
    Operand,
    Script,
    Slice,
    Slot,
    Store,
    Test,
    born_in,
    slots_of,
    with_lifetimes,
)

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
        script = with_lifetimes(actions, set(known), donated - set(slots_of(results)), results)
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
        yield from born_in(self.script)


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
        return with_lifetimes(actions, {*writes, *frame.targets.values()}, frozenset(), ())
