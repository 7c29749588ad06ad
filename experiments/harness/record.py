"""The stored form of a run: one JSON file a preset, strict to read, atomic to write.

Committed records stand in ``experiments/results/<name>/<preset>.json``, local ones in
``runs/<name>/<preset>.json``, each with its figures beside it. A record is read as a file from
outside: bounded in size, valid JSON without NaN, every field checked.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.harness.claim import PRESETS, Preset
from experiments.harness.plain import Plain, from_json, to_json
from experiments.harness.result import Missing, Result, Table, Value
from experiments.harness.steps import write_atomically

FORMAT = 1
MAX_BYTES = 4 * 2**20

_FIGURE = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


class RecordError(ValueError):
    """A stored result cannot be used; the message names the file and what is wrong."""


@dataclass(frozen=True)
class Record:
    """One run with everything a reader needs to judge it.

    Attributes:
      experiment: its name.
      preset: the preset it ran at.
      config: fields of the config as plain values.
      started: UTC date and time, ISO 8601.
      seconds: wall time, with the time of steps kept from an interrupted run.
      environment: the machine and the library versions.
      criteria: text of each claim's criterion as it stood at the run.
      result: what came out.
      figures: names of the SVG files beside the record (``<preset>-<figure>.svg``).
    """

    experiment: str
    preset: Preset
    config: Mapping[str, Plain]
    started: str
    seconds: float
    environment: Mapping[str, str | int]
    criteria: Mapping[str, str]
    result: Result
    figures: tuple[str, ...] = ()

    def __post_init__(self):
        for name in self.figures:
            if not _FIGURE.fullmatch(name):
                raise ValueError(f"figure name {name!r}: use lower-case letters, digits, - and _")

    @property
    def machine(self) -> str:
        """One line naming the hardware and the jax version."""
        known = self.environment
        if known.get("platform") == "cpu":
            hardware = f"{known.get('cpu', 'unknown processor')}, {known.get('cores', '?')} cores"
        else:
            hardware = f"{known.get('devices', '?')} x {known.get('device', 'unknown device')}"
        return f"{hardware}, jax {known.get('jax', 'unknown')}"


def record_path(folder: Path, experiment: str, preset: Preset) -> Path:
    """Path of a record under the folder of committed or of local results."""
    return folder / experiment / f"{preset}.json"


def figure_path(folder: Path, experiment: str, preset: Preset, figure: str) -> Path:
    """Path of a figure of a record."""
    return folder / experiment / f"{preset}-{figure}.svg"


def write(record: Record, folder: Path, figures: Mapping[str, str] | None = None) -> Path:
    """Store a record with its figures, and remove figures of an earlier record.

    Args:
      record: what to store; its ``figures`` are the keys of the argument.
      folder: of committed or of local results.
      figures: SVG text by name.

    Returns:
      The path of the JSON file, which is written last: it never names an absent figure.

    Raises:
      ValueError: when the record is larger than a reader accepts.
    """
    figures = figures or {}
    if set(figures) != set(record.figures):
        raise ValueError(f"figures {sorted(figures)} are not those of the record")
    path = record_path(folder, record.experiment, record.preset)
    text = _lines(_to_json(record))
    if len(text.encode()) > MAX_BYTES:
        raise ValueError(
            f"the record of {record.experiment} has {len(text.encode())} bytes, more than "
            f"{MAX_BYTES}: keep raw data out of facts and tables"
        )
    for name, svg in figures.items():
        write_atomically(figure_path(folder, record.experiment, record.preset, name), svg)
    write_atomically(path, text)
    wanted = {figure_path(folder, record.experiment, record.preset, name) for name in figures}
    for old in path.parent.glob(f"{record.preset}-*.svg"):
        if old not in wanted:
            old.unlink()
    return path


def read(folder: Path, experiment: str, preset: Preset) -> Record | None:
    """Load a record; None when there is none.

    Args:
      folder: of committed or of local results.
      experiment: its name.
      preset: the preset.

    Returns:
      The record.

    Raises:
      RecordError: when the file is too large, no JSON, of another format version, or has a
        field that is absent, unknown or of the wrong kind.
    """
    path = record_path(folder, experiment, preset)
    try:
        text = read_bounded(path)
    except FileNotFoundError:
        return None
    try:
        data = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_repeats)
        record = _from_json(data)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        told = f"the field {error} is absent" if isinstance(error, KeyError) else str(error)
        raise RecordError(
            f"{path} is no usable result: {told}. "
            f"Make it again with: python -m experiments run {experiment} --preset {preset}"
        ) from error
    if (record.experiment, record.preset) != (experiment, preset):
        raise RecordError(
            f"{path} holds the result of {record.experiment} at preset {record.preset}: "
            "it was moved or renamed"
        )
    return record


def read_bounded(path: Path) -> str:
    """Read a UTF-8 text file of at most `MAX_BYTES`, without reading more.

    Raises:
      RecordError: when it is larger or not UTF-8.
      FileNotFoundError: when there is none.
    """
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise RecordError(f"{path} is larger than {MAX_BYTES} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(f"{path} is not UTF-8 text: {error}") from error


def _lines(fields: dict[str, Any]) -> str:
    """JSON with a line for each entry of the top-level objects and lists: it makes good diffs."""

    def compact(value: Any) -> str:
        return json.dumps(value, allow_nan=False, ensure_ascii=False)

    def block(value: Any) -> str:
        if isinstance(value, dict) and value:
            entries = [f"{compact(key)}: {compact(item)}" for key, item in value.items()]
            return "{\n  " + ",\n  ".join(entries) + "\n }"
        if isinstance(value, list) and value:
            return "[\n  " + ",\n  ".join(map(compact, value)) + "\n ]"
        return compact(value)

    return "{\n " + ",\n ".join(f"{compact(k)}: {block(v)}" for k, v in fields.items()) + "\n}\n"


def _to_json(record: Record) -> dict[str, Any]:
    result = record.result
    return {
        "format": FORMAT,
        "experiment": record.experiment,
        "preset": record.preset,
        "config": to_json(dict(record.config)),
        "started": record.started,
        "seconds": record.seconds,
        "environment": dict(record.environment),
        "criteria": dict(record.criteria),
        "values": {key: _value_to_json(value) for key, value in result.values.items()},
        "tables": [
            {
                "title": table.title,
                "columns": list(table.columns),
                "rows": to_json([list(row) for row in table.rows]),
                "caption": table.caption,
            }
            for table in result.tables
        ],
        "notes": list(result.notes),
        "facts": to_json(dict(result.facts)),
        "figures": list(record.figures),
    }


def _value_to_json(value: Value | Missing) -> dict[str, Any]:
    if isinstance(value, Missing):
        return {"missing": value.reason}
    return {
        "value": to_json(value.value),
        "kind": value.kind,
        "tolerance": value.tolerance,
        "spread": None if value.spread is None else to_json(list(value.spread)),
    }


def _from_json(data: Any) -> Record:
    fields = _object(data, "the file")
    if fields.get("format") != FORMAT:
        raise ValueError(f"format is {fields.get('format')!r}, but this version reads {FORMAT}")
    known = {"format", "experiment", "preset", "config", "started", "seconds", "environment"}
    known |= {"criteria", "values", "tables", "notes", "facts", "figures"}
    _only(fields, known, "the file")
    if fields["preset"] not in PRESETS:
        raise ValueError(f"preset is {fields['preset']!r}, not one of {', '.join(PRESETS)}")
    environment = _object(fields["environment"], "environment")
    for key, value in environment.items():
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise TypeError(f"environment[{key!r}] is {value!r}, not a string or an integer")
    criteria = _object(fields["criteria"], "criteria")
    for key, value in criteria.items():
        _string(value, f"criteria[{key!r}]")
    seconds = fields["seconds"]
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError("seconds is not a number")
    if not 0 <= seconds < 1e9:
        raise ValueError(f"seconds is {seconds!r}, not a duration")
    return Record(
        experiment=_string(fields["experiment"], "experiment"),
        preset=fields["preset"],
        config=from_json(_object(fields["config"], "config")),
        started=_string(fields["started"], "started"),
        seconds=float(seconds),
        environment=environment,
        criteria=criteria,
        result=Result(
            values={
                key: _value_from_json(value, f"values[{key!r}]")
                for key, value in _object(fields["values"], "values").items()
            },
            tables=tuple(
                _table_from_json(table, f"tables[{index}]")
                for index, table in enumerate(_list(fields["tables"], "tables"))
            ),
            notes=_strings(fields["notes"], "notes"),
            facts=from_json(_object(fields["facts"], "facts")),
        ),
        figures=_strings(fields["figures"], "figures"),
    )


def _value_from_json(data: Any, what: str) -> Value | Missing:
    fields = _object(data, what)
    if "missing" in fields:
        _only(fields, {"missing"}, what)
        return Missing(fields["missing"])
    _only(fields, {"value", "kind", "tolerance", "spread"}, what)
    return Value(
        value=from_json(fields["value"]),
        kind=fields["kind"],
        tolerance=fields["tolerance"],
        spread=None if fields["spread"] is None else from_json(_list(fields["spread"], what)),
    )


def _table_from_json(data: Any, what: str) -> Table:
    fields = _object(data, what)
    _only(fields, {"title", "columns", "rows", "caption"}, what)
    return Table(
        title=_string(fields["title"], f"{what}.title"),
        columns=_strings(fields["columns"], f"{what}.columns"),
        rows=tuple(
            tuple(from_json(_list(row, f"{what}.rows")))
            for row in _list(fields["rows"], f"{what}.rows")
        ),
        caption=_string(fields["caption"], f"{what}.caption"),
    )


def _object(data: Any, what: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise TypeError(f"{what} is not an object")
    return data


def _list(data: Any, what: str) -> list[Any]:
    if not isinstance(data, list):
        raise TypeError(f"{what} is not a list")
    return data


def _string(data: Any, what: str) -> str:
    if not isinstance(data, str):
        raise TypeError(f"{what} is not a string")
    return data


def _strings(data: Any, what: str) -> tuple[str, ...]:
    return tuple(_string(item, what) for item in _list(data, what))


def _only(fields: dict[str, Any], known: set[str], what: str) -> None:
    unknown = sorted(set(fields) - known)
    if unknown:
        raise ValueError(f"{what} has the unknown field {unknown[0]!r}")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field stands twice in one object")
    return fields
