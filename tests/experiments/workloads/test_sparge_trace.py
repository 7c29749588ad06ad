"""The synthetic trace has the statistics it claims, and a check that can fail."""

import numpy as np
import pytest
from scipy.stats import rankdata

from experiments.workloads.sparge_trace import (
    BLOCKS,
    balance,
    check,
    sparge_trace,
    statistics,
    step_correlation,
)


@pytest.mark.parametrize("seed", [21, 22])
def test_a_trace_passes_its_check(seed):
    trace = sparge_trace(seed)
    assert trace.shape == (30, 40, 40)
    assert 0.008 * BLOCKS - 1 <= trace.min() <= trace.max() <= BLOCKS
    assert [one.name for one in statistics(trace) if not one.holds] == []
    assert [one.name for one in check(trace) if not one.holds] == []


def test_seeds_are_different_runs():
    assert np.array_equal(sparge_trace(3), sparge_trace(3))
    one, other = sparge_trace(3), sparge_trace(4)
    assert abs(np.corrcoef(one[5].ravel(), other[5].ravel())[0, 1]) < 0.1


def test_heads_at_random_pass_neither():
    rng = np.random.default_rng(0)
    uniform = rng.integers(0, BLOCKS, (30, 40, 40))
    assert {one.name for one in statistics(uniform) if not one.holds} >= {
        "density, step 24",
        "correlation, steps 0 and 1",
    }
    even = np.full((2, 3, 40), 7)
    assert [one.holds for one in check(even)] == [False, False, False]


def test_densities_have_the_correlations_published():
    process = step_correlation()
    np.testing.assert_allclose(np.diag(process), 1)
    assert np.linalg.eigvalsh(process).min() > -1e-9
    traces = [{one.name: one.found for one in statistics(sparge_trace(seed))} for seed in range(4)]
    for steps, published, tolerance in (
        ("0 and 1", 0.89, 0.006),
        ("1 and 2", 0.98, 0.003),
        ("28 and 29", 0.88, 0.008),
        ("0 and 15", 0.68, 0.03),
    ):
        found = np.mean([trace[f"correlation, steps {steps}"] for trace in traces])
        assert found == pytest.approx(published, abs=tolerance), steps


def test_layers_stay_themselves_and_heads_are_exchangeable():
    trace = sparge_trace(6)
    ranks = rankdata(trace.mean(0), axis=1)
    assert abs(np.corrcoef(ranks.mean(0), np.arange(40))[0, 1]) < 0.4
    middle = np.corrcoef(trace[8].mean(1), trace[20].mean(1))[0, 1]
    assert middle > 0.8


def test_groups_worked_by_hand():
    weights = np.array([5, 9, 1, 7, 3, 8])
    found = balance(weights[None, None], groups=2)
    assert {name: ratio.item() for name, ratio in found.items()} == {
        "none": 18 / 16.5,
        "snake": 17 / 16.5,  # 9 + 5 + 3 beside 8 + 7 + 1
        "greedy": 17 / 16.5,
    }
