"""Scores of a clip's masks against counting block by block."""

import dataclasses
import functools

import numpy as np
import pytest

from experiments.workloads import clip_imbalance
from experiments.workloads.video_window import Window
from jaxlab.dbsp import Plan
from tests.oracles import balance

SMALL = Window(grid=(8, 9, 16), patch=(2, 8, 8), steps=2)
score = functools.partial(clip_imbalance.clip_imbalance, name="fixture", dim=32, seed=0)


def test_scores_of_a_window_are_those_of_counting_blocks(monkeypatch):
    seen = []

    def keep(q, k):
        seen.append(original(q, k))
        return seen[-1]

    original = clip_imbalance.sparge_mask
    monkeypatch.setattr(clip_imbalance, "sparge_mask", keep)
    window = dataclasses.replace(SMALL, grid=(4, 5, 9), steps=1)
    (row,) = score(window, layers=1, heads=4, devices=4)
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


def test_layers_look_at_different_masks():
    rows = score(SMALL, layers=2, heads=8, devices=8)
    assert [(row["layer"], row["step"]) for row in rows] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert not np.array_equal(rows[0]["head_work"], rows[2]["head_work"])


def test_a_thumbnail_keeps_the_share_of_active_blocks():
    blocks = np.zeros((7, 10), bool)
    blocks[:3, :5] = True
    np.testing.assert_array_equal(
        clip_imbalance._thumbnail(blocks, 2), [[100, 0], [0, 0]]
    )  # 7 rows are cut after the third
