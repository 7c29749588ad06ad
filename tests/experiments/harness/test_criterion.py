import math

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from experiments.harness import all_of, at_least, at_most, between, each, equals, holds, within

numbers = st.integers(-8, 8).map(lambda n: n / 4)  # exact in binary, so that edges are met


def reading(text):
    """What the printed words mean to a reader, evaluated independently of the predicate."""
    words = text.split()
    if words[0] == "at":
        bound = float(words[2])
        return (lambda v: v >= bound) if words[1] == "least" else (lambda v: v <= bound)
    if words[0] == "between":
        return lambda v: float(words[1]) <= v <= float(words[3])
    if words[0] == "within":
        return lambda v: float(words[3]) - float(words[1]) <= v <= float(words[3]) + float(words[1])
    assert words[:2] == ["equal", "to"]
    return lambda v: v == float(words[2])


@given(numbers, numbers, numbers)
@example(0.5, 0.25, 0.75)
@example(0.5, 0.25, 0.25)
@example(-1.0, 2.0, -1.0)
def test_words_and_predicate_agree(a, b, value):
    low, high = sorted((a, b))
    criteria = (at_least(a), at_most(a), between(low, high), within(a, abs(b)), equals(a))
    for criterion in criteria:
        assert criterion.accepts(value) is reading(str(criterion))(value), criterion


def test_words_lose_no_digit():
    assert str(at_least(1 / 3)) == f"at least {1 / 3!r}"
    assert str(within(1e-9, 2.5)) == "within 2.5 of 1e-09"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_satisfies_nothing(value):
    for criterion in (at_least(-1), at_most(1), within(0, 1), between(-1, 1), equals(0)):
        assert not criterion.accepts(value)
        assert not each(criterion).accepts([0.0, value])
    assert not equals([1, 2]).accepts([1, value])


def test_each_looks_at_every_entry_and_needs_one():
    rising = each(at_least(2))
    assert rising.accepts([2, 3.5])
    assert rising.accepts({"a": 2, "b": 9})
    assert not rising.accepts([5, 1, 5])
    assert not rising.accepts({"a": 5, "b": 1})
    assert not rising.accepts([])
    assert str(rising) == "each at least 2"


def test_all_of_joins_words_and_predicates():
    both = all_of(at_least(1), at_most(2))
    assert [both.accepts(v) for v in (0.5, 1, 2, 2.5)] == [False, True, True, False]
    assert str(both) == "at least 1 and at most 2"
    with pytest.raises(ValueError, match="two criteria"):
        all_of(at_least(1))


def test_equals_tells_bools_from_numbers():
    assert equals(1).accepts(1.0)
    assert not equals(1).accepts(True)
    assert not equals([True, 2]).accepts([1, 2])
    assert equals({"a": [1, "x"]}).accepts({"a": [1, "x"]})
    assert not equals({"a": 1}).accepts({"a": 1, "b": 1})
    assert not equals([1, 2]).accepts([1])


def test_holds_is_about_bools():
    assert holds().accepts(True)
    assert not holds().accepts(False)
    with pytest.raises(TypeError, match="bool"):
        holds().accepts(1)


@pytest.mark.parametrize("value", [True, "3", [3.0], {"a": 3}])
def test_a_value_of_the_wrong_kind_is_an_error(value):
    with pytest.raises(TypeError, match="each"):
        at_least(1).accepts(value)
    with pytest.raises(TypeError, match="list or a dict"):
        each(at_least(1)).accepts(3)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: at_least(math.nan), ValueError),
        (lambda: at_most(math.inf), ValueError),
        (lambda: between(2, 1), ValueError),
        (lambda: within(1, -0.1), ValueError),
        (lambda: equals(math.nan), ValueError),
        (lambda: at_least("2"), TypeError),
        (lambda: at_least(True), TypeError),
    ],
)
def test_useless_criteria_are_refused(make, error):
    with pytest.raises(error):
        make()
