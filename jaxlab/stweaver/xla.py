"""The temporaries of a compiled program: where XLA put them and when they live."""

import dataclasses
import re
import tempfile
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int64

from jaxlab.stweaver.trace import Trace
from jaxlab.stweaver.wire import read_allocations

CONVENTIONS = ("half-open", "inclusive-except-shared")

_MAX_BYTES = 1 << 30
_BUFFERS = "after_optimizations-buffer-assignment.txt"
_RANGES = "after_optimizations-live-range.txt"
_PROGRAM = "after_optimizations.txt"
_ALLOCATION = re.compile(r"allocation (?P<index>\d+): size (?P<size>\d+), (?P<kind>.*):$")
_VALUE = re.compile(
    r" value: <(?P<id>\d+) (?P<name>[^\s{]+)(?P<index>\{[\d,]*\})?(?P<phi> \(phi\))? @\d+> "
    r"\(size=(?P<size>\d+),offset=(?P<offset>\d+)\): (?P<shape>.*)$"
)
_RANGE = re.compile(r"    (?P<name>[^\s{]+)(?P<index>\{[\d,]*\}):(?P<start>\d+)-(?P<end>\d+)$")
_LONGEST = 300  # characters of an id or an operation: a shape may be a tuple of thousands


@typing.no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class XlaMemory:
    """The temporaries of one compiled program, as the compiler placed them.

    A value of XLA is a request here, one row; loop-carried values appear once for every place that
    passes them on, the ones after the first marked "(phi)". Values of one carry share an offset
    and touch in time.

    Attributes:
      id: str ``[values]``, number, name and shape.
      operation: str ``[values]``, the jax operation that makes the value, "" if unknown.
      size: int64 ``[values]``, bytes.
      offset: int64 ``[values]``, bytes from the start of the temporaries.
      first: int64 ``[values]``, position in XLA's schedule at which the value is defined.
      last: int64 ``[values]``, position of its last use.
      phi: bool ``[values]``.
      temp_size: bytes of all temporaries, as the compiler states them.
    """

    id: np.ndarray
    operation: np.ndarray
    size: Int64[np.ndarray, " values"]
    offset: Int64[np.ndarray, " values"]
    first: Int64[np.ndarray, " values"]
    last: Int64[np.ndarray, " values"]
    phi: np.ndarray
    temp_size: int

    def trace(self, convention: str = "half-open") -> Trace:
        """The values as requests.

        Args:
          convention: when a value ends. "half-open": ``[first, last)``, under which XLA's own
            offsets never collide; a result may then take the bytes of an operand that ends there,
            which is sound only where the operation works in place. "inclusive-except-shared":
            ``[first, last + 1)``, but ``last`` where XLA itself laid a value that begins there
            over this one; safe wherever XLA's own placement is.

        Returns:
          The trace; ``layers`` holds the operations.

        Raises:
          ValueError: an unknown convention.
        """
        if convention not in CONVENTIONS:
            raise ValueError(f"convention={convention!r} is not one of {CONVENTIONS}.")
        end = self.last.copy()
        if convention != "half-open":
            end += ~self._shared()
        layers, codes = np.unique(self.operation, return_inverse=True)
        return Trace.of(
            size=self.size,
            start=self.first,
            end=end,
            id=self.id,
            layer_start=codes,
            layers=layers.tolist(),
        )

    def _shared(self) -> np.ndarray:
        """Which values end where another begins on their bytes."""
        births: dict[int, list[int]] = {}
        for row, first in enumerate(self.first.tolist()):
            births.setdefault(first, []).append(row)
        below, above = self.offset, self.offset + self.size
        return np.array(
            [
                any(
                    other != row and below[other] < above[row] and below[row] < above[other]
                    for other in births.get(int(self.last[row]), ())
                )
                for row in range(self.size.size)
            ],
            bool,
        )


def trace_xla(
    fn: Callable[..., Any],
    *args: Any,
    donate_argnums: Iterable[int] = (),
    convention: str = "half-open",
) -> Trace:
    """The temporaries of a function as XLA compiles it, with the life that XLA gives them.

    Args:
      fn: the function; it is compiled, not run.
      *args: its arguments, arrays or ``jax.ShapeDtypeStruct``.
      donate_argnums: as for ``jax.jit``.
      convention: when a value ends; see ``XlaMemory.trace``.

    Returns:
      One request for each value in XLA's temporary memory, loop-carried ones included. Arguments,
      results and constants are not temporaries.

    Raises:
      RuntimeError: the compiler's dump is missing or its parts do not agree; says which.
      ValueError: an unknown convention.

    Source: reconstructed; see docs/sources/stweaver.md, importers.
    """
    return xla_memory(fn, *args, donate_argnums=donate_argnums).trace(convention)


def xla_memory(fn: Callable[..., Any], *args: Any, donate_argnums: Iterable[int] = ()) -> XlaMemory:
    """Compiles a function and reads what XLA says of its temporaries.

    The text dump gives lives and names, the protocol buffer of the executable gives offsets and
    sizes; both and the compiler's own total must agree.

    Args:
      fn: the function; it is compiled, not run.
      *args: its arguments, arrays or ``jax.ShapeDtypeStruct``.
      donate_argnums: as for ``jax.jit``.

    Returns:
      The temporaries.

    Raises:
      RuntimeError: the compiler's dump is missing or its parts do not agree; says which.
    """
    with tempfile.TemporaryDirectory(prefix="jaxlab-xla-") as folder:

        def named(*args: Any) -> Any:
            return fn(*args)

        # A program found in jax's cache on disk is not compiled, and then nothing is dumped.
        named.__name__ = Path(folder).name
        lowered = jax.jit(named, donate_argnums=tuple(donate_argnums)).lower(*args)
        options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        compiled = lowered.compile(compiler_options=options)
        try:
            memory = read_xla_dump(folder)
        except (ValueError, FileNotFoundError) as error:
            raise RuntimeError(f"trace_xla: cannot read the compiler's dump: {error}") from error
    stated = compiled.memory_analysis()
    if stated is None:
        raise RuntimeError("trace_xla: this backend does not state the memory of an executable.")
    if stated.temp_size_in_bytes != memory.temp_size:
        raise RuntimeError(
            f"trace_xla: the dump has {memory.temp_size} bytes of temporaries, the compiler states "
            f"{stated.temp_size_in_bytes}."
        )
    held = [a for a in read_allocations(stated.serialized_buffer_assignment_proto) if a.temporary]
    sizes = sorted(size for allocation in held for _, _, size in allocation.assigned)
    if sizes != sorted(memory.size.tolist()):
        raise RuntimeError(
            f"trace_xla: the dump lists {memory.size.size} temporary values, the executable "
            f"{len(sizes)}."
        )
    return dataclasses.replace(memory, temp_size=int(stated.temp_size_in_bytes))


def read_xla_dump(folder: str | Path, module: str = "") -> XlaMemory:
    """Reads the temporaries of a program from what XLA wrote for ``--xla_dump_to``.

    Args:
      folder: the folder, with dumps as text (``--xla_dump_hlo_as_text``).
      module: part of the file names, where the folder holds several programs.

    Returns:
      The temporaries.

    Raises:
      FileNotFoundError: no buffer assignment or live ranges in the folder.
      ValueError: several programs match, a line is not understood, a value has no live range, or
        the values do not fill the temporaries that the compiler allocated.
    """
    buffers = _one(folder, module, _BUFFERS)
    ranges = _live_ranges(_read(_one(folder, module, _RANGES)))
    program = Path(str(buffers).removesuffix(_BUFFERS) + _PROGRAM)
    operations = _operations(_read(program)) if program.exists() else {}
    rows, temp_size = _temporaries(_read(buffers))
    lives = []
    for row in rows:
        key = row["name"], row["index"] or "{}"
        if key not in ranges:
            raise ValueError(f"{buffers.name}: value {''.join(key)} has no live range.")
        lives.append(ranges[key])
    first, last = (np.array([life[side] for life in lives], np.int64) for side in (0, 1))
    memory = XlaMemory(
        id=np.array(
            [
                f"{row['id']} {row['name']}{row['index'] or ''}{row['phi'] or ''} {row['shape']}"[
                    :_LONGEST
                ]
                for row in rows
            ],
            np.str_,
        ),
        operation=np.array([operations.get(row["name"], "")[:_LONGEST] for row in rows], np.str_),
        size=np.array([row["size"] for row in rows], np.int64),
        offset=np.array([row["offset"] for row in rows], np.int64),
        first=first,
        last=last,
        phi=np.array([row["phi"] is not None for row in rows], bool),
        temp_size=temp_size,
    )
    top = int((memory.offset + memory.size).max(initial=0))
    if top != temp_size:
        raise ValueError(
            f"{buffers.name}: the values end at byte {top}, the temporaries at {temp_size}."
        )
    return memory


def _one(folder: str | Path, module: str, suffix: str) -> Path:
    found = sorted(
        path
        for path in Path(folder).iterdir()
        if path.name.endswith(suffix) and module in path.name
    )
    if not found:
        name = f"*{module}*{suffix}" if module else f"*{suffix}"
        raise FileNotFoundError(f"no {name} in {folder}; dump with --xla_dump_to.")
    if len(found) > 1:
        names = ", ".join(path.name.removesuffix(suffix) for path in found[:5])
        raise ValueError(f"{folder} holds {len(found)} programs ({names}, ...); name one.")
    return found[0]


def _read(path: Path) -> str:
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path.name} is larger than {_MAX_BYTES} bytes.")
    return path.read_text(encoding="utf-8")


def _live_ranges(text: str) -> dict[tuple[str, str], tuple[int, int]]:
    return {
        (match["name"], match["index"]): (_number(match["start"]), _number(match["end"]))
        for line in text.partition("BufferLiveRange:")[2].splitlines()
        if (match := _RANGE.match(line))
    }


def _operations(text: str) -> dict[str, str]:
    """The jax operation of every instruction, ``%name = ... metadata={... op_name="..."}``."""
    found = {}
    for line in text.splitlines():
        name, _, made = line.partition(" = ")
        _, _, metadata = made.rpartition("metadata={")
        operation, closed, _ = metadata.partition('op_name="')[2].partition('"')
        if closed:
            found[name.strip().removeprefix("ROOT ").removeprefix("%")] = operation
    return found


def _temporaries(text: str) -> tuple[list[dict[str, Any]], int]:
    """Every value in temporary memory, and the bytes of the temporaries.

    Several temporary allocations are laid one behind the other.
    """
    rows: list[dict[str, Any]] = []
    total = 0
    base: int | None = None
    for line in text.splitlines():
        if allocation := _ALLOCATION.match(line):
            base = None
            if allocation["kind"].endswith("preallocated-temp"):
                base, total = total, total + _number(allocation["size"])
        elif line.startswith(" value:"):
            value = _VALUE.match(line)
            if value is None:
                raise ValueError(f"buffer assignment: cannot read the line {line!r}.")
            if base is not None:
                placed = {"size": _number(value["size"]), "offset": base + _number(value["offset"])}
                rows.append({**value.groupdict(), **placed})
    return rows, total


def _number(digits: str) -> int:
    if len(digits) > 18:
        raise ValueError(f"the dump holds the number {digits[:20]}..., more than any memory has.")
    return int(digits)
