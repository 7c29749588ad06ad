"""The optimized program of XLA, read from its text: computations, instructions, shapes."""

import dataclasses
import math
import re
from collections.abc import Iterator

_METADATA = re.compile(r'metadata=\{((?:[^{}"]|"(?:[^"\\]|\\.)*")*)\}')
_OP_NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
_COMMENT = re.compile(r"/\*.*?\*/")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\]")
_OPERAND = re.compile(r"%([\w.\-]+)")
_WIDTH = re.compile(r"[a-z]+(\d+)")


@dataclasses.dataclass(frozen=True)
class ArrayShape:
    """One array of an instruction's result.

    Attributes:
      dtype: XLA's name of the element type, ``f32``, ``bf16``, ``pred``, ``token``.
      dims: the dimensions.
    """

    dtype: str
    dims: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Size in bytes, packed where an element is smaller than a byte."""
        if self.dtype in ("token", "opaque"):
            return 0
        width = _WIDTH.match(self.dtype)
        return -(-self.elements * (int(width[1]) if width else 8) // 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
      name: its name in the program.
      opcode: what it does, ``dot``, ``while``, ``all-gather-start``.
      shapes: the arrays of its result, nested tuples flattened.
      operands: names of its operands.
      literal: what stands between the parentheses, for constants and parameters.
      attributes: what follows the operands, without the metadata.
      label: the operation it came from, as jax names it; the instruction's name where unknown.
    """

    name: str
    opcode: str
    shapes: tuple[ArrayShape, ...]
    operands: tuple[str, ...]
    literal: str
    attributes: str
    label: str

    @property
    def elements(self) -> int:
        """Elements of the first array of the result."""
        return self.shapes[0].elements if self.shapes else 0

    @property
    def bytes(self) -> int:
        """Size of the whole result, in bytes."""
        return sum(shape.bytes for shape in self.shapes)

    def integer(self, attribute: str, default: int) -> int:
        """The integer value of an attribute such as ``feature_group_count=2``."""
        found = re.search(rf"\b{attribute}=(-?\d+)", self.attributes)
        return int(found[1]) if found else default

    def integers(self, attribute: str) -> tuple[int, ...]:
        """The integers of an attribute such as ``lhs_contracting_dims={1,2}``."""
        found = re.search(rf"\b{attribute}=\{{([\d,]*)\}}", self.attributes)
        return tuple(int(value) for value in found[1].split(",") if value) if found else ()

    def called(self, attribute: str) -> str:
        """The name of the computation that an attribute such as ``body=%region`` names."""
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.attributes)
        if found is None:
            raise ValueError(f"HLO text: {self.opcode} {self.name} lacks the attribute {attribute}")
        return found[1]

    def branches(self) -> tuple[str, ...]:
        """Names of the computations that a ``conditional`` chooses from."""
        found = re.search(r"\bbranch_computations=\{([^}]*)\}", self.attributes)
        if found:
            return tuple(name.strip().lstrip("%") for name in found[1].split(","))
        return self.called("true_computation"), self.called("false_computation")


@dataclasses.dataclass(frozen=True)
class Computation:
    """A named list of instructions.

    Attributes:
      name: its name in the program.
      instructions: by name, in the order of the text.
      root: name of the instruction whose result the computation returns.
    """

    name: str
    instructions: dict[str, Instruction]
    root: str

    def operands(self, instruction: Instruction) -> list[Instruction]:
        """The instructions whose results an instruction reads."""
        return [self.instructions[name] for name in instruction.operands]

    def parameters(self) -> dict[int, Instruction]:
        """The parameters by their number."""
        return {
            int(instruction.literal): instruction
            for instruction in self.instructions.values()
            if instruction.opcode == "parameter"
        }

    def users(self, name: str) -> Iterator[Instruction]:
        """The instructions that read ``name``."""
        return (user for user in self.instructions.values() if name in user.operands)


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled module, as one device runs it.

    Attributes:
      computations: by name.
      entry: the computation where it starts.
      devices: number of devices that run it together.
    """

    computations: dict[str, Computation]
    entry: Computation
    devices: int


def parse_program(text: str) -> Program:
    """Reads the text of an optimized HLO module.

    Args:
      text: as ``jax.stages.Compiled.as_text`` gives it.

    Returns:
      The program.

    Raises:
      ValueError: the text is no HLO module with an entry computation.
    """
    header = re.search(r"^HloModule .*$", text, re.MULTILINE)
    computations: dict[str, Computation] = {}
    entry = root = name = None
    instructions: dict[str, Instruction] = {}
    for line in text.splitlines():
        start = _COMPUTATION.match(_COMMENT.sub("", line))
        if start:
            name, root, instructions = start[2], None, {}
            entry = name if start[1] else entry
        elif line.startswith("}") and name is not None:
            computations[name] = Computation(
                name, instructions, root or next(reversed(instructions), "")
            )
            name = None
        elif name is not None and (found := _INSTRUCTION.match(line)):
            instructions[found[2]] = _parse_instruction(found[2], found[3])
            root = found[2] if found[1] else root
    if header is None or entry is None:
        raise ValueError(
            f"HLO text: no module with an ENTRY computation in {len(text)} characters; pass what "
            "`jax.jit(fn).lower(...).compile().as_text()` returns."
        )
    counts = [
        int(count) for count in re.findall(r"\b(?:num_partitions|replica_count)=(\d+)", header[0])
    ]
    return Program(computations, computations[entry], math.prod(counts))


def _parse_instruction(name: str, text: str) -> Instruction:
    metadata = _METADATA.search(text)
    label = _OP_NAME.search(metadata[1]) if metadata else None
    text = _COMMENT.sub("", _METADATA.sub("", text))
    shape_end = _closing(text, 0) if text.startswith("(") else text.index(" ")
    opening = text.index("(", shape_end)
    closing = _closing(text, opening)
    literal = text[opening + 1 : closing - 1]
    return Instruction(
        name=name,
        opcode=text[shape_end:opening].strip(),
        shapes=tuple(
            ArrayShape(dtype, tuple(int(size) for size in re.findall(r"\d+", dims)))
            for dtype, dims in _ARRAY.findall(text[:shape_end])
        ),
        operands=tuple(_OPERAND.findall(literal)),
        literal=literal,
        attributes=text[closing:],
        label=label[1] if label else name,
    )


def _closing(text: str, opening: int) -> int:
    """The place behind the parenthesis that closes the one at ``opening``."""
    depth = 0
    for place in range(opening, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place + 1
    raise ValueError(f"HLO text: unbalanced parentheses in {text[:80]!r}")
