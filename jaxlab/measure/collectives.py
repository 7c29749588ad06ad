"""Communication of a compiled program: which collective, how many bytes, among how many devices."""

import dataclasses
import math
import re

from jaxlab.measure.hlo import Computation, Instruction, Program

COLLECTIVE_KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
    "send",
)


@dataclasses.dataclass(frozen=True)
class Collective:
    """One kind of communication in a program, as one device sees it.

    Attributes:
      kind: XLA's name of the operation; the asynchronous form counts as the operation itself.
      payload_bytes: size of the whole array that one operation makes or distributes over its group:
        an all-gather's result, the input of every other kind, in bytes. For a ragged all-to-all the
        size of the input buffer, which bounds what is sent.
      group_size: number of devices that take part in one operation.
      count: how often the operation runs, loops included; None where a loop depends on data.
    """

    kind: str
    payload_bytes: int
    group_size: int
    count: int | None

    @property
    def total_bytes(self) -> int | None:
        """Payload of all operations together, in bytes."""
        return None if self.count is None else self.count * self.payload_bytes

    @property
    def wire_bytes(self) -> int | None:
        """Bytes that one device sends in all operations together, by a bandwidth-optimal algorithm.

        ``(g - 1) / g`` of the payload for all-gather, reduce-scatter and all-to-all, twice that for
        all-reduce, the payload itself for the others.
        """
        if self.total_bytes is None:
            return None
        rounds = {"all-gather": 1, "reduce-scatter": 1, "all-to-all": 1, "all-reduce": 2}
        if self.kind not in rounds:
            return self.total_bytes
        return rounds[self.kind] * self.total_bytes * (self.group_size - 1) // self.group_size


def read_collective(
    program: Program, computation: Computation, instruction: Instruction
) -> Collective | None:
    """Reads one instruction as a collective.

    Args:
      program: the program.
      computation: the computation that holds the instruction.
      instruction: any instruction.

    Returns:
      The collective with a count of one; None for every other instruction, for the second half of
      an asynchronous pair, and for transfers to the host.
    """
    kind = instruction.opcode.removesuffix("-start")
    if kind not in COLLECTIVE_KINDS or "is_host_transfer=true" in instruction.attributes:
        return None
    operands = computation.operands(instruction)
    carried = operands[:1] if kind in ("ragged-all-to-all", "send") else operands
    group = _group_size(program, instruction)
    payload = sum(operand.bytes for operand in carried)
    return Collective(kind, payload * (group if kind == "all-gather" else 1), group, 1)


def _group_size(program: Program, instruction: Instruction) -> int:
    text = instruction.attributes
    if pairs := re.search(r"source_target_pairs=\{(\{.*?\})\}", text):
        return len(set(re.findall(r"\d+", pairs[1])))
    if listed := re.search(r"replica_groups=\{(\{.*?\})\}", text):
        return max(len(group.split(",")) for group in re.findall(r"\{([^}]*)\}", listed[1]))
    if tiled := re.search(r"replica_groups=\[\d+,(\d+)\]<=", text):
        return int(tiled[1])
    if meshed := re.search(r"replica_groups=@?mesh\[([^\]]*)\][^{]*\{([^}]*)\}", text):
        sizes = dict(re.findall(r"'([^']*)'=(\d+)", meshed[1]))
        chosen = re.findall(r"'([^']*)'(?::\((\d+)\)(\d+))?", meshed[2])
        return math.prod(int(part or sizes[axis]) for axis, _, part in chosen)
    return program.devices
