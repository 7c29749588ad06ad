"""Read a pickle that holds plain containers and nothing else.

A pickle is a program. This machine knows the instructions that build dicts, lists, tuples, strings,
numbers, True, False and None; it has none that name, import or call anything, and none whose memory
is not backed by bytes of the file. A file that uses another instruction is refused, and so is a key
of a dict whose hash may take long: anything but a string, bytes, None or a number of 64 bits.
"""

import struct
from collections.abc import Callable
from typing import Any

_MARK = object()
_KEYS = (str, bytes, int, float, bool, type(None))


def loads_plain(data: bytes) -> Any:
    """Reads a pickle of protocol 2 to 5 that holds plain containers.

    Args:
      data: the pickle.

    Returns:
      What it holds.

    Raises:
      ValueError: the pickle is cut off, malformed, or wants anything but plain containers.

    Example:
      >>> import pickle
      >>> loads_plain(pickle.dumps({"blocks": [1, (2.5, None)]}))
      {'blocks': [1, (2.5, None)]}
      >>> loads_plain(pickle.dumps(print))
      Traceback (most recent call last):
      ...
      ValueError: pickle: instruction STACK_GLOBAL at byte 30 is not one of plain data; refused.
    """
    machine = _Machine(data)
    try:
        return machine.run()
    except (IndexError, struct.error) as error:
        raise ValueError(f"pickle: cut off or malformed at byte {machine.position}.") from error
    except (TypeError, AttributeError, KeyError, UnicodeDecodeError) as error:
        raise ValueError(f"pickle: malformed at byte {machine.position}: {error}.") from error


class _Machine:
    """A stack, a memo and a place in the data."""

    def __init__(self, data: bytes):
        self.data = data
        self.position = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        while True:
            code = self.data[self.position]
            self.position += 1
            if code == _STOP:
                (value,) = self.stack if len(self.stack) == 1 else (_MARK,)
                if value is _MARK:
                    raise ValueError("pickle: it ends with more or less than one value.")
                return value
            act = _INSTRUCTIONS.get(code)
            if act is None:
                raise ValueError(
                    f"pickle: instruction {_NAMES.get(code, hex(code))} at byte "
                    f"{self.position - 1} is not one of plain data; refused."
                )
            act(self)

    def take(self, count: int) -> bytes:
        piece = self.data[self.position : self.position + count]
        if len(piece) != count or count < 0:
            raise IndexError
        self.position += count
        return piece

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self, form: str) -> None:
        self.stack.append(str(self.take(self.number(form)), "utf-8", "surrogatepass"))

    def raw(self, form: str) -> None:
        self.stack.append(self.take(self.number(form)))

    def integer(self, form: str) -> None:
        self.stack.append(int.from_bytes(self.take(self.number(form)), "little", signed=True))

    def since_mark(self) -> list[Any]:
        start = len(self.stack) - 1
        while self.stack[start] is not _MARK:
            start -= 1
            if start < 0:
                raise IndexError
        items = self.stack[start + 1 :]
        del self.stack[start:]
        return items

    def remember(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def extend(self, items: list[Any]) -> None:
        self._top(list).extend(items)

    def update(self, items: list[Any]) -> None:
        for key in items[::2]:
            # a nested tuple hashes every path through it, long numbers collide at will
            if type(key) not in _KEYS or (type(key) is int and key.bit_length() > 64):
                raise TypeError(f"a {type(key).__name__} as the key of a dict")
        self._top(dict).update(zip(items[::2], items[1::2], strict=True))

    def fold(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def _top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise TypeError(f"a {kind.__name__} was expected")
        return self.stack[-1]


_STOP = ord(".")
_Act = Callable[[_Machine], Any]
_INSTRUCTIONS: dict[int, _Act] = {
    0x80: lambda m: m.number("<B"),  # protocol
    0x95: lambda m: m.number("<Q"),  # frame: only a hint of what to read at once
    ord("("): lambda m: m.stack.append(_MARK),
    ord("0"): lambda m: m.stack.pop(),
    ord("N"): lambda m: m.stack.append(None),
    0x88: lambda m: m.stack.append(True),
    0x89: lambda m: m.stack.append(False),
    ord("J"): lambda m: m.stack.append(m.number("<i")),
    ord("K"): lambda m: m.stack.append(m.number("<B")),
    ord("M"): lambda m: m.stack.append(m.number("<H")),
    ord("G"): lambda m: m.stack.append(m.number(">d")),
    0x8A: lambda m: m.integer("<B"),
    0x8B: lambda m: m.integer("<i"),
    ord("X"): lambda m: m.text("<I"),
    0x8C: lambda m: m.text("<B"),
    0x8D: lambda m: m.text("<Q"),
    ord("B"): lambda m: m.raw("<I"),
    ord("C"): lambda m: m.raw("<B"),
    0x8E: lambda m: m.raw("<Q"),
    ord(")"): lambda m: m.stack.append(()),
    0x85: lambda m: m.fold(1),
    0x86: lambda m: m.fold(2),
    0x87: lambda m: m.fold(3),
    ord("t"): lambda m: m.stack.append(tuple(m.since_mark())),
    ord("]"): lambda m: m.stack.append([]),
    ord("a"): lambda m: m.extend([m.stack.pop()]),
    ord("e"): lambda m: m.extend(m.since_mark()),
    ord("}"): lambda m: m.stack.append({}),
    ord("s"): lambda m: m.update([m.stack.pop(-2), m.stack.pop()]),
    ord("u"): lambda m: m.update(m.since_mark()),
    ord("q"): lambda m: m.remember(m.number("<B")),
    ord("r"): lambda m: m.remember(m.number("<I")),
    0x94: lambda m: m.remember(len(m.memo)),
    ord("h"): lambda m: m.stack.append(m.memo[m.number("<B")]),
    ord("j"): lambda m: m.stack.append(m.memo[m.number("<I")]),
}
_NAMES = {
    ord("c"): "GLOBAL",
    0x93: "STACK_GLOBAL",
    ord("R"): "REDUCE",
    ord("b"): "BUILD",
    ord("i"): "INST",
    ord("o"): "OBJ",
    0x81: "NEWOBJ",
    0x92: "NEWOBJ_EX",
    ord("P"): "PERSID",
    ord("Q"): "BINPERSID",
    0x82: "EXT1",
    0x83: "EXT2",
    0x84: "EXT4",
}
