"""Critical path against loops written out."""

import inspect

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.measure import critical_path


def test_by_hand() -> None:
    # Three steps on two ranks: the slowest take 4, 3 and 5.
    path = critical_path(np.array([[4, 1], [3, 3], [0, 5]]))
    assert path.seconds == 12.0
    assert path.balanced == 8.0  # 16 units over two ranks
    assert path.busiest == 9.0  # rank 1: 1 + 3 + 5
    assert path.imbalance == 1.5
    assert path.rank.tolist() == [0, 0, 1]


@hypothesis.given(
    hnp.arrays(
        np.float64,
        hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=5),
        elements=st.floats(0, 1e6),
    )
)
def test_equals_loops_and_keeps_its_bounds(times: np.ndarray) -> None:
    path = critical_path(times)
    for batch in np.ndindex(times.shape[:-2]):
        table = times[batch].tolist()
        slowest = sum(max(step) for step in table)
        np.testing.assert_allclose(path.seconds[batch], slowest)
        totals = [sum(step[rank] for step in table) for rank in range(len(table[0]))]
        np.testing.assert_allclose(path.busiest[batch], max(totals))
        np.testing.assert_allclose(path.balanced[batch], sum(totals) / len(totals))
        assert path.rank[batch].tolist() == [step.index(max(step)) for step in table]
    slack = 1 + 1e-12
    assert (path.balanced <= path.busiest * slack).all()
    assert (path.busiest <= path.seconds * slack).all()
    assert (path.imbalance * slack >= 1).all()


def test_degenerate() -> None:
    assert critical_path(np.zeros((3, 2))).imbalance == 1.0
    empty = critical_path(np.zeros((2, 0, 4)))
    assert empty.seconds.tolist() == [0.0, 0.0]
    assert empty.rank.shape == (2, 0)
    assert critical_path(jnp.ones((2, 3), jnp.float32)).seconds == 2.0


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"shape \(3, 0\).* at least one rank"):
        critical_path(np.zeros((3, 0)))
    with pytest.raises(ValueError, match=r"step_times\[1, 0, 2\] is nan"):
        critical_path(np.array([[[1.0, 1, 1]], [[1, 1, np.nan]]]))
    with pytest.raises(ValueError, match=r"step_times\[0, 1\] is -1.0"):
        critical_path(np.array([[2, -1]]))


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ("13", "step_times must be real numbers, got <U2"),
        (np.ones((2, 2), complex), "step_times must be real numbers, got complex128"),
        ([["1", "2"]], "step_times must be real numbers, got <U1"),
    ],
)
def test_input_of_the_wrong_kind(times, message) -> None:
    with pytest.raises(TypeError, match=message):
        inspect.unwrap(critical_path)(times)


def test_traced_input() -> None:
    with pytest.raises(TypeError, match="step_times must be concrete, got a traced array"):
        jax.jit(lambda times: inspect.unwrap(critical_path)(times).seconds)(jnp.ones((2, 2)))
