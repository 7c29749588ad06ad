"""Plain values: what a result may hold, how it is written to JSON and how it is shown.

A plain value is a bool, int, float, string or None, or a list or string-keyed dict of these.
JSON has no NaN and no infinity, so the three are written as the strings ``nan``, ``inf`` and
``-inf``.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

type Plain = bool | int | float | str | list[Plain] | dict[str, Plain] | None

_LARGEST = 10**300  # integers are compared with floats, which end a little above
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def plain(value: Any, what: str = "value") -> Plain:
    """Turn NumPy and JAX scalars and arrays, tuples and mappings into plain Python.

    Args:
      value: anything made of numbers, strings, None, arrays, sequences and mappings.
      what: how errors name it.

    Returns:
      The same content as bools, ints, floats, strings, None, lists and dicts.

    Raises:
      TypeError: for anything else, naming where it stands.

    Example:
      >>> import numpy as np
      >>> plain({"a": np.float32(0.5), "b": (1, np.arange(2))})
      {'a': 0.5, 'b': [1, [0, 1]]}
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        if abs(value) > _LARGEST:
            raise TypeError(f"{what} is an integer beyond 1e300: store a float or a string")
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise TypeError(f"{what} has the key {wrong[0]!r}: use strings as keys")
        return {str(key): plain(item, f"{what}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{what}[{index}]") for index, item in enumerate(value)]
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        return plain(value.tolist(), what)
    raise TypeError(
        f"{what} is a {type(value).__name__}, which cannot be stored: "
        "use numbers, strings, None, arrays, lists or dicts of these"
    )


def numbers(value: Plain) -> Iterator[bool | int | float]:
    """Yield every number and bool inside a plain value, in order."""
    if isinstance(value, dict):
        for item in value.values():
            yield from numbers(item)
    elif isinstance(value, list):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, bool | int | float):
        yield value


def to_json(value: Plain) -> Plain:
    """Write NaN and the infinities as strings, everything else as it is."""
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value


def from_json(value: Plain) -> Plain:
    """Undo `to_json`."""
    if isinstance(value, dict):
        return {key: from_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [from_json(item) for item in value]
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value


def show(value: Plain, unit: str = "") -> str:
    """Print a value for a table: four significant digits, then the unit.

    Example:
      >>> show(0.123456, "s"), show(2.0, "x"), show([1, 2.5]), show(None), show(True)
      ('0.1235 s', '2x', '1, 2.5', '—', 'yes')
    """
    if value is None:
        return "—"
    if isinstance(value, dict):
        text = ", ".join(f"{key}: {show(item)}" for key, item in value.items())
    elif isinstance(value, list):
        text = ", ".join(f"[{show(v)}]" if isinstance(v, list) else show(v) for v in value)
    elif isinstance(value, bool):
        text = "yes" if value else "no"
    elif isinstance(value, float):
        text = f"{value:.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"
    else:
        text = str(value)
    if not unit or isinstance(value, str | bool):
        return text
    return f"{text}{unit}" if unit in ("x", "%", "°") else f"{text} {unit}"
