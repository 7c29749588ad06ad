"""Run a program with every intermediate value in one block of memory, where the plan puts it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int64, UInt8

from jaxlab.stweaver.check import Placed
from jaxlab.stweaver.jaxpr import Program
from jaxlab.stweaver.jaxpr_trace import program_trace
from jaxlab.stweaver.planning import plan as plan_memory
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
)

LINE = 64
"""Bytes: where a slot begins is a multiple, so that jax may read it without a copy."""

_POISON = 0xFF  # a NaN in every floating type, -1 in every signed one
_GUARD = 0xA5
_FENCE = 4096


def run_in_arena(
    fn: Callable[..., Any],
    *args: Any,
    plan: Placed | None = None,
    donate_argnums: Iterable[int] = (),
    depth: str = "loops",
) -> Any:
    """Evaluates a function one equation at a time, all its values in one planned arena.

    The arena proves a plan. It is filled with poison (NaN); a slot is poisoned again when it dies;
    slots that live at one time may not share a byte; bytes between the end of an array and the
    next multiple of 64, and a fence around the arena, must keep a pattern. What is wrong with a
    plan therefore stops the run, or shows in the result.

    To the bit, the results are those of evaluating the same jaxpr one equation at a time: with
    ``depth="equations"`` of ``jax.extend.core.jaxpr_as_fun(jax.make_jaxpr(fn)(*args))``, deeper of
    ``fn`` under ``jax.disable_jit()``. (Under ``jax.jit`` the compiler fuses equations, which
    changes rounding.)

    Args:
      fn: the function; arrays in, arrays out, no side effects.
      *args: its arguments.
      plan: where the requests of ``trace_jaxpr(fn, *args, donate_argnums=..., depth=...)`` lie; its
        offsets must be multiples of 64. None makes a plan in at most two seconds.
      donate_argnums: as for ``trace_jaxpr``.
      depth: as for ``trace_jaxpr``.

    Returns:
      The result of ``fn``, copied out of the arena.

    Raises:
      ValueError: the plan is of another program, or an offset is out of range or misaligned.
      RuntimeError: two requests that live at one time share bytes, or a guard was overwritten;
        names the requests.

    Source: reconstructed; see docs/sources/stweaver.md, importers.
    """
    program = Program.of(fn, args, donate_argnums, depth, LINE)
    slots = list(program.slots())
    placed = plan_memory(program_trace(program), time_limit=2) if plan is None else plan
    offsets = _checked(np.asarray(placed.offsets), slots)
    arena = _Arena(slots, offsets)
    values = [*program.constants, *jax.tree_util.tree_leaves(args)]
    for slot, value in zip(program.arguments, values, strict=True):
        arena.open(slot)
        arena.put(slot, value)
    arena.run(program.script, 0)
    results = [arena.result(operand) for operand in program.results]
    for slot in list(arena.open_slots):
        arena.close(slot)
    arena.check_fence()
    return jax.tree_util.tree_unflatten(program.tree, results)


def _checked(offsets: np.ndarray, slots: Sequence[Slot]) -> Int64[np.ndarray, " slots"]:
    if offsets.shape != (len(slots),):
        raise ValueError(
            f"run_in_arena: the plan places {offsets.size} requests, the program makes "
            f"{len(slots)}; plan trace_jaxpr of the same function, arguments and depth."
        )
    most = 2 * sum(slot.size + LINE for slot in slots)  # twice what does without any reuse
    for offset, slot in zip(offsets.tolist(), slots, strict=True):
        if offset + slot.size > most:
            raise ValueError(
                f"run_in_arena: {slot.id!r} at offset {offset} needs an arena of more than {most} "
                "bytes, twice what all results take together."
            )
        if offset < 0 or offset % LINE:
            raise ValueError(
                f"run_in_arena: {slot.id!r} lies at offset {offset}, which is not a multiple of "
                f"{LINE} from 0 upward; trace with alignment={LINE}."
            )
    return offsets.astype(np.int64)


def _is_key(slot: Slot) -> bool:
    return jnp.issubdtype(slot.aval.dtype, jax.dtypes.extended)


class _Arena:
    """The block of memory, who owns each of its lines, and the machine that runs a script in it."""

    def __init__(self, slots: Sequence[Slot], offsets: Int64[np.ndarray, " slots"]):
        self.slots = slots
        self.number = {slot: number for number, slot in enumerate(slots)}
        self.offset = dict(zip(slots, offsets.tolist(), strict=True))
        height = max((self.offset[slot] + slot.size for slot in slots), default=0)
        raw = np.full(height + 2 * _FENCE + LINE, _GUARD, np.uint8)
        shift = -raw.ctypes.data % LINE
        self.block = raw[shift : shift + height + 2 * _FENCE]
        self.body: UInt8[np.ndarray, " height"] = self.block[_FENCE : _FENCE + height]
        self.body[:] = _POISON
        self.owner = np.full(height // LINE, -1, np.int32)
        self.open_slots: dict[Slot, None] = {}
        self.go_on = True
        self.key_kinds: dict[Any, Any] = {}

    def open(self, slot: Slot) -> None:
        """Takes the slot's bytes; all must be free and as dead as they were left."""
        begin, end = self.offset[slot], self.offset[slot] + slot.size
        owners = self.owner[begin // LINE : end // LINE]
        if (taken := owners[owners >= 0]).size:
            other = self.slots[taken[0]]
            raise RuntimeError(
                f"run_in_arena: {slot.id!r} at [{begin}, {end}) overlaps {other.id!r} at "
                f"[{self.offset[other]}, {self.offset[other] + other.size}), which is live; the "
                "plan is wrong."
            )
        if (self.body[begin:end] != _POISON).any():
            raise RuntimeError(f"run_in_arena: bytes of {slot.id!r} were written while free.")
        owners[:] = self.number[slot]
        self.body[begin + slot.nbytes : end] = _GUARD
        self.open_slots[slot] = None

    def close(self, slot: Slot) -> None:
        """Gives the slot's bytes back and poisons them."""
        begin, end = self.offset[slot], self.offset[slot] + slot.size
        if (self.body[begin + slot.nbytes : end] != _GUARD).any():
            raise RuntimeError(f"run_in_arena: the guard behind {slot.id!r} was overwritten.")
        self.owner[begin // LINE : end // LINE] = -1
        self.body[begin:end] = _POISON
        del self.open_slots[slot]

    def check_fence(self) -> None:
        """The bytes around the arena must be untouched."""
        if (self.block[:_FENCE] != _GUARD).any() or (self.block[-_FENCE:] != _GUARD).any():
            raise RuntimeError("run_in_arena: bytes outside the arena were overwritten.")

    def view(self, slot: Slot) -> np.ndarray:
        """The slot as an array of its own type, without a copy."""
        begin = self.offset[slot]
        held = self.body[begin : begin + slot.nbytes]
        if _is_key(slot):
            return held.view(np.uint32).reshape(*slot.aval.shape, -1)
        return held.view(slot.aval.dtype).reshape(slot.aval.shape)

    def put(self, slot: Slot, value: Any) -> None:
        """Copies a value that jax made, or an argument, into its slot."""
        if _is_key(slot):
            self.key_kinds[slot.aval.dtype] = jax.random.key_impl(value)
            value = jax.random.key_data(value)
        self.write(slot, np.asarray(value, self.view(slot).dtype))

    def write(self, slot: Slot, value: np.ndarray) -> None:
        """Copies a value into its slot."""
        np.copyto(self.view(slot), value, casting="no")

    def read(self, operand: Operand) -> Any:
        """The value as jax takes it; it is valid only until the slot is closed."""
        if not isinstance(operand, Slot):
            return operand.val
        view = self.view(operand)
        if _is_key(operand):
            kind = self.key_kinds[operand.aval.dtype]
            return jax.random.wrap_key_data(jnp.array(view), impl=kind)
        if view.size and view.dtype.isbuiltin == 1:  # numpy exports only its own types
            return jax.dlpack.from_dlpack(view)
        return jnp.asarray(view.copy())

    def host(self, operand: Operand) -> np.ndarray:
        """The value as numpy takes it."""
        return self.view(operand) if isinstance(operand, Slot) else np.asarray(operand.val)

    def result(self, operand: Operand) -> Any:
        """A copy that outlives the arena."""
        if not isinstance(operand, Slot):
            return jnp.asarray(operand.val)
        if _is_key(operand):
            return self.read(operand)
        return jnp.array(self.view(operand).copy())

    def run(self, script: Script, turn: int) -> None:
        """Runs the steps; ``turn`` is the row of the innermost scan."""
        for step in script.steps:
            for slot in step.born:
                self.open(slot)
            action = step.action
            if isinstance(action, Loop):
                self.move(action.initial, action.carry)
                for slot in step.dead_on_entry:
                    self.close(slot)
                self.repeat(action, turn)
            else:
                self.act(action, turn)
                for slot in step.dead_on_entry:
                    self.close(slot)
            for slot in step.dead:
                self.close(slot)

    def act(self, action: Action, turn: int) -> None:
        """Does anything but a loop."""
        match action:
            case Apply():
                self.apply(action)
            case Slice(reads=(row,), writes=(target,), index=index):
                self.write(target, np.asarray(self.host(row)[turn if index is None else index]))
            case Store(reads=(value,), writes=(rows,), index=index):
                self.view(rows)[turn if index is None else index] = self.host(value)
            case Test(reads=(verdict,)):
                self.go_on = bool(self.host(verdict))
            case Branch(branches=branches):
                index = int(self.host(action.reads[0]))
                self.run(branches[min(max(index, 0), len(branches) - 1)], turn)
            case _:
                self.move(action.reads, action.writes)

    def move(self, sources: Sequence[Operand], targets: Sequence[Slot]) -> None:
        """Copies all at once: a target may be another's source."""
        held = [np.array(self.host(source)) for source in sources]
        for target, value in zip(targets, held, strict=True):
            self.write(target, value.astype(self.view(target).dtype))

    def repeat(self, loop: Loop, turn: int) -> None:
        """Runs the turns of a loop."""
        if loop.trips is None and loop.predicate is not None:
            while self.holds(loop.predicate, turn):
                self.run(loop.turns[0], turn)
        elif len(loop.turns) == loop.trips:
            for script in loop.turns:
                self.run(script, turn)
        else:
            for number in range(loop.trips or 0):
                self.run(loop.turns[0], (loop.trips or 0) - 1 - number if loop.reverse else number)

    def holds(self, predicate: Script, turn: int) -> bool:
        """Runs a predicate."""
        self.run(predicate, turn)
        return self.go_on

    def apply(self, action: Apply) -> None:
        """Evaluates one equation on views of its operands and copies the results into the arena."""
        eqn = action.eqn
        params = eqn.primitive.get_bind_params(eqn.params)
        with eqn.ctx.manager:
            values = eqn.primitive.bind(*map(self.read, action.reads), **params)
        values = values if eqn.primitive.multiple_results else [values]
        jax.block_until_ready(values)  # the operands may be poisoned next
        for slot, value in zip(action.writes, values, strict=True):
            self.put(slot, value)
