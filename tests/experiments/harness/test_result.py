import math

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.harness import Missing, Result, Table, Value
from experiments.harness.plain import from_json, plain, show, to_json
from experiments.harness.result import differs


def test_arrays_become_plain_numbers():
    value = Value({"a": np.float32(0.5), "b": jnp.arange(3), "c": (True, np.bool_(False))})
    assert value.value == {"a": 0.5, "b": [0, 1, 2], "c": [True, False]}
    assert type(value.value["c"][1]) is bool
    assert type(Value(np.int64(3)).value) is int


@pytest.mark.parametrize("value", [{1: 2}, {"a": object()}, [b"x"], {1, 2}, 10**400])
def test_what_cannot_be_stored_is_refused(value):
    with pytest.raises(TypeError, match="value"):
        Value(value)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"value": None}, TypeError),
        ({"value": 1, "kind": "guess"}, ValueError),
        ({"value": 1, "kind": "deterministic", "tolerance": -1}, ValueError),
        ({"value": 1, "kind": "deterministic", "tolerance": math.nan}, ValueError),
        ({"value": 1, "kind": "exact", "tolerance": 0.1}, ValueError),
        ({"value": 1, "kind": "timed", "spread": (2, 1)}, ValueError),
        ({"value": 1, "kind": "timed", "spread": 0.1}, TypeError),
    ],
)
def test_inconsistent_values_are_refused(arguments, error):
    with pytest.raises(error):
        Value(**arguments)


def test_results_are_checked_when_made():
    with pytest.raises(TypeError, match="Value"):
        Result(values={"a": 1.0})
    with pytest.raises(TypeError, match="tuple"):
        Result(values={}, notes="one sentence")
    with pytest.raises(ValueError, match="row 1 has 1 cells for 2"):
        Table("t", ("a", "b"), ((1, 2), (3,)))
    with pytest.raises(ValueError, match="say what"):
        Missing(" ")


def test_result_gives_plain_values_by_claim():
    result = Result(values={"a": Value(np.float64(2)), "b": Missing("gone")})
    assert result["a"] == 2.0
    assert result["b"] is None


@pytest.mark.parametrize(
    ("new", "agrees"),
    [
        (Value([1.0, 2.0], "deterministic"), True),
        (Value([1.05, 1.95], "deterministic"), True),
        (Value([1.0, 2.2], "deterministic"), False),
        (Value([1.0, math.nan], "deterministic"), False),
        (Value([1.0], "deterministic"), False),
        (Value([1.0, 2.0, 2.0], "deterministic"), False),
        (Value([True, 2.0], "deterministic"), False),
        (Value({"a": 1.0}, "deterministic"), False),
        (Value([1.0, 2.0], "timed"), False),
    ],
)
def test_difference_beyond_the_tolerance(new, agrees):
    old = Value([1.0, 2.0], "deterministic", tolerance=0.1)
    assert (differs(new, old) is None) is agrees


def test_the_new_tolerance_does_not_excuse_a_change():
    new = Value(2.0, "deterministic", tolerance=10.0)
    assert differs(new, Value(1.0, "deterministic", tolerance=0.1))


def test_exact_values_may_not_move_at_all():
    assert differs(Value("a"), Value("b"))
    assert differs(Value(1.0 + 1e-15), Value(1.0))
    assert differs(Value(False), Value(True))
    assert differs(Value(math.nan), Value(math.nan)) is None


def test_what_is_not_finite_survives_json():
    value = {"a": [math.inf, -math.inf, 1.5, "text"], "b": math.nan}
    back = from_json(to_json(plain(value)))
    assert back["a"] == value["a"]
    assert math.isnan(back["b"])


def test_numbers_are_shown_with_four_digits():
    cases = {12345.6: "12346", 0.00012345: "0.0001234", -2.0: "-2", 1e20: "1e+20", 123456: "123456"}
    assert {value: show(value) for value in cases} == cases
    assert show(math.nan) == "nan"
    assert show({"a": [1, [2, 3]]}, "s") == "a: 1, [2, 3] s"
