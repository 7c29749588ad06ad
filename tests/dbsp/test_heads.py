"""Heads into groups: against the integer program's optimum, against the host, in closed form."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from jaxlab.dbsp import device_imbalance_ratio, head_groups, imbalance_ratio, plan, work_table

# quantiles of the density of a head over layers and steps, as published counts have them
QUANTILES = ((0, 5, 25, 50, 75, 95, 100), (0.008, 0.026, 0.188, 0.391, 0.627, 0.862, 1.0))


def drawn_counts(rng, heads=40, blocks=65_536):
    return (np.interp(rng.uniform(0, 100, heads), *QUANTILES) * blocks).astype(np.int64)


def ratio(weights, chosen):
    return weights[chosen].sum(1).max() * len(chosen) / weights.sum()


def optimum(weights, groups):
    """The least possible load of the heaviest group, by HiGHS."""
    heads = len(weights)
    heaviest = np.append(np.zeros(heads * groups), 1)
    placed = np.append(np.kron(np.eye(heads), np.ones(groups)), np.zeros((heads, 1)), 1)
    sizes = np.append(np.kron(np.ones(heads), np.eye(groups)), np.zeros((groups, 1)), 1)
    loads = np.append(np.kron(weights, np.eye(groups)), -np.ones((groups, 1)), 1)
    found = optimize.milp(
        heaviest,
        integrality=np.append(np.ones(heads * groups), 0),
        bounds=optimize.Bounds(0, np.append(np.ones(heads * groups), np.inf)),
        constraints=[
            optimize.LinearConstraint(placed, 1, 1),
            optimize.LinearConstraint(sizes, heads // groups, heads // groups),
            optimize.LinearConstraint(loads, -np.inf, 0),
        ],
        options={"time_limit": 20, "mip_rel_gap": 1e-6},
    )
    return found.mip_dual_bound, found.fun


def test_refined_heads_reach_the_optimum_of_the_integer_program():
    rng = np.random.default_rng(1)
    for heads, groups in ((8, 2), (9, 3), (10, 5)):
        weights = drawn_counts(rng, heads, blocks=200)
        bound, best = optimum(weights, groups)
        chosen = head_groups(weights, groups, method="refined")
        assert bound <= weights[chosen].sum(1).max() + 1e-6
        assert weights[chosen].sum(1).max() <= best * 1.01


@pytest.mark.slow
def test_refined_heads_are_near_the_optimum_at_full_size():
    rng = np.random.default_rng(2)
    for _ in range(3):
        weights = drawn_counts(rng)
        bound, _ = optimum(weights, 8)
        heaviest = weights[head_groups(weights, 8, method="refined")].sum(1).max()
        assert bound - 1e-6 <= heaviest <= 1.006 * bound


def test_order_of_the_methods_on_measured_densities():
    rng = np.random.default_rng(1000)
    means = {method: [] for method in ("none", "snake", "greedy", "refined")}
    for _ in range(40):
        weights = drawn_counts(rng)
        for method, ratios in means.items():
            ratios.append(ratio(weights, head_groups(weights, 8, method=method)))
        assert means["refined"][-1] <= means["greedy"][-1]
    none, snake, greedy, refined = (np.mean(ratios) for ratios in means.values())
    assert none > 1.2
    assert none > snake > greedy > refined
    assert refined <= 1.006


@given(
    weights=st.lists(st.integers(0, 9), min_size=12, max_size=12),
    groups=st.sampled_from([1, 2, 3, 4, 6, 12]),
    method=st.sampled_from(["none", "snake", "greedy", "refined"]),
)
@settings(max_examples=60, deadline=None)
def test_every_method_places_every_head_once(weights, groups, method):
    weights = np.array(weights)
    chosen = head_groups(weights, groups, method=method)
    assert chosen.shape == (groups, 12 // groups)
    np.testing.assert_array_equal(np.sort(chosen.reshape(-1)), np.arange(12))


def test_snake_deals_back_and_forth():
    weights = np.array([1, 6, 5, 2, 4, 3])
    np.testing.assert_array_equal(head_groups(weights, 2, method="snake"), [[1, 5, 3], [2, 4, 0]])


def test_the_traced_greedy_is_the_host_greedy():
    """On ten thousand vectors of counts, most of them with ties."""
    rng = np.random.default_rng(3)
    drawn = 0
    for groups in (1, 2, 4, 8):
        traced = jax.jit(jax.vmap(functools.partial(head_groups, groups=groups)))
        for top in (1, 3, 50, 10**6):
            weights = rng.integers(0, top + 1, (640, 40))
            drawn += len(weights)
            host = [head_groups(one, groups) for one in weights]
            np.testing.assert_array_equal(traced(jnp.asarray(weights, jnp.int32)), host)
    assert drawn >= 10**4


def test_narrow_counts_do_not_wrap():
    weights = np.array([100, 100, 50, 50, 25, 25, 5, 5])
    np.testing.assert_array_equal(
        head_groups(jnp.asarray(weights, jnp.int8), 2), head_groups(weights, 2)
    )


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 8), (3, 2, 2), (2, 5, 5)])
@pytest.mark.parametrize("exact", [imbalance_ratio, device_imbalance_ratio])
def test_traced_ratios_are_the_ratios_of_the_host(shape, exact):
    rng = np.random.default_rng(sum(shape))
    for top in (1, 3, 50, 10**6):
        work = rng.integers(0, top + 1, (40, *shape))
        found = jax.jit(jax.vmap(exact))(jnp.asarray(work, jnp.int32))
        expected = [np.float32(exact(one)) for one in work]
        tolerance = 0 if work.sum((1, 2, 3)).max() * shape[0] * shape[1] < 2**24 else 3e-7
        np.testing.assert_allclose(found, expected, rtol=tolerance)


def test_seeds_decide_the_refinement():
    weights = drawn_counts(np.random.default_rng(4))
    one, again, other = (head_groups(weights, 8, method="refined", seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_heads_of_one_kv_group_stay_together():
    rng = np.random.default_rng(5)
    mask = rng.random((12, 6, 6)) < rng.random((12, 1, 1))
    placed = plan(mask, ulysses=2, ring=1, kv_heads=3)
    assert placed.head_perm.size == 16  # three KV groups of four, padded to four groups
    np.testing.assert_array_equal(placed.head_perm.reshape(4, 4) % 4, np.tile(np.arange(4), (4, 1)))
    assert work_table(mask, placed).sum() == mask.sum()


def test_refined_heads_see_the_ring():
    """Totals are equal, so only the tiles tell which heads belong together."""
    mask = np.zeros((4, 4, 4), bool)
    mask[0, 0, :2] = mask[1, 0, :2] = True  # both wait for the first shard in the first step
    mask[2, 2, 2:] = mask[3, 2, 2:] = True
    placed = plan(mask, ulysses=2, ring=2, heads="refined", blocks="none")
    assert imbalance_ratio(work_table(mask, placed)) == 1
    together = plan(mask, ulysses=2, ring=2, heads="none", blocks="none")
    assert imbalance_ratio(work_table(mask, together)) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: head_groups(jnp.arange(4), 2, method="snake"), "'greedy' only"),
        (lambda: inspect.unwrap(head_groups)(np.arange(4), 2, method="best"), "method must be"),
        (lambda: plan(np.ones((4, 2, 2), bool), ulysses=1, ring=1, kv_heads=3), "kv_heads=3"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
