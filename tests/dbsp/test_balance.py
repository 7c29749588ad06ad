"""Work and imbalance against counting block by block; greedy heads against all splits."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxlab.dbsp import Plan, device_imbalance_ratio, head_groups, imbalance_ratio, work_table
from tests.oracles import balance

FACTORINGS = [(1, 1), (1, 2), (2, 1), (3, 2), (1, 5), (6, 1), (2, 4)]


def shuffled_plan(rng, heads, q_blocks, kv_blocks, ulysses, ring):
    plan = Plan.contiguous(
        heads=heads, q_blocks=q_blocks, kv_blocks=kv_blocks, ulysses=ulysses, ring=ring
    )
    return dataclasses.replace(
        plan,
        head_perm=rng.permutation(plan.head_perm),
        q_order=rng.permuted(plan.q_order, axis=1),
        kv_order=rng.permuted(plan.kv_order, axis=1),
    )


@pytest.mark.parametrize(("ulysses", "ring"), FACTORINGS)
def test_work_table_counts_every_block_where_it_lives(ulysses, ring):
    rng = np.random.default_rng(10 * ulysses + ring)
    blocks = rng.random((6, 9, 13)) < rng.random((6, 1, 1))
    plan = shuffled_plan(rng, *blocks.shape, ulysses, ring)
    work = work_table(blocks, plan)
    np.testing.assert_array_equal(work, balance.work_by_block(blocks, plan))
    assert work.sum() == blocks.sum()
    ratio = imbalance_ratio(work)
    assert ratio == pytest.approx(balance.imbalance_by_steps(work), rel=1e-12)
    assert ratio >= device_imbalance_ratio(work) >= 1
    assert float(imbalance_ratio(jnp.asarray(work, jnp.int32))) == pytest.approx(ratio, rel=1e-6)


def test_padding_heads_and_blocks_hold_no_work():
    blocks = np.ones((5, 3, 7), bool)
    plan = Plan.contiguous(heads=5, q_blocks=3, kv_blocks=7, ulysses=2, ring=2)
    assert (plan.head_perm.size, plan.q_home.size, plan.kv_home.size) == (6, 4, 8)
    np.testing.assert_array_equal(
        work_table(blocks, plan), [[[24, 18], [12, 9]], [[16, 12], [8, 6]]]
    )


def test_exchange_counts_the_blocks_between_home_and_plan():
    home, order = np.array([4, 1, 0, 5, 2, 3]), np.array([[1, 4, 2, 5, 3, 0], [4, 0, 5, 1, 3, 2]])
    plan = Plan(2, 2, np.arange(2), order, np.tile(home, (2, 1)), q_home=home, kv_home=home)
    np.testing.assert_array_equal(plan.q_exchange, [[[2, 1], [1, 2]], [[2, 1], [1, 2]]])
    np.testing.assert_array_equal(plan.kv_exchange, [3 * np.eye(2, dtype=int)] * 2)
    assert (plan.q_moved, plan.kv_moved) == (pytest.approx(1 / 3), 0)
    assert Plan.contiguous(heads=2, q_blocks=6, kv_blocks=3, ulysses=1, ring=3).q_moved == 0


def test_work_of_a_batch_adds_up():
    rng = np.random.default_rng(0)
    blocks = rng.random((3, 4, 7, 8)) < 0.4
    plan = shuffled_plan(rng, 4, 7, 8, 2, 3)
    np.testing.assert_array_equal(
        work_table(blocks, plan), sum(work_table(one, plan) for one in blocks)
    )


def contiguous_ratio(blocks, ulysses, ring):
    heads, q_blocks, kv_blocks = blocks.shape
    plan = Plan.contiguous(
        heads=heads, q_blocks=q_blocks, kv_blocks=kv_blocks, ulysses=ulysses, ring=ring
    )
    work = work_table(blocks, plan)
    return imbalance_ratio(work), device_imbalance_ratio(work)


@pytest.mark.parametrize(("ulysses", "ring"), [(1, 2), (1, 4), (1, 8), (2, 4), (8, 1)])
def test_a_dense_mask_is_balanced(ulysses, ring):
    assert contiguous_ratio(np.ones((8, 16, 16), bool), ulysses, ring) == (1, 1)


@pytest.mark.parametrize("ring", [2, 4, 8])
def test_half_the_rows_dense_takes_twice_the_time(ring):
    blocks = np.zeros((1, 16, 16), bool)
    blocks[:, 8:] = True
    assert contiguous_ratio(blocks, 1, ring) == (2, 2)


@pytest.mark.parametrize("ring", [2, 4, 8])
def test_a_checkerboard_of_tiles_has_only_busy_or_idle_steps(ring):
    tile = np.add.outer(np.arange(ring), np.arange(ring)) % 2 == 1
    assert contiguous_ratio(np.kron(tile, np.ones((2, 3), bool))[None], 1, ring) == (1, 1)


def test_the_barrier_of_every_step_counts():
    blocks = np.zeros((1, 2, 2), bool)
    blocks[0, 0, 0] = blocks[0, 1, 0] = True  # one block a device, in different steps
    assert contiguous_ratio(blocks, 1, 2) == (2, 1)


def test_dense_heads_of_the_official_example():
    dense = [0, 1, 2, 3, 4, 5, 10, 15, 20, 21, 25, 26, 30, 31, 35, 36]
    blocks = np.zeros((40, 8, 8), bool)
    blocks[dense] = True
    plan = Plan.contiguous(heads=40, q_blocks=8, kv_blocks=8, ulysses=8, ring=1)
    assert imbalance_ratio(work_table(blocks, plan)) == 2.5
    greedy = head_groups(blocks.sum((1, 2)), 8)
    balanced = dataclasses.replace(plan, head_perm=greedy.reshape(-1))
    assert imbalance_ratio(work_table(blocks, balanced)) == 1


def test_turning_a_ring_leaves_the_ratio_and_other_names_do_not():
    """Which shard is called first does not matter, for queries and for keys; their order does."""
    work = np.random.default_rng(5).integers(0, 50, (2, 5, 5))
    ratio = imbalance_ratio(work)
    for turn in (1, 3):
        assert imbalance_ratio(np.roll(work, turn, 1)) == ratio
        assert imbalance_ratio(np.roll(work, turn, 2)) == ratio
    assert imbalance_ratio(work[:, ::-1, ::-1]) == ratio
    swapped = [1, 0, 2, 3, 4]
    assert imbalance_ratio(work[:, swapped][:, :, swapped]) != ratio


def test_no_work_is_balanced():
    assert contiguous_ratio(np.zeros((2, 4, 4), bool), 2, 2) == (1, 1)
    nothing = jnp.zeros((2, 2, 2), jnp.int32)
    assert float(jax.jit(imbalance_ratio)(nothing)) == 1


@given(
    weights=st.lists(st.integers(0, 40), min_size=6, max_size=6),
    groups=st.sampled_from([1, 2, 3, 6]),
)
def test_greedy_heads_split_evenly_and_close_to_the_best(weights, groups):
    weights = np.array(weights)
    chosen = head_groups(weights, groups)
    assert sorted(chosen.reshape(-1)) == list(range(6))
    assert chosen.shape == (groups, 6 // groups)
    heaviest = weights[chosen].sum(1).max()
    best = balance.best_group_load(weights, groups)
    assert best <= heaviest <= best + weights.max()


def test_greedy_heads_of_the_figure():
    weights = np.array([4, 8, 0, 4])
    loads = weights[head_groups(weights, 2)].sum(1)
    np.testing.assert_array_equal(loads, [8, 8])


def test_ties_go_to_the_lower_index():
    np.testing.assert_array_equal(head_groups(np.full(6, 3), 3), [[0, 3], [1, 4], [2, 5]])


def test_large_counts_do_not_wrap():
    work = np.full((8, 1, 1), 10**8)
    work[0] = 3 * 10**8
    assert imbalance_ratio(work) == 2.4
    assert float(imbalance_ratio(jnp.asarray(work, jnp.int32))) == pytest.approx(2.4)


def test_equal_plans_are_equal():
    plans = [Plan.contiguous(heads=4, q_blocks=5, kv_blocks=4, ulysses=2, ring=2) for _ in range(2)]
    assert plans[0] == plans[1]
    assert len(set(plans)) == 1
    swapped = dataclasses.replace(plans[1], head_perm=plans[1].head_perm[::-1])
    assert plans[0] != swapped


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: inspect.unwrap(imbalance_ratio)(np.ones((2, 2, 3), int)), r"\[U, R, R\]"),
        (lambda: inspect.unwrap(head_groups)(np.array([1.5, 2.5]), 2), "must be integers"),
        (lambda: imbalance_ratio(-np.ones((1, 2, 2), int)), "negative count"),
        (lambda: device_imbalance_ratio(-np.ones((1, 2, 2), int)), "negative count"),
        (
            lambda: Plan(2, -1, np.arange(2), np.zeros((2, 0), int), np.zeros((2, 0), int)),
            "ring=-1",
        ),
        (
            lambda: Plan(1, 1, np.arange(2.0), np.zeros((1, 0), int), np.zeros((1, 0), int)),
            "float64",
        ),
        (lambda: head_groups(np.arange(6), 4), "groups=4"),
        (lambda: head_groups(np.array([1, -2]), 2), "negative"),
        (
            lambda: Plan(2, 1, np.arange(3), np.zeros((2, 0), int), np.zeros((2, 0), int)),
            "3 heads",
        ),
        (lambda: Plan.contiguous(heads=4, q_blocks=4, kv_blocks=4, ulysses=2, ring=0), "ring=0"),
        (
            lambda: work_table(
                np.ones((2, 5, 4), bool),
                Plan.contiguous(heads=2, q_blocks=4, kv_blocks=4, ulysses=2, ring=2),
            ),
            "5x4 blocks",
        ),
        (
            lambda: dataclasses.replace(
                Plan.contiguous(heads=2, q_blocks=4, kv_blocks=4, ulysses=1, ring=2),
                q_order=np.array([[0, 1, 1, 3]]),
            ),
            r"q_order\[0\].*1 occurs 2 times",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
