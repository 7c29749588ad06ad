"""The bound on what limited movement can reach, against every plan of tiny masks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlab.dbsp import Plan, imbalance_ratio, movement_bound, plan, work_table
from tests.oracles import balance


def placements(blocks, ring, cap):
    """Every split of the blocks into equal shards that moves at most ``cap`` from contiguous."""
    home = np.arange(blocks).reshape(ring, -1)
    for order in balance.equal_splits(blocks, ring):
        shards = order.reshape(ring, -1)
        kept = sum(np.isin(row, at).sum() for row, at in zip(shards, home, strict=True))
        if blocks - kept <= cap:
            yield order


def best_ratio(mask, ring, q_cap, kv_cap):
    start = plan(mask, ulysses=1, ring=ring, heads="none", blocks="none")
    sizes = start.q_home.size, start.kv_home.size
    work = np.zeros(sizes, int)
    work[: mask.shape[1], : mask.shape[2]] = mask.sum(0)
    orders = [
        list(placements(size, ring, int(cap * size)))
        for size, cap in zip(sizes, (q_cap, kv_cap), strict=True)
    ]
    return start, balance.best_ring(work, *orders, ring)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    shape=st.sampled_from([(2, 4, 4), (2, 4, 6), (3, 6, 3)]),
    caps=st.sampled_from([(0.0, 0.0), (0.5, 0.0), (0.34, 0.5), (1.0, 1.0)]),
)
def test_no_plan_beats_the_bound(seed, shape, caps):
    ring, q_blocks, kv_blocks = shape
    rng = np.random.default_rng(seed)
    mask = rng.random((3, q_blocks, kv_blocks)) < rng.random((1, q_blocks, 1)) ** 2
    start, best = best_ratio(mask, ring, *caps)
    bound = movement_bound(mask, start, q_cap=caps[0], kv_cap=caps[1])
    assert 1 <= bound <= best + 1e-7


@pytest.mark.parametrize(("ulysses", "ring"), [(1, 3), (2, 2), (4, 1)])
def test_without_movement_the_bound_is_the_ratio(ulysses, ring):
    rng = np.random.default_rng(ring)
    mask = rng.random((5, 11, 9)) < rng.random((5, 1, 9))
    at_home = plan(mask, ulysses=ulysses, ring=ring, heads="none", blocks="none")
    ratio = imbalance_ratio(work_table(mask, at_home))
    assert movement_bound(mask, at_home, q_cap=0, kv_cap=0) == pytest.approx(ratio, rel=1e-7)


def test_a_little_movement_cannot_spread_one_full_shard():
    mask = np.zeros((1, 16, 16), bool)
    mask[:, :4] = True  # all the work of four shards stands on the first one
    start = Plan.contiguous(heads=1, q_blocks=16, kv_blocks=16, ulysses=1, ring=4)
    # one query block may leave and one arrives: three of four rows stay on the first shard
    assert movement_bound(mask, start, q_cap=2 / 16, kv_cap=1) >= 2
    assert movement_bound(mask, start, q_cap=1, kv_cap=1) == pytest.approx(1)


def test_bad_input_is_named():
    start = Plan.contiguous(heads=1, q_blocks=4, kv_blocks=4, ulysses=1, ring=2)
    with pytest.raises(ValueError, match="q_cap must lie"):
        movement_bound(np.ones((1, 4, 4), bool), start, q_cap=1.5, kv_cap=0)
    with pytest.raises(ValueError, match="query blocks"):
        movement_bound(np.ones((1, 8, 8), bool), start, q_cap=0, kv_cap=0)
