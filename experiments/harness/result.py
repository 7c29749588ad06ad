"""What a run hands back: values for its claims, tables, notes and facts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from experiments.harness.plain import Plain, numbers, plain, show

Kind = Literal["exact", "deterministic", "timed"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Unavailable(Exception):
    """Something a run needs (an asset, hardware, a peer library) is not here.

    Raised out of ``run``, it makes every claim of the experiment ``not run here`` with the
    message as the reason; it is no failure. Catch it to do without, and put ``Missing(reason)``
    in place of the values that needed it.
    """


@dataclass(frozen=True)
class Value:
    """What was measured for one claim, in the claim's unit.

    Attributes:
      value: a number, bool or string, or a list or dict of them; arrays are converted.
      kind: ``exact`` (the same everywhere), ``deterministic`` (the same up to rounding) or
        ``timed`` (differs from run to run).
      tolerance: how far a deterministic number may move between machines, in the claim's unit.
      spread: lowest and highest of the repeated measurements that ``value`` sums up.

    Example:
      >>> print(Value(2.31, kind="timed", spread=(2.2, 2.44)))
      2.31 (2.2 to 2.44)
    """

    value: Plain
    kind: Kind = "exact"
    tolerance: float = 0.0
    spread: tuple[float, float] | None = None

    def __post_init__(self):
        object.__setattr__(self, "value", plain(self.value))
        if self.value is None:
            raise TypeError("value is None: use Missing(reason) when there is no value")
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r} is not one of {', '.join(KINDS)}")
        object.__setattr__(self, "tolerance", _number("tolerance", self.tolerance))
        if not 0 <= self.tolerance < math.inf:
            raise ValueError(f"tolerance={self.tolerance} is not a finite distance")
        if self.tolerance and self.kind != "deterministic":
            raise ValueError(
                f"tolerance={self.tolerance} means nothing for a value of kind {self.kind!r}: "
                "use kind='deterministic'"
            )
        if self.spread is not None:
            spread = plain(self.spread, "spread")
            if not isinstance(spread, list) or len(spread) != 2:
                raise TypeError(f"spread={self.spread!r} is not a pair (lowest, highest)")
            low, high = (_number("spread", bound) for bound in spread)
            if low > high:
                raise ValueError(f"spread={self.spread!r}: the lowest comes first")
            object.__setattr__(self, "spread", (low, high))

    def show(self, unit: str = "") -> str:
        """Print the value with its unit and spread."""
        if self.spread is None:
            return show(self.value, unit)
        low, high = self.spread
        return f"{show(self.value, unit)} ({show(low)} to {show(high)})"

    def __str__(self) -> str:
        return self.show()


@dataclass(frozen=True)
class Missing:
    """Stands for a value that could not be measured here, with the reason."""

    reason: str

    def __post_init__(self):
        if not isinstance(self.reason, str) or not self.reason.strip():
            raise ValueError(f"reason={self.reason!r}: say what is missing and how to get it")


@dataclass(frozen=True)
class Table:
    """A table of the report.

    Attributes:
      title: its heading.
      columns: names of the columns, with units.
      rows: as many cells a row as there are columns; numbers, bools, strings or None.
      caption: a sentence under it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Plain, ...], ...]
    caption: str = ""

    def __post_init__(self):
        object.__setattr__(self, "columns", tuple(self.columns))
        object.__setattr__(
            self, "rows", tuple(tuple(plain(list(row), self.title)) for row in self.rows)
        )
        for index, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.title!r}: row {index} has {len(row)} cells for "
                    f"{len(self.columns)} columns"
                )


@dataclass(frozen=True)
class Result:
    """Everything one run found out.

    Attributes:
      values: a `Value` or `Missing` by claim id, for every claim the preset decides.
      tables: shown in the report in this order.
      notes: sentences for the report: what was surprising, why a claim failed.
      facts: further plain numbers by name, for figures and for the reader.

    Example:
      >>> result = Result(values={"speed": Value(2.4, "timed"), "peer": Missing("needs a GPU")})
      >>> result["speed"], result["peer"]
      (2.4, None)
    """

    values: Mapping[str, Value | Missing]
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Plain] = field(default_factory=dict)

    def __post_init__(self):
        for key, value in self.values.items():
            if not isinstance(value, Value | Missing):
                raise TypeError(
                    f"values[{key!r}] is a {type(value).__name__}: wrap it in Value(...), "
                    "or say Missing(reason)"
                )
        if isinstance(self.notes, str):
            raise TypeError("notes is one string: give a tuple of sentences")
        object.__setattr__(self, "values", dict(self.values))
        object.__setattr__(self, "tables", tuple(self.tables))
        object.__setattr__(self, "notes", tuple(self.notes))
        object.__setattr__(self, "facts", plain(self.facts, "facts"))

    def __getitem__(self, claim_id: str) -> Plain | None:
        """The plain value for a claim; None when it is missing (for figures)."""
        value = self.values.get(claim_id)
        return value.value if isinstance(value, Value) else None


def differs(new: Value, old: Value) -> str | None:
    """Say how a value differs from an earlier one, beyond the earlier one's tolerance.

    Args:
      new: the value of now.
      old: the committed value; of kind exact or deterministic.

    Returns:
      None when they agree, else the difference in words.
    """
    if new.kind != old.kind:
        return f"is {new.kind} now, was {old.kind}"
    if _shape(new.value) != _shape(old.value):
        return f"is {show(new.value)} now, was {show(old.value)}"
    for now, then in zip(numbers(new.value), numbers(old.value), strict=True):
        same = now == then or (math.isnan(now) and math.isnan(then))
        if not same and not abs(now - then) <= old.tolerance:
            return f"holds {now!r} now, was {then!r} (tolerance {old.tolerance!r})"
    return None


def _shape(value: Plain) -> Any:
    """The value with its ints and floats blanked: bools, strings and structure remain."""
    if isinstance(value, dict):
        return {key: _shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shape(item) for item in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return 0
    return (type(value).__name__, value)


def _number(name: str, value: Any) -> float:
    number = plain(value, name)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise TypeError(f"{name}={value!r} is not a number")
    return float(number)
