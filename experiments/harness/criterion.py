"""Criteria: what a measured value must satisfy, and the words for it, from one definition.

A criterion is built from its parameters alone; predicate and text are both derived from them,
so that what is printed is what is tested. Values that are not finite never satisfy one.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from experiments.harness.plain import Plain, numbers, plain


@dataclass(frozen=True)
class Criterion:
    """A predicate on a plain value, with its text.

    Build one with `at_least`, `at_most`, `within`, `between`, `equals` or `holds`, and combine
    them with `each` and `all_of`.

    Attributes:
      text: the words, such as ``at least 2``.
    """

    text: str
    _accepts: Callable[[Plain], bool] = field(repr=False, compare=False)

    def accepts(self, value: Plain) -> bool:
        """Say whether the value satisfies the criterion.

        Args:
          value: what was measured.

        Returns:
          False for anything that holds a NaN or an infinity, else the predicate's answer.

        Raises:
          TypeError: when the value is not of the kind that the criterion is about.
        """
        if not all(math.isfinite(number) for number in numbers(value)):
            return False
        return self._accepts(value)

    def __str__(self) -> str:
        return self.text


def at_least(bound: float) -> Criterion:
    """Accept numbers greater than or equal to the bound.

    Example:
      >>> print(at_least(2)), at_least(2).accepts(1.99)
      at least 2
      (None, False)
    """
    bound = _finite("bound", bound)
    return Criterion(f"at least {bound!r}", lambda value: _number(value) >= bound)


def at_most(bound: float) -> Criterion:
    """Accept numbers smaller than or equal to the bound."""
    bound = _finite("bound", bound)
    return Criterion(f"at most {bound!r}", lambda value: _number(value) <= bound)


def between(low: float, high: float) -> Criterion:
    """Accept numbers from low to high, both included."""
    low, high = _finite("low", low), _finite("high", high)
    if low > high:
        raise ValueError(f"low={low} is greater than high={high}: swap them")
    return Criterion(f"between {low!r} and {high!r}", lambda value: low <= _number(value) <= high)


def within(center: float, tolerance: float) -> Criterion:
    """Accept numbers no further than tolerance (in the value's own unit) from the center."""
    center, tolerance = _finite("center", center), _finite("tolerance", tolerance)
    if tolerance < 0:
        raise ValueError(f"tolerance={tolerance} is negative: give a distance")
    return Criterion(
        f"within {tolerance!r} of {center!r}",
        lambda value: abs(_number(value) - center) <= tolerance,
    )


def equals(expected: Plain) -> Criterion:
    """Accept exactly the expected number, string, bool, list or dict (1 and True differ)."""
    expected = plain(expected, "expected")
    if not all(math.isfinite(number) for number in numbers(expected)):
        raise ValueError(f"expected={expected} is not finite: no value would be accepted")
    return Criterion(f"equal to {expected!r}", lambda value: _same(value, expected))


def holds() -> Criterion:
    """Accept True: for claims that are statements."""

    def accepts(value: Plain) -> bool:
        if not isinstance(value, bool):
            raise TypeError(f"the criterion 'holds' is about a bool, but the value is {value!r}")
        return value

    return Criterion("holds", accepts)


def each(criterion: Criterion) -> Criterion:
    """Accept a non-empty list or dict whose every entry satisfies the criterion."""

    def accepts(value: Plain) -> bool:
        if not isinstance(value, list | dict):
            raise TypeError(f"each(...) is about a list or a dict, but the value is {value!r}")
        entries = list(value.values()) if isinstance(value, dict) else value
        accepted = [criterion.accepts(entry) for entry in entries]
        return bool(accepted) and all(accepted)

    return Criterion(f"each {criterion.text}", accepts)


def all_of(*criteria: Criterion) -> Criterion:
    """Accept what every one of the criteria accepts."""
    if len(criteria) < 2:
        raise ValueError(f"all_of takes two criteria or more, but got {len(criteria)}")

    def accepts(value: Plain) -> bool:
        accepted = [criterion.accepts(value) for criterion in criteria]
        return all(accepted)

    return Criterion(" and ".join(criterion.text for criterion in criteria), accepts)


def _finite(name: str, value: float) -> float:
    number = plain(value, name)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise TypeError(f"{name}={value!r} is not a number")
    if not math.isfinite(number):
        raise ValueError(f"{name}={value!r} is not finite: a criterion needs a finite number")
    return number


def _number(value: Plain) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(
            f"the criterion is about a number, but the value is {value!r}: "
            "for several values wrap the criterion in each(...)"
        )
    return value


def _same(value: Plain, expected: Plain) -> bool:
    if isinstance(value, bool) or isinstance(expected, bool):
        return value is expected
    if isinstance(value, list) and isinstance(expected, list):
        return len(value) == len(expected) and all(map(_same, value, expected))
    if isinstance(value, dict) and isinstance(expected, dict):
        return value.keys() == expected.keys() and all(
            _same(value[key], expected[key]) for key in expected
        )
    return value == expected
