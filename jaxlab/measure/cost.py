"""What a compiled program costs, with loop bodies counted as often as they run."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxlab.measure.collectives import COLLECTIVE_KINDS, Collective
from jaxlab.measure.tally import count_program
from jaxlab.measure.trips import Loop


@dataclasses.dataclass(frozen=True)
class CompiledCost:
    """What one device does in one run of a compiled program.

    A count is None, unknown, when part of it stands in a loop whose trip count depends on data.

    Attributes:
      flops: matrix products and convolutions, plus one per element of every elementwise arithmetic
        operation, comparison, selection and conversion, of any type, index arithmetic included.
      matmul_flops: the part of ``flops`` in matrix products and convolutions.
      transcendentals: elements of ``exp``, ``log``, ``tanh``, ``sqrt``, ``pow`` and the like.
      bytes_accessed: bytes that instructions read and write, each operand and result once; fusions
        count at their border.
      argument_bytes: size of the arguments, in bytes; None where the backend does not tell.
      output_bytes: size of the results, in bytes.
      alias_bytes: the part of the results that reuses the memory of donated arguments, in bytes.
      temp_bytes: size of the buffers the program needs beside them, in bytes.
      collectives: the communication, one entry for each kind, payload and group size.
      loops: every loop with its trip count.
      opaque_calls: custom calls and unknown instructions, by name, with the number of times they
        run: their arithmetic is in no count, their operands and results are in ``bytes_accessed``.
    """

    flops: int | None
    matmul_flops: int | None
    transcendentals: int | None
    bytes_accessed: int | None
    argument_bytes: int | None
    output_bytes: int | None
    alias_bytes: int | None
    temp_bytes: int | None
    collectives: tuple[Collective, ...]
    loops: tuple[Loop, ...]
    opaque_calls: Mapping[str, int | None]

    def collective_bytes(self, kind: str | None = None) -> int | None:
        """Payload bytes of the collectives, operations times loop trips.

        Args:
          kind: XLA's name of the operation, for example ``"all-gather"``; None adds up all kinds.

        Returns:
          The bytes, None where a loop's trip count is unknown.

        Raises:
          ValueError: there is no such kind of collective.
        """
        if kind is not None and kind not in COLLECTIVE_KINDS:
            raise ValueError(
                f"collective_bytes: kind={kind!r} is not one of {', '.join(COLLECTIVE_KINDS)}."
            )
        chosen = [entry.total_bytes for entry in self.collectives if kind in (None, entry.kind)]
        known = [total for total in chosen if total is not None]
        return sum(known) if len(known) == len(chosen) else None

    def __str__(self) -> str:
        rows = [
            ("flops", self.flops),
            ("  in matrix products", self.matmul_flops),
            ("transcendentals", self.transcendentals),
            ("bytes accessed", self.bytes_accessed),
            ("argument bytes", self.argument_bytes),
            ("output bytes", self.output_bytes),
            ("temporary bytes", self.temp_bytes),
        ]
        rows += [
            (f"{entry.kind} bytes, {entry.count or 'unknown'} times", entry.total_bytes)
            for entry in self.collectives
        ]
        rows += [(f"loop {loop.name}, trips", loop.trips) for loop in self.loops]
        rows += [
            (f"not counted: {name}, calls", calls) for name, calls in self.opaque_calls.items()
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(
            f"{name:<{width}}  {'unknown' if value is None else format(value, ',')}"
            for name, value in rows
        )


def compiled_cost(
    fn: Callable[..., Any] | jax.stages.Lowered | jax.stages.Compiled, *args: Any, **kwargs: Any
) -> CompiledCost:
    """Counts what a function does once XLA has optimized it; compiles, does not run.

    XLA's ``cost_analysis`` counts the body of a loop once. Here a body counts times its trip count,
    its condition once more than that, and of a conditional each quantity of the costliest branch.
    Without loops, collectives, custom calls and tuples ``flops``, ``transcendentals`` and
    ``bytes_accessed`` equal those of ``cost_analysis``. The reduction inside a collective counts as
    communication, not as arithmetic. The counts are those of the program that XLA made, after
    fusion, for the backend it was compiled for: XLA for CPU, for example, widens bfloat16
    all-reduces to float32, and both their payload and the conversions show.

    Args:
      fn: the function, jitted or not; or what ``jax.jit(fn).lower(...)`` or ``.compile()`` gave.
      *args: its arguments, arrays or ``jax.ShapeDtypeStruct``; none for a lowered program.
      **kwargs: its keyword arguments.

    Returns:
      The cost for one device.

    Raises:
      TypeError: ``fn`` is neither, or arguments came with a lowered or compiled program.
      ValueError: the backend does not show the program it compiled.

    Example:
      >>> import jax.numpy as jnp
      >>> def power(x):
      ...     return jax.lax.fori_loop(0, 10, lambda _, y: y @ x, x)
      >>> cost = compiled_cost(power, jnp.ones((32, 32)))
      >>> cost.matmul_flops == 10 * 2 * 32**3
      True
    """
    if isinstance(fn, jax.stages.Lowered | jax.stages.Compiled):
        if args or kwargs:
            raise TypeError(
                f"compiled_cost: {type(fn).__name__} already has its arguments, got "
                f"{len(args) + len(kwargs)} more; pass the function itself, or no arguments."
            )
        compiled = fn.compile() if isinstance(fn, jax.stages.Lowered) else fn
    elif callable(fn):
        jitted: Any = fn if hasattr(fn, "lower") else jax.jit(fn)
        compiled = jitted.lower(*args, **kwargs).compile()
    else:
        raise TypeError(
            f"compiled_cost: fn must be a function or a lowered or compiled one, got {fn!r}."
        )
    text = compiled.as_text()
    if not text:
        raise ValueError("compiled_cost: this backend does not give the text of what it compiled.")
    memory: Any = compiled.memory_analysis()
    tally, loops = count_program(text)
    return CompiledCost(
        flops=tally.flops,
        matmul_flops=tally.matmul_flops,
        transcendentals=tally.transcendentals,
        bytes_accessed=tally.bytes_accessed,
        argument_bytes=getattr(memory, "argument_size_in_bytes", None),
        output_bytes=getattr(memory, "output_size_in_bytes", None),
        alias_bytes=getattr(memory, "alias_size_in_bytes", None),
        temp_bytes=getattr(memory, "temp_size_in_bytes", None),
        collectives=tally.communication(),
        loops=loops,
        opaque_calls=tally.opaque,
    )
