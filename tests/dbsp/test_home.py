"""Homes of token blocks: fitted orders on layers they have not seen, and both sides' tokens."""

import numpy as np
import pytest

from experiments.workloads.mask_families import family_mask
from jaxlab.blocksparse import BlockMask
from jaxlab.dbsp import fit_home, imbalance_ratio, plan, work_table
from jaxlab.dbsp.home import _with_kin


def ratio(mask, home, **arguments):
    placed = plan(mask, **{"ulysses": 1, "ring": 4, "blocks": "none", "home": home, **arguments})
    return imbalance_ratio(work_table(mask, placed))


@pytest.mark.parametrize("family", ["gen", "periodic", "svg-reord", "radial-var"])
def test_a_fitted_home_carries_to_layers_it_has_not_seen(family):
    seen = [family_mask(family, seed=5, layer=layer, n=64, heads=16) for layer in range(4)]
    order = fit_home(seen, ring=4, evaluations=400_000)
    unseen = family_mask(family, seed=5, layer=9, step=2, n=64, heads=16)
    fitted = ratio(unseen, order)
    assert fitted < ratio(unseen, "contiguous")
    assert fitted <= min(1.03, ratio(unseen, "striped") + 0.01)
    near = ratio(unseen, order, blocks="refined", q_cap=0.05, kv_cap=0.05, movement_weight=0)
    assert near <= fitted


def test_a_fitted_home_never_loses_on_its_masks():
    mask = np.zeros((1, 8, 8), bool)
    mask[0, :, ::4] = True
    for evaluations in (1, 2000):
        order = fit_home([mask], ring=4, evaluations=evaluations)
        assert ratio(mask, order) <= min(ratio(mask, "contiguous"), ratio(mask, "striped"))


def test_a_fit_of_two_masks_weighs_both():
    rows = np.zeros((1, 8, 8), bool)
    rows[0, :2] = True
    columns = rows.swapaxes(1, 2).copy()
    order = fit_home([rows, columns], ring=2, evaluations=5000)
    assert ratio(rows, order, ring=2) == ratio(columns, order, ring=2) == 1


def test_a_fit_also_weighs_the_sum_moved_and_grown():
    two = np.array([[[[1, 0], [0, 2]]], [[[1, 0], [0, 2]]], [[[0, 3], [0, 0]]]], np.int32)
    every, weight, given = _with_kin(two)
    first, second, before, after, grown = every
    np.testing.assert_array_equal(first, two[0, 0])
    np.testing.assert_array_equal(second, two[2, 0])
    np.testing.assert_array_equal(before, [[2, 3], [2, 3]])  # of the sum [[2, 3], [0, 4]]
    np.testing.assert_array_equal(after, [[0, 4], [0, 4]])
    np.testing.assert_array_equal(grown, [[2, 4], [2, 4]])
    np.testing.assert_allclose(given, [2 / 3, 1 / 3, 0, 0, 0])
    np.testing.assert_allclose(weight, [1 / 3, 1 / 6, 1 / 6, 1 / 6, 1 / 6])


def test_fitting_pads_and_repeats():
    rng = np.random.default_rng(3)
    masks = [rng.random((3, 10, 10)) < rng.random((1, 10, 1)) for _ in range(2)]
    one, again = (fit_home(masks, ring=2, ulysses=2, seed=4, evaluations=2000) for _ in range(2))
    np.testing.assert_array_equal(np.sort(one), np.arange(12))
    np.testing.assert_array_equal(one, again)
    placed = plan(masks[0], ulysses=2, ring=2, home=one, blocks="none")
    np.testing.assert_array_equal(placed.q_home, one)
    assert placed.q_moved == 0


def test_both_sides_hold_the_same_tokens():
    """Query blocks of 128 tokens and key blocks of 64: a shard's keys are its queries' tokens."""
    mask = BlockMask(np.ones((2, 5, 9), bool), 128, 64, q_len=560, kv_len=560)
    for home in ("contiguous", "striped", np.array([3, 1, 4, 0, 2])):
        placed = plan(mask, ulysses=2, ring=2, home=home, blocks="none")
        shards = placed.q_home.reshape(2, -1), placed.kv_home.reshape(2, -1)
        for queries, keys in zip(*shards, strict=True):
            of_queries = (queries[:, None] * 128 + np.arange(128)).reshape(-1)
            of_keys = (keys[:, None] * 64 + np.arange(64)).reshape(-1)
            np.testing.assert_array_equal(np.sort(of_queries), np.sort(of_keys))
    order = fit_home([mask], ring=2, ulysses=2, evaluations=100)
    np.testing.assert_array_equal(np.sort(order), np.arange(8))


def test_a_home_given_without_padding_gets_it_at_the_end():
    placed = plan(np.ones((1, 5, 5), bool), ulysses=1, ring=4, home=np.arange(5)[::-1])
    np.testing.assert_array_equal(placed.q_home, [4, 3, 2, 1, 0, 5, 6, 7])


def test_cross_attention_takes_a_home_for_each_side():
    mask = np.random.default_rng(0).random((2, 6, 4)) < 0.5
    home = (np.array([5, 3, 1, 0, 2, 4]), np.array([2, 0, 3, 1]))
    placed = plan(mask, ulysses=1, ring=2, home=home, blocks="none")
    np.testing.assert_array_equal(placed.q_home, home[0])
    np.testing.assert_array_equal(placed.kv_home, home[1])
    cross = BlockMask(np.ones((1, 4, 2), bool), 16, 16, q_len=64, kv_len=32)
    with pytest.raises(ValueError, match="pass a pair"):
        plan(cross, ulysses=1, ring=2, home=np.arange(2))
    with pytest.raises(ValueError, match="must nest"):
        fit_home([cross], ring=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "not empty"),
        (([np.ones((1, 4, 4), bool), np.ones((1, 8, 8), bool)],), "same block counts"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit_home(*arguments, ring=2)
    with pytest.raises(ValueError, match="ring=0"):
        fit_home([np.ones((1, 4, 4), bool)], ring=0)
