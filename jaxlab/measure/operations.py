"""What one instruction of a compiled program costs: arithmetic and bytes of memory touched."""

import math
import re

import numpy as np

from jaxlab.measure.hlo import Computation, Instruction, Program


def _opcodes(text: str) -> frozenset[str]:
    return frozenset(text.split())


ARITHMETIC = _opcodes("""
    abs add and ceil clamp compare complex convert clz divide floor imag is-finite maximum minimum
    multiply negate not or popcnt real reduce-precision remainder round-nearest-afz round-nearest-
    even select shift-left shift-right-arithmetic shift-right-logical sign stochastic-convert
    subtract xor
""")
TRANSCENDENTAL = _opcodes("""
    acos acosh asin asinh atan2 atanh cbrt cosh cosine erf exponential exponential-minus-one log
    log-plus-one logistic power rsqrt sine sinh sqrt tan tanh
""")
FREE = _opcodes("""
    add-dependency after-all bitcast constant domain get-tuple-element opt-barrier parameter
    partition-id replica-id tuple
""")
MOVES = _opcodes("""
    bitcast-convert broadcast concatenate copy dynamic-reshape dynamic-slice dynamic-update-slice
    gather get-dimension-size infeed iota outfeed pad recv recv-done reshape reverse rng rng-bit-
    generator rng-get-and-update-state send-done set-dimension-size slice transpose
""")


def product_flops(computation: Computation, instruction: Instruction) -> int | None:
    """Operations of a matrix product or convolution, multiplications and additions counted apart.

    Args:
      computation: the computation that holds the instruction.
      instruction: any instruction.

    Returns:
      ``2 * M * N * K`` of a ``dot`` (batch dimensions are part of M * N) and of the cuBLAS calls
      that stand for one on a GPU; for a ``convolution`` twice the number of products that do not
      touch padding or dilation; None for every other instruction.
    """
    if instruction.opcode == "dot":
        contracted = instruction.integers("lhs_contracting_dims")
    elif instruction.opcode == "convolution":
        return _convolution_flops(computation, instruction)
    elif instruction.opcode == "custom-call" and "__cublas$" in instruction.attributes:
        listed = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', instruction.attributes)
        contracted = tuple(int(dim) for dim in re.findall(r"\d+", listed[1])) if listed else ()
    else:
        return None
    left = computation.operands(instruction)[0].shapes[0]
    return 2 * instruction.elements * math.prod(left.dims[dim] for dim in contracted)


def _convolution_flops(computation: Computation, instruction: Instruction) -> int:
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    if labels is None:
        raise ValueError(f"HLO text: convolution {instruction.name} lacks dim_labels")
    inputs, kernel = (operand.shapes[0].dims for operand in computation.operands(instruction))
    outputs = instruction.shapes[0].dims
    products = (
        inputs[labels[1].index("b")]
        // instruction.integer("batch_group_count", 1)
        * kernel[labels[2].index("i")]
        * outputs[labels[3].index("f")]
    )
    window = re.search(r"window=\{([^}]*)\}", instruction.attributes)
    fields = dict(re.findall(r"(\w+)=([\d_x\-]+)", window[1])) if window else {}
    for dim in range(len(inputs) - 2):
        padding = fields["pad"].split("x")[dim] if "pad" in fields else "0_0"
        stride, spread, dilation = (
            int(fields[name].split("x")[dim]) if name in fields else 1
            for name in ("stride", "lhs_dilate", "rhs_dilate")
        )
        place = (
            np.arange(outputs[labels[3].index(str(dim))])[:, None] * stride
            + np.arange(kernel[labels[2].index(str(dim))]) * dilation
            - int(padding.split("_")[0])
        )
        extent = (inputs[labels[1].index(str(dim))] - 1) * spread + 1
        products *= int(((place >= 0) & (place < extent) & (place % spread == 0)).sum())
    return 2 * products


def applications(computation: Computation, instruction: Instruction) -> int:
    """How often an instruction such as ``reduce`` applies the computation it names.

    Args:
      computation: the computation that holds the instruction.
      instruction: an instruction with ``to_apply``.

    Returns:
      One application per element that a reduction removes, per update of a scatter, per element of
      a map, and per further window element of a windowed reduction.

    Raises:
      ValueError: the opcode is not one of these.
    """
    operands = computation.operands(instruction)
    if instruction.opcode == "reduce":
        return operands[0].elements - instruction.elements
    if instruction.opcode == "reduce-window":
        size = re.search(r"size=([\dx]+)", instruction.attributes)
        window = math.prod(int(side) for side in size[1].split("x")) if size else 1
        return instruction.elements * (window - 1)
    if instruction.opcode == "scatter":
        return operands[-1].elements
    if instruction.opcode == "map":
        return instruction.elements
    raise ValueError(f"{instruction.opcode} does not apply a computation element by element")


def memory_bytes(computation: Computation, instruction: Instruction) -> int:
    """Bytes an instruction reads and writes, each operand and result once.

    Slices, gathers, updates and scatters touch only the part they move, not the whole array.

    Args:
      computation: the computation that holds the instruction.
      instruction: an instruction outside a fusion, with no computation of its own.

    Returns:
      The bytes.
    """
    operands = computation.operands(instruction)
    match instruction.opcode:
        case opcode if opcode in FREE:
            return 0
        case "slice":
            return 2 * instruction.bytes
        case "dynamic-slice":
            return 2 * instruction.bytes + sum(index.bytes for index in operands[1:])
        case "dynamic-update-slice":
            return 2 * operands[1].bytes + sum(index.bytes for index in operands[2:])
        case "gather":
            return 2 * instruction.bytes + operands[1].bytes
        case "scatter":
            updates = operands[len(operands) // 2 + 1 :]
            return 3 * sum(update.bytes for update in updates) + operands[len(operands) // 2].bytes
    return instruction.bytes + sum(operand.bytes for operand in operands)


def fusion_bytes(program: Program, computation: Computation, fusion: Instruction) -> int:
    """Bytes a fusion reads and writes: what crosses its border, nothing of what stays inside.

    Args:
      program: the program.
      computation: the computation that holds the fusion.
      fusion: the fusion.

    Returns:
      The bytes; of an operand that is only sliced inside, the slices; of a result that is an
      operand updated in place, the update.
    """
    fused = program.computations[fusion.called("calls")]
    root = fused.instructions[fused.root]
    results = fused.operands(root) if root.opcode == "tuple" else [root]
    written = sum(
        fused.operands(result)[1].bytes if result.opcode == "dynamic-update-slice" else result.bytes
        for result in results
    )
    return written + sum(
        _bytes_read(program, fused, parameter) for parameter in fused.parameters().values()
    )


def _bytes_read(program: Program, fused: Computation, parameter: Instruction) -> int:
    """Bytes of a fusion's parameter that its users read; whole reads are shared."""
    total, whole = 0, False
    for user in fused.users(parameter.name):
        first = user.operands[0] == parameter.name
        if user.opcode == "fusion":
            inner = program.computations[user.called("calls")]
            total += sum(
                _bytes_read(program, inner, inner.parameters()[number])
                for number, operand in enumerate(user.operands)
                if operand == parameter.name
            )
        elif user.opcode == "slice" or (user.opcode in ("dynamic-slice", "gather") and first):
            total += user.bytes
        elif not (user.opcode == "dynamic-update-slice" and first):
            whole = True
    return total + whole * parameter.bytes
