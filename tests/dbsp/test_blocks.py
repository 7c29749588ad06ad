"""Blocks onto shards: greedy by a second hand, refined within its caps, plans of all degrees."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.workloads.mask_families import family_mask
from jaxlab.blocksparse import BlockMask
from jaxlab.dbsp import (
    block_groups,
    device_imbalance_ratio,
    greedy_plans,
    imbalance_ratio,
    plan,
    work_table,
)
from tests.oracles import balance

METHODS = ["none", "striped", "greedy", "refined"]


def uneven_mask(seed):
    """Three quarters of the work lie around the diagonal, as in video."""
    rng = np.random.default_rng(seed)
    near = np.abs(np.subtract.outer(np.arange(64), np.arange(64))) < 12
    return rng.random((8, 64, 64)) < np.where(near, 0.9, 0.1) * rng.random((8, 64, 1))


def ratio(mask, placed):
    return imbalance_ratio(work_table(mask, placed))


@given(
    weights=st.lists(st.integers(0, 6), min_size=12, max_size=12),
    ring=st.sampled_from([1, 2, 3, 4, 6]),
    reward=st.sampled_from([0, 1, 2, 10, 0.5]),
    shuffle=st.integers(0, 100),
)
def test_greedy_blocks_follow_the_published_rule(weights, ring, reward, shuffle):
    home = np.random.default_rng(shuffle).permutation(np.arange(12) // (12 // ring))
    found = block_groups(np.array(weights), home, ring=ring, home_reward=reward)
    np.testing.assert_array_equal(found, balance.greedy_shards(weights, home, ring, reward))
    assert (np.bincount(found, minlength=ring) == 12 // ring).all()


@given(weights=st.lists(st.integers(0, 50), min_size=12, max_size=12), ring=st.sampled_from([2, 4]))
def test_a_large_reward_keeps_everything_at_home(weights, ring):
    home = np.arange(12) % ring
    found = block_groups(np.array(weights), home, ring=ring, home_reward=1e6)
    np.testing.assert_array_equal(found, home)


def test_blocks_without_work_move_only_from_full_homes():
    weights, home = np.array([5, 5, 0, 0, 0, 0, 0, 0]), np.repeat([0, 1], 4)
    np.testing.assert_array_equal(block_groups(weights, home, ring=2), [0, 1, 0, 0, 1, 1, 1, 0])


@pytest.mark.parametrize("degrees", [(1, 1), (1, 3), (2, 2), (3, 4), (5, 1)])
@pytest.mark.parametrize("blocks", METHODS)
@pytest.mark.parametrize("home", ["contiguous", "striped"])
def test_every_plan_holds_all_the_work(degrees, blocks, home):
    ulysses, ring = degrees
    rng = np.random.default_rng(ring)
    mask = rng.random((2, 5, 13, 19)) < rng.random((2, 5, 1, 19))
    placed = plan(mask, ulysses=ulysses, ring=ring, blocks=blocks, home=home, evaluations=2000)
    work = work_table(mask, placed)
    assert work.sum() == mask.sum()
    by_block = sum(balance.work_by_block(one, placed) for one in mask)
    np.testing.assert_array_equal(work, by_block)
    assert imbalance_ratio(work) >= device_imbalance_ratio(work) >= 1
    assert (placed.q_exchange.sum(1) == placed.q_home.size // ring).all()
    assert (placed.kv_exchange.sum(2) == placed.kv_home.size // ring).all()
    if blocks == "none":
        assert (placed.q_moved, placed.kv_moved) == (0, 0)


@given(
    seed=st.integers(0, 10**6),
    caps=st.tuples(st.sampled_from([0, 0.1, 0.3, 1]), st.sampled_from([0, 0.2, 0.5])),
    degrees=st.sampled_from([(1, 2), (1, 3), (2, 4)]),
)
@settings(max_examples=30, deadline=None)
def test_refined_blocks_respect_their_caps_and_never_lose(seed, caps, degrees):
    ulysses, ring = degrees
    rng = np.random.default_rng(seed)
    mask = rng.random((4, 24, 17)) < rng.random((1, 24, 1)) * rng.random((4, 1, 17))
    common = {"ulysses": ulysses, "ring": ring, "home": "striped", "heads": "greedy"}
    placed = plan(
        mask, **common, q_cap=caps[0], kv_cap=caps[1], movement_weight=0, evaluations=3000
    )
    for exchange, cap in ((placed.q_exchange, caps[0]), (placed.kv_exchange, caps[1])):
        blocks = exchange[0].sum()
        moved = blocks - np.trace(exchange, axis1=1, axis2=2)
        assert (moved <= cap * blocks).all()
    assert ratio(mask, placed) <= ratio(mask, plan(mask, **common, blocks="none")) + 1e-12


def test_refined_blocks_find_the_best_plan_of_a_tiny_mask():
    rng = np.random.default_rng(7)
    for _ in range(3):
        mask = rng.random((2, 6, 3)) < rng.random((1, 6, 1))
        orders = [list(balance.equal_splits(size, 3)) for size in (6, 3)]
        best = balance.best_ring(mask.sum(0), *orders, 3)
        found = plan(
            mask, ulysses=1, ring=3, q_cap=1, kv_cap=1, movement_weight=0, evaluations=20_000
        )
        assert ratio(mask, found) == pytest.approx(best)


def test_seeds_decide_the_refinement():
    mask = uneven_mask(0)
    one, again, other = (plan(mask, ulysses=2, ring=4, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_movement_has_its_price():
    mask = uneven_mask(1)
    free, dear = (plan(mask, ulysses=1, ring=4, movement_weight=w) for w in (0, 10))
    assert dear.q_moved + dear.kv_moved < free.q_moved + free.kv_moved
    assert ratio(mask, free) < ratio(mask, dear)


@pytest.mark.parametrize("family", ["radial-var", "sta", "svg-reord"])
def test_refined_beats_greedy_with_less_movement(family):
    mask = family_mask(family, seed=2, n=64, heads=8)
    refined = plan(mask, ulysses=1, ring=4)
    greedy = plan(mask, ulysses=1, ring=4, heads="greedy", blocks="greedy")
    assert ratio(mask, refined) < ratio(mask, greedy)
    assert refined.q_moved <= 0.2
    assert refined.kv_moved <= 0.25


@pytest.mark.parametrize(
    ("shape", "kv_heads"),
    [((6, 64, 64), 3), ((2, 5, 37, 70), None), ((3, 300, 9), None), ((2, 4, 24, 600), 2)],
)
@pytest.mark.parametrize(("home", "reward"), [("contiguous", 2), ("striped", 0), ("striped", 10)])
def test_plans_of_all_degrees_are_the_plans_of_each(shape, kv_heads, home, reward):
    rng = np.random.default_rng(sum(shape))
    mask = rng.random(shape) < rng.random((*shape[:-2], 1, 1))
    degrees = [(4, 1), (2, 2), (1, 4), (1, 5)]
    options = {"home": home, "home_reward": reward, "kv_heads": kv_heads}
    batch = mask.reshape(-1, *shape[-3:])
    for (ulysses, ring), (placed, work) in greedy_plans(mask, degrees=degrees, **options).items():
        alone = plan(mask, ulysses=ulysses, ring=ring, heads="greedy", blocks="greedy", **options)
        assert placed == alone
        np.testing.assert_array_equal(
            work, sum(balance.work_by_block(one, placed) for one in batch)
        )


def test_causal_blocks_that_attend_to_nothing_are_no_work():
    mask = BlockMask(np.ones((2, 8, 8), bool), 16, 16, 128, 128, causal=True)
    lower = np.tri(8, dtype=bool)[None].repeat(2, 0)
    assert plan(mask, ulysses=1, ring=2) == plan(lower, ulysses=1, ring=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ulysses": 0, "ring": 1}, "ulysses=0"),
        ({"q_cap": 1.5}, "q_cap"),
        ({"home_reward": -1}, "home_reward"),
        ({"evaluations": -1}, "evaluations"),
        ({"movement_weight": np.inf}, "movement_weight"),
        ({"home": "elsewhere"}, "home must be"),
        ({"home": np.arange(3)}, "4 blocks"),
        ({"home": np.zeros(4, int)}, "permutation"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        plan(np.ones((2, 4, 4), bool), **{"ulysses": 1, "ring": 2, **arguments})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: block_groups(np.arange(6), np.zeros(6, int), ring=4), "ring=4"),
        (lambda: block_groups(np.arange(-1, 3), np.zeros(4, int), ring=2), "not be negative"),
        (lambda: block_groups(np.arange(4), np.full(4, 2), ring=2), "homes"),
        (lambda: block_groups(np.arange(4), np.zeros(4, int), ring=2, home_reward=-1), "reward"),
    ],
)
def test_bad_blocks_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
