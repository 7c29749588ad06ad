"""How often a loop of a compiled program runs, where the program itself says so."""

import dataclasses
import re

from jaxlab.measure.hlo import Computation, Instruction, Program

_COMPARES = {"LT", "LE", "GT", "GE", "NE"}
_MIRRORED = {"LT": "GT", "LE": "GE", "GT": "LT", "GE": "LE", "NE": "NE"}


@dataclasses.dataclass(frozen=True)
class Loop:
    """One loop of a compiled program.

    Attributes:
      name: the operation it came from, as jax names it (``jit(f)/while``).
      trips: how often its body runs each time the loop is reached; None where data decides.
    """

    name: str
    trips: int | None


def trip_count(program: Program, computation: Computation, loop: Instruction) -> int | None:
    """The number of times the body of a ``while`` runs.

    XLA's own annotation counts where there is one (CPU and GPU). Without it (TPU) the count follows
    from a counter that starts at a constant, grows by a constant and is compared with a constant.

    Args:
      program: the program.
      computation: the computation that holds the loop.
      loop: the ``while`` instruction.

    Returns:
      The count, None where it depends on data.
    """
    annotated = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if annotated:
        return int(annotated[1])
    test = _comparison(program, program.computations[loop.called("condition")])
    if test is None:
        return None
    index, direction, limit = test
    start = _initial(computation, loop, index)
    step = _step(program, program.computations[loop.called("body")], index)
    if start is None or not step:
        return None
    return _count(start, step, direction, limit)


def _count(start: int, step: int, direction: str, limit: int) -> int | None:
    """Steps from ``start`` for as long as the comparison with ``limit`` holds."""
    if direction == "NE":
        steps, rest = divmod(limit - start, step)
        return steps if rest == 0 and steps >= 0 else None
    if direction in ("GT", "GE"):
        start, step, limit = -start, -step, -limit
    limit += direction in ("LE", "GE")
    if start >= limit:
        return 0
    return -(-(limit - start) // step) if step > 0 else None


def _comparison(program: Program, condition: Computation) -> tuple[int, str, int] | None:
    """The carried element, the direction and the constant of a loop's test."""
    found = _inlined(program, condition, condition.root)
    direction = re.search(r"\bdirection=(\w+)", found[0].attributes)
    if found[0].opcode != "compare" or direction is None or direction[1] not in _COMPARES:
        return None
    left, right = found[1]
    if (element := _carried(left)) is not None and (limit := _constant(right)) is not None:
        return element, direction[1], limit
    if (element := _carried(right)) is not None and (limit := _constant(left)) is not None:
        return element, _MIRRORED[direction[1]], limit
    return None


def _step(program: Program, body: Computation, index: int) -> int | None:
    """What one iteration adds to carried element ``index``."""
    root = body.instructions[body.root]
    if root.opcode != "tuple":
        return None
    update, terms = _inlined(program, body, root.operands[index])
    if update.opcode not in ("add", "subtract"):
        return None
    left, right = terms
    if _carried(left) == index and (step := _constant(right)) is not None:
        return step if update.opcode == "add" else -step
    if update.opcode == "add" and _carried(right) == index:
        return _constant(left)
    return None


def _initial(computation: Computation, loop: Instruction, index: int) -> int | None:
    """The constant that carried element ``index`` starts with."""
    carried = computation.operands(loop)[0]
    if carried.opcode != "tuple":
        return None
    return _constant(_source(computation, carried.operands[index]))


def _inlined(
    program: Program, computation: Computation, name: str
) -> tuple[Instruction, list[Instruction]]:
    """An instruction and its operands, seen through copies and through a fusion around it."""
    instruction = _source(computation, name)
    operands = [_source(computation, operand) for operand in instruction.operands]
    if instruction.opcode != "fusion":
        return instruction, operands
    fused = program.computations[instruction.called("calls")]
    inner = _source(fused, fused.root)
    terms = [_source(fused, operand) for operand in inner.operands]
    return inner, [
        operands[int(term.literal)] if term.opcode == "parameter" else term for term in terms
    ]


def _source(computation: Computation, name: str) -> Instruction:
    instruction = computation.instructions[name]
    while instruction.opcode in ("copy", "bitcast"):
        instruction = computation.operands(instruction)[0]
    return instruction


def _carried(instruction: Instruction) -> int | None:
    return instruction.integer("index", 0) if instruction.opcode == "get-tuple-element" else None


def _constant(instruction: Instruction) -> int | None:
    if instruction.opcode != "constant" or not re.fullmatch(r"-?\d+", instruction.literal):
        return None
    return int(instruction.literal)
