"""The experiment's own arithmetic, on inputs small enough to count by hand."""

import dataclasses

import numpy as np
import pytest

from experiments import blocksparse
from experiments.workloads import attention_timing
from jaxlab.dbsp import Plan
from tests.oracles import balance

SMOKE = blocksparse.PRESETS["smoke"]


def test_scores_of_a_window_are_those_of_counting_blocks(monkeypatch):
    seen = []

    def keep(q, k):
        seen.append(original(q, k))
        return seen[-1]

    original = blocksparse.sparge_mask
    monkeypatch.setattr(blocksparse, "sparge_mask", keep)
    small = dataclasses.replace(
        SMOKE, heads=4, devices=4, window=dataclasses.replace(SMOKE.window, grid=(4, 5, 9), steps=1)
    )
    (row,) = blocksparse.clip_imbalance(small, "fixture")
    blocks = np.asarray(seen[0].blocks)[0]
    assert row["density"] == blocks.mean()
    np.testing.assert_array_equal(row["head_work"], blocks.sum((1, 2)))
    for name, (before, after) in row["factorings"].items():
        ulysses, ring = int(name[1]), int(name[3])
        plan = Plan.contiguous(
            heads=4,
            q_blocks=blocks.shape[1],
            kv_blocks=blocks.shape[2],
            ulysses=ulysses,
            ring=ring,
        )
        expected = balance.imbalance_by_steps(balance.work_by_block(blocks, plan))
        assert before == pytest.approx(expected)
        assert after <= before or ring > 1
    assert set(row["factorings"]) == {"U4R1", "U2R2", "U1R4"}


def test_a_thumbnail_keeps_the_share_of_active_blocks():
    blocks = np.zeros((7, 10), bool)
    blocks[:3, :5] = True
    np.testing.assert_array_equal(
        blocksparse._thumbnail(blocks, 2), [[100, 0], [0, 0]]
    )  # 7 rows are cut after the third


def test_random_masks_have_the_density_asked_for():
    timing = attention_timing.Timing(tokens=4100, heads=3)
    mask = attention_timing.random_mask(np.random.default_rng(0), timing, (128, 64), 0.4)
    assert mask.density() == pytest.approx(0.4, abs=0.02)
    by_head = mask.head_counts() / mask.blocks[0].size
    assert by_head[2] > 2 * by_head[0]
    full = attention_timing.random_mask(np.random.default_rng(0), timing, (64, 64), 1.0)
    assert full.density() == 1


def test_a_straight_line_has_r_squared_one():
    assert attention_timing.r_squared([1, 2, 7], [5, 7, 17]) == pytest.approx(1)
    assert attention_timing.r_squared([1, 2, 7], [5, 16, 17]) < 0.9


def test_a_clip_too_short_for_the_window_is_refused():
    window = dataclasses.replace(SMOKE.window, steps=9)
    with pytest.raises(ValueError, match="the window needs 32 frames"):
        window.video("fixture")
