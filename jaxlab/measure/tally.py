"""Adds up the instructions of a compiled program, loop bodies as often as they run."""

import dataclasses
import math

from jaxlab.measure.collectives import COLLECTIVE_KINDS, Collective, read_collective
from jaxlab.measure.hlo import Computation, Instruction, Program, parse_program
from jaxlab.measure.operations import (
    ARITHMETIC,
    FREE,
    MOVES,
    TRANSCENDENTAL,
    applications,
    fusion_bytes,
    memory_bytes,
    product_flops,
)
from jaxlab.measure.trips import Loop, trip_count


def count_program(text: str) -> tuple["Tally", tuple[Loop, ...]]:
    """Counts a program given as the text of its optimized HLO module.

    Args:
      text: as ``jax.stages.Compiled.as_text`` gives it.

    Returns:
      The counts for one device and the loops that were met.

    Raises:
      ValueError: the text is no HLO module.
    """
    counter = _Counter(parse_program(text))
    return counter.computation(counter.program.entry), tuple(counter.loops)


def _add(left: int | None, right: int | None) -> int | None:
    return None if left is None or right is None else left + right


def _times(value: int | None, trips: int | None) -> int | None:
    if value == 0 or trips == 0:
        return 0
    return None if value is None or trips is None else value * trips


def _larger(left: int | None, right: int | None) -> int | None:
    return None if left is None or right is None else max(left, right)


def _payload(collectives: dict[tuple[str, int, int], int | None]) -> float:
    """Bytes of some collectives, infinite where a count is unknown."""
    return sum(
        (math.inf if count is None else key[1] * count for key, count in collectives.items()), 0.0
    )


@dataclasses.dataclass
class Tally:
    """Running counts; None stands for unknown."""

    flops: int | None = 0
    matmul_flops: int | None = 0
    transcendentals: int | None = 0
    bytes_accessed: int | None = 0
    collectives: dict[tuple[str, int, int], int | None] = dataclasses.field(default_factory=dict)
    opaque: dict[str, int | None] = dataclasses.field(default_factory=dict)

    def add(self, other: "Tally", trips: int | None = 1) -> None:
        """Adds another tally ``trips`` times."""
        for name in ("flops", "matmul_flops", "transcendentals", "bytes_accessed"):
            value = _add(getattr(self, name), _times(getattr(other, name), trips))
            setattr(self, name, value)
        for key, count in other.collectives.items():
            if (more := _times(count, trips)) != 0:
                self.collectives[key] = _add(self.collectives.get(key, 0), more)
        for name, calls in other.opaque.items():
            if (more := _times(calls, trips)) != 0:
                self.opaque[name] = _add(self.opaque.get(name, 0), more)

    def communicate(self, collective: Collective) -> None:
        """Adds a collective."""
        key = (collective.kind, collective.payload_bytes, collective.group_size)
        self.collectives[key] = _add(self.collectives.get(key, 0), collective.count)

    def communication(self) -> tuple[Collective, ...]:
        """The collectives, sorted by kind and size."""
        return tuple(
            Collective(kind, payload, group, self.collectives[kind, payload, group])
            for kind, payload, group in sorted(self.collectives)
        )

    @classmethod
    def costliest(cls, branches: list["Tally"]) -> "Tally":
        """The largest of every quantity over the branches of a conditional."""
        result = cls()
        for branch in branches:
            for name in ("flops", "matmul_flops", "transcendentals", "bytes_accessed"):
                setattr(result, name, _larger(getattr(result, name), getattr(branch, name)))
            for key, calls in branch.opaque.items():
                result.opaque[key] = _larger(result.opaque.get(key, 0), calls)
        for kind in {key[0] for branch in branches for key in branch.collectives}:
            choices = [
                {key: count for key, count in branch.collectives.items() if key[0] == kind}
                for branch in branches
            ]
            result.collectives |= max(choices, key=_payload)
        return result


class _Counter:
    """Walks the computations of a program, each one once."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.loops: list[Loop] = []
        self._known: dict[str, Tally] = {}

    def computation(self, computation: Computation) -> Tally:
        """Counts one run of a computation."""
        if computation.name not in self._known:
            tally = Tally()
            for instruction in computation.instructions.values():
                self._instruction(tally, computation, instruction)
            self._known[computation.name] = tally
        return self._known[computation.name]

    def _called(self, instruction: Instruction, attribute: str) -> Tally:
        return self.computation(self.program.computations[instruction.called(attribute)])

    def _instruction(
        self, tally: Tally, computation: Computation, instruction: Instruction
    ) -> None:
        opcode = instruction.opcode
        if opcode == "while":
            trips = trip_count(self.program, computation, instruction)
            self.loops.append(Loop(instruction.label, trips))
            tally.add(self._called(instruction, "body"), trips)
            tally.add(self._called(instruction, "condition"), None if trips is None else trips + 1)
        elif opcode == "conditional":
            names = instruction.branches()
            branches = [self.computation(self.program.computations[name]) for name in names]
            tally.add(Tally.costliest(branches))
        elif opcode in ("call", "async-start"):
            tally.add(self._called(instruction, "to_apply" if opcode == "call" else "calls"))
        elif opcode == "fusion":
            tally.add(self._fusion(computation, instruction))
        elif opcode.endswith(("-start", "-update", "-done")) and opcode not in MOVES:
            self._asynchronous(tally, computation, instruction)
        else:
            self._plain(tally, computation, instruction)

    def _fusion(self, computation: Computation, fusion: Instruction) -> Tally:
        """The arithmetic inside a fusion, the memory traffic at its border."""
        tally = dataclasses.replace(
            self._called(fusion, "calls"),
            bytes_accessed=fusion_bytes(self.program, computation, fusion),
        )
        if fusion.called("calls").startswith("all-reduce-scatter"):
            # XLA for TPU writes a reduce-scatter as an all-reduce and a slice in one fusion.
            tally.collectives = {
                (kind.replace("all-reduce", "reduce-scatter"), payload, group): count
                for (kind, payload, group), count in tally.collectives.items()
            }
        return tally

    def _asynchronous(
        self, tally: Tally, computation: Computation, instruction: Instruction
    ) -> None:
        """One half of a pair: reads count at the start, writes at the end."""
        base, _, half = instruction.opcode.rpartition("-")
        if base in COLLECTIVE_KINDS:
            if half == "done":
                tally.bytes_accessed = _add(tally.bytes_accessed, instruction.bytes)
            elif collective := read_collective(self.program, computation, instruction):
                tally.communicate(collective)
                read = sum(operand.bytes for operand in computation.operands(instruction))
                tally.bytes_accessed = _add(tally.bytes_accessed, read)
        elif base in MOVES:
            if half == "done":
                tally.bytes_accessed = _add(tally.bytes_accessed, 2 * instruction.bytes)
        elif half == "start":
            self._instruction(tally, computation, dataclasses.replace(instruction, opcode=base))

    def _plain(self, tally: Tally, computation: Computation, instruction: Instruction) -> None:
        opcode = instruction.opcode
        traffic = memory_bytes(computation, instruction)
        tally.bytes_accessed = _add(tally.bytes_accessed, traffic)
        if (flops := product_flops(computation, instruction)) is not None:
            tally.add(Tally(flops=flops, matmul_flops=flops))
        elif collective := read_collective(self.program, computation, instruction):
            tally.communicate(collective)
        elif opcode in ARITHMETIC:
            tally.flops = _add(tally.flops, instruction.elements)
        elif opcode in TRANSCENDENTAL:
            tally.transcendentals = _add(tally.transcendentals, instruction.elements)
        elif opcode in ("map", "reduce", "reduce-window", "scatter"):
            applied = dataclasses.replace(self._called(instruction, "to_apply"), bytes_accessed=0)
            tally.add(applied, applications(computation, instruction))
        elif opcode == "sort":
            elements = computation.operands(instruction)[0].elements
            tally.flops = _add(tally.flops, elements * max(elements - 1, 0).bit_length())
        elif opcode not in FREE and opcode not in MOVES:
            target = instruction.attributes.partition('custom_call_target="')[2].partition('"')[0]
            name = target or opcode
            tally.opaque[name] = _add(tally.opaque.get(name, 0), 1)
