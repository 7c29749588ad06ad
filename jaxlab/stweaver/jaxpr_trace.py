"""The memory requests of a jaxpr: one for every result of every equation."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from jaxlab.stweaver.jaxpr import PHASES, Program
from jaxlab.stweaver.script import Script, Slot
from jaxlab.stweaver.trace import Trace


def trace_jaxpr(
    fn: Callable[..., Any],
    *args: Any,
    donate_argnums: Iterable[int] = (),
    depth: str = "loops",
    alignment: int = 64,
) -> Trace:
    """The requests of a function that is evaluated one equation at a time, as eager code is.

    Every result of every equation is a request, freed after its last use. An equation is one step
    of the clock; during it its operands and its results are live together. Arguments and
    closed-over arrays are live from the start; only donated ones may be freed before the end.
    Results live to the end. A loop copies its initial values into its carry and frees them there.

    The ids name the primitive, the line of source and the shape; ``layers`` holds the name stack
    (flax modules, ``jax.named_scope``) of the equations that allocate and last use a request;
    phases are "arguments", "forward", "backward" (inside a transposed linear map), "other" and,
    for what outlives the program, "results".

    Args:
      fn: the function.
      *args: its arguments, arrays or ``jax.ShapeDtypeStruct``; nothing is computed.
      donate_argnums: numbers of the arguments whose memory the function may free.
      depth: how far to look into an equation. "equations": not at all. "calls": equations of
        nested jit, checkpoint, custom_jvp, custom_vjp and single-device shard_map stand in the
        place of the call. "loops": also the bodies of scan, while and all branches of cond, each
        body once: every turn reuses the same requests. "iterations": as "loops", but a scan's
        body as often as it runs.
      alignment: bytes; sizes are rounded up to a multiple.

    Returns:
      The trace, in the order of allocation, as ``run_in_arena`` allocates.

    Raises:
      ValueError: ``depth``, ``alignment`` or ``donate_argnums`` is out of range.

    Source: reconstructed; see docs/sources/stweaver.md, importers.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> trace = trace_jaxpr(lambda x: jnp.sin(x) * 2.0, jax.ShapeDtypeStruct((16,), "float32"))
      >>> trace.size.tolist(), trace.start.tolist(), trace.end.tolist()
      ([64, 64, 64], [0, 0, 1], [2, 2, 2])
    """
    return program_trace(Program.of(fn, args, donate_argnums, depth, alignment))


def program_trace(program: Program) -> Trace:
    """The requests of a program, in the order of its slots."""
    clock = _Clock()
    clock.start.update(dict.fromkeys(program.arguments, 0))
    clock.run(program.script)
    finish = max(clock.time, 1)
    slots = list(program.slots())
    layers = sorted({slot.layer for slot in slots} | set(clock.last_layer.values()))
    code = {layer: number for number, layer in enumerate(layers)}
    return Trace.of(
        size=np.array([slot.size for slot in slots], np.int64),
        start=np.array([clock.start[slot] for slot in slots], np.int64),
        end=np.array([clock.end.get(slot, finish) for slot in slots], np.int64),
        id=np.array([slot.id for slot in slots], np.str_),
        phase_start=np.array([PHASES.index(slot.phase) for slot in slots], np.int64),
        phase_end=np.array(
            [
                PHASES.index(clock.last_phase[slot] if slot in clock.end else "results")
                for slot in slots
            ],
            np.int64,
        ),
        layer_start=np.array([code[slot.layer] for slot in slots], np.int64),
        layer_end=np.array(
            [code[clock.last_layer.get(slot, slot.layer)] for slot in slots], np.int64
        ),
        phases=PHASES,
        layers=layers,
    )


class _Clock:
    """Walks through a script and notes when slots are born and die."""

    def __init__(self) -> None:
        self.time = 0
        self.start: dict[Slot, int] = {}
        self.end: dict[Slot, int] = {}
        self.last_layer: dict[Slot, str] = {}
        self.last_phase: dict[Slot, str] = {}

    def run(self, script: Script) -> None:
        for step in script.steps:
            self.start.update(dict.fromkeys(step.born, self.time))
            self.time += 1
            self._free(step.dead_on_entry, step.action.writes)
            for nested in step.action.nested:
                self.run(nested)
            self._free(step.dead, step.action.writes)

    def _free(self, slots: Iterable[Slot], writes: tuple[Slot, ...]) -> None:
        for slot in slots:
            user = writes[0] if writes else slot
            self.end[slot] = self.time
            self.last_layer[slot], self.last_phase[slot] = user.layer, user.phase
