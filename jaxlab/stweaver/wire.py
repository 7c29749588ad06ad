"""The compiler's buffer assignment, read from its protocol buffer."""

import dataclasses
import typing
from collections.abc import Iterator

Field = tuple[int, int | bytes]


@dataclasses.dataclass(frozen=True)
class Allocation:
    """One block of memory of a compiled program and the values in it.

    Attributes:
      index: its number.
      size: bytes.
      thread_local: lives on the stack of a worker; no part of the program's memory.
      parameter: number of the parameter it holds, or None.
      live_out: whether it holds a result.
      constant: whether it holds a constant.
      assigned: (id, offset, size) of every value in it.
    """

    index: int = 0
    size: int = 0
    thread_local: bool = False
    parameter: int | None = None
    live_out: bool = False
    constant: bool = False
    assigned: tuple[tuple[int, int, int], ...] = ()

    @property
    def temporary(self) -> bool:
        """Whether only the running program needs it."""
        return not (
            self.thread_local or self.live_out or self.constant or self.parameter is not None
        )


def read_allocations(proto: bytes) -> tuple[Allocation, ...]:
    """Reads the allocations of a serialized ``BufferAssignmentProto``.

    Args:
      proto: ``compiled.memory_analysis().serialized_buffer_assignment_proto``.

    Returns:
      The allocations in the order of the message.

    Raises:
      ValueError: the bytes are not a protocol buffer.

    Source: openxla/xla ``xla/service/hlo.proto``, BufferAllocationProto.
    """
    return tuple(
        _allocation(typing.cast(bytes, value)) for number, value in _fields(proto) if number == 3
    )


def _allocation(message: bytes) -> Allocation:
    numbers: dict[int, int] = {}
    assigned = []
    for number, value in _fields(message):
        if number == 9 and isinstance(value, bytes):
            inner = dict(_fields(value))
            assigned.append(tuple(int(inner.get(key, 0)) for key in (1, 2, 3)))
        elif isinstance(value, int):
            numbers[number] = value
    return Allocation(
        index=numbers.get(1, 0),
        size=numbers.get(2, 0),
        thread_local=bool(numbers.get(3)),
        parameter=numbers.get(6, 0) if numbers.get(5) else None,
        live_out=bool(numbers.get(7)),
        constant=bool(numbers.get(12)),
        assigned=tuple(assigned),
    )


def _fields(message: bytes) -> Iterator[Field]:
    """(number, value) of every field; a value is an integer or bytes."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, position = _varint(message, position)
            yield number, value
            continue
        if kind == 2:
            length, position = _varint(message, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"buffer assignment: field {number} has wire type {kind}.")
        if position + length > len(message):
            raise ValueError(f"buffer assignment: field {number} ends beyond the message.")
        yield number, message[position : position + length]
        position += length


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise ValueError("buffer assignment: the message is cut off within a number.")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("buffer assignment: a number is longer than ten bytes.")
