"""Traces as CSV files: our own columns, and MiniMalloc's."""

import csv
import io
import os
import pathlib
import tempfile
from collections.abc import Sequence

import numpy as np

from jaxlab.stweaver.trace import Trace

_MAX_BYTES = 1 << 30
_LONGEST = 1000  # characters of an id or a name
_COLUMNS = (
    "id",
    "size",
    "start",
    "end",
    "phase_start",
    "phase_end",
    "iteration",
    "layer_start",
    "layer_end",
    "dynamic",
    "stream",
)
_NAMED = {
    "phase_start": "phases",
    "phase_end": "phases",
    "layer_start": "layers",
    "layer_end": "layers",
}
_PERIOD = "# period "


def read_csv(path: str | os.PathLike[str]) -> Trace:
    """Reads a trace from a CSV file with a header line.

    Args:
      path: the file. Columns ``size``, ``start`` and ``end`` are needed; ``id``, ``phase_start``,
        ``phase_end``, ``layer_start``, ``layer_end`` (names, empty if unknown), ``iteration``,
        ``stream`` and ``dynamic`` (0 or 1) may be there. A first line ``# period T`` makes the
        trace periodic.

    Returns:
      The trace.

    Raises:
      ValueError: the file is too large or malformed; names the line.
    """
    header, rows, period = _read(path)
    unknown = set(header) - set(_COLUMNS)
    missing = {"size", "start", "end"} - set(header)
    if unknown or missing or len(set(header)) < len(header):
        raise ValueError(
            f"{path}: columns {header}; needs size, start and end, may have {_COLUMNS[0]} and "
            f"{', '.join(_COLUMNS[4:])}, each once."
        )
    texts = dict(zip(header, zip(*rows, strict=True) if rows else [()] * len(header), strict=True))
    columns: dict[str, object] = {}
    for field in ("phases", "layers"):
        cells = [texts[name] for name in texts if _NAMED.get(name) == field]
        names = list(
            dict.fromkeys(cell for row in zip(*cells, strict=True) for cell in row if cell)
        )
        _bounded(path, names)
        code = {name: position for position, name in enumerate(names)} | {"": -1}
        columns[field] = tuple(names)
        for name in texts:
            if _NAMED.get(name) == field:
                columns[name] = np.array([code[cell] for cell in texts[name]], np.int64)
    for name in texts:
        if name == "id":
            columns[name] = _ids(path, texts[name])
        elif name not in _NAMED:
            columns[name] = _integers(path, name, texts[name])
    if "dynamic" in columns:
        columns["dynamic"] = np.asarray(columns["dynamic"]) != 0
    return Trace.of(**columns, period=period)  # pyright: ignore[reportArgumentType]


def write_csv(path: str | os.PathLike[str], trace: Trace) -> None:
    """Writes a trace so that ``read_csv`` gives it back.

    Args:
      path: the file; it appears complete or not at all.
      trace: the trace. Names of phases or layers that no request uses are not kept.

    Raises:
      ValueError: an id or a name has more than 1,000 characters.
    """
    _bounded(path, (*trace.id.tolist(), *trace.phases, *trace.layers))
    columns = []
    for name in _COLUMNS:
        values = getattr(trace, name).tolist()
        if name in _NAMED:
            names = (*getattr(trace, _NAMED[name]), "")
            values = [names[code] for code in values]
        elif name == "dynamic":
            values = [int(value) for value in values]
        columns.append(values)
    body = io.StringIO()
    if trace.period is not None:
        body.write(f"{_PERIOD}{trace.period}\n")
    writer = csv.writer(body, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(_COLUMNS)
    writer.writerows(zip(*columns, strict=True))
    write_whole(path, body.getvalue())


def write_whole(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file that appears complete or not at all.

    Args:
      path: the file.
      text: its content.
    """
    target = pathlib.Path(path)
    content = text.encode()
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=target.name, delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.replace(file.name, target)
        except BaseException:
            os.unlink(file.name)
            raise


def read_minimalloc(path: str | os.PathLike[str]) -> Trace:
    """Reads an instance of MiniMalloc: columns ``id``, ``lower``, ``upper`` (half-open), ``size``.

    Args:
      path: the CSV file; an ``offset`` column of a solution is ignored.

    Returns:
      The trace.

    Raises:
      ValueError: the file is too large or malformed, or has columns with another meaning
        (``alignment``, ``gaps``, ``hint``); names them.

    Source: github google/minimalloc, README.
    """
    header, rows, period = _read(path)
    if set(header) - {"offset"} != {"id", "lower", "upper", "size"} or period is not None:
        raise ValueError(f"{path}: columns {header}, expected id, lower, upper, size (, offset).")
    texts = dict(zip(header, zip(*rows, strict=True) if rows else [()] * len(header), strict=True))
    return Trace.of(
        size=_integers(path, "size", texts["size"]),
        start=_integers(path, "lower", texts["lower"]),
        end=_integers(path, "upper", texts["upper"]),
        id=_ids(path, texts["id"]),
    )


def _read(path: str | os.PathLike[str]) -> tuple[list[str], list[list[str]], int | None]:
    if os.path.getsize(path) > _MAX_BYTES:
        raise ValueError(f"{path}: larger than {_MAX_BYTES} bytes; split the trace.")
    period = None
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        try:
            header = next(reader, [])
            if len(header) == 1 and header[0].startswith(_PERIOD):
                period = int(_integers(path, "period", (header[0].removeprefix(_PERIOD),))[0])
                header = next(reader, [])
            rows = [row for row in reader if row]
        except csv.Error as error:
            raise ValueError(f"{path}: line {reader.line_num}: {error}.") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: no text file: {error}.") from None
    if len(header) == 1 and ";" in header[0]:
        raise ValueError(f"{path}: cells are parted by ';'; save it with commas.")
    for number, row in enumerate(rows):
        if len(row) != len(header):
            raise ValueError(
                f"{path}: row {number} has {len(row)} cells, the header {len(header)}."
            )
    return [name.strip() for name in header], rows, period


def _ids(path: object, cells: tuple[str, ...]) -> np.ndarray:
    """Ids as an array, in which every one takes as much room as the longest."""
    _bounded(path, cells)
    return np.array(cells, np.str_)


def _bounded(path: object, texts: Sequence[str]) -> None:
    longest = max(texts, key=len, default="")
    if len(longest) > _LONGEST:
        raise ValueError(
            f"{path}: the name {longest[:40]!r}... is longer than {_LONGEST} characters."
        )


def _integers(path: object, name: str, cells: tuple[str, ...]) -> np.ndarray:
    values = np.empty(len(cells), np.int64)
    for row, cell in enumerate(cells):
        try:
            values[row] = int(cell)
        except (ValueError, OverflowError):
            raise ValueError(
                f"{path}: {name} of row {row} is {cell[:40]!r}, not an int64."
            ) from None
    return values
