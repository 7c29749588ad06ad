"""What the bars rest on: which masks are fitted and judged, what may move, what is saved."""

import numpy as np
import pytest

from experiments.workloads import block_balance, planning_cost, replanning
from experiments.workloads.block_balance import (
    CONTIGUOUS,
    HEADS,
    LATER,
    NEAR,
    Blocks,
    balance_of,
)
from experiments.workloads.head_bound import head_bound
from experiments.workloads.mask_families import family_mask
from jaxlab.dbsp import imbalance_ratio, plan
from tests.oracles import balance


@pytest.mark.parametrize("degrees", [(2, 4), (1, 8)])
def test_plans_of_the_bars_keep_to_their_caps(degrees):
    draw = {"seed": 3, "n": 64, "heads": 8}
    judged, later = (family_mask("gen", step=step, **draw) for step in (2, 5))
    home = np.random.default_rng(0).permutation(64)
    options = {"degrees": degrees, "evaluations": 2000, "seed": 1}
    rows = balance_of(judged, later, home, front=True, **options)
    for name, q_cap, kv_cap in (
        (CONTIGUOUS, 0.2, 0.25),
        (NEAR, 0.05, 0.05),
        ("refined, 10% from contiguous", 0.1, 0.125),
    ):
        assert rows[name][1] <= q_cap
        assert rows[name][2] <= kv_cap
    assert max(rows[NEAR][1:]) > 0
    near = plan(
        judged, ulysses=degrees[0], ring=degrees[1], home=home, q_cap=0.05, kv_cap=0.05,
        movement_weight=0, evaluations=2000, seed=1,
    )  # fmt: skip
    for name, blocks in ((NEAR, judged), (LATER, later)):
        assert rows[name][0] == imbalance_ratio(balance.work_by_block(blocks, near))
    assert rows[LATER][0] != rows[NEAR][0]
    bounds = [rows[f"lower bound, {cap}% from contiguous"][0] for cap in (2, 5, 10, 20)]
    assert sorted(bounds, reverse=True) == bounds
    assert bounds[-1] <= rows[CONTIGUOUS][0] + 1e-9
    share = rows["bound over plan, 10% from contiguous"][0]
    assert share == pytest.approx(bounds[2] / rows["refined, 10% from contiguous"][0])
    assert LATER in balance_of(judged, later, home, front=False, **options)


@pytest.mark.parametrize("groups", [2, 3])
def test_no_groups_of_heads_beat_their_bound(groups):
    rng = np.random.default_rng(groups)
    for kinds in (2, 3, 90):  # few kinds leave groups uneven
        weights = rng.choice(rng.integers(1, 100, kinds), 6)
        best = balance.best_group_load(weights, groups) * groups / weights.sum()
        assert head_bound(weights, groups) == pytest.approx(best, rel=1e-4)
    assert head_bound(np.array([7, 7, 7, 4, 4, 4]), 2) == pytest.approx(18 / 16.5)


def test_the_bound_of_heads_stands_beside_plans_of_two_groups():
    mask = np.zeros((4, 64, 64), bool)
    mask[:3] = True
    mask[3, :, 0] = True
    options = {"evaluations": 100, "seed": 0, "front": False}
    rows = balance_of(mask, mask, np.arange(64), degrees=(2, 4), **options)
    load = 2 * 64 * 64
    assert rows[HEADS][0] == pytest.approx(2 * load / mask.sum(), rel=1e-4)
    assert all(ratio >= rows[HEADS][0] - 1e-4 for ratio, *_ in rows.values())


def test_homes_are_fitted_to_other_layers_at_earlier_steps(monkeypatch):
    asked, fitted = [], []

    def mask(family, *, layer=0, step=0, **draw):
        asked.append((layer, step, draw["seed"]))
        return (layer, step)

    def fit(masks, **options):
        fitted.append((masks, options))

    monkeypatch.setattr(block_balance, "family_mask", mask)
    monkeypatch.setattr(block_balance, "fit_home", fit)
    seen = []
    monkeypatch.setattr(
        block_balance,
        "balance_of",
        lambda judged, later, home, **_: seen.append((judged, later)) or {"none": (1.0, 0.0, 0.0)},
    )
    config = Blocks(n=64, families=("gen", "sta"), seeds=3, first=50, fitted=2)
    found = block_balance.family_balance(config, "gen")
    assert found == {name: {"none": [1.0, 1.0, 0.0, 0.0, 3]} for name in ("U2R4", "U1R8")}
    assert set(seen) == {((0, 2), (0, 5))}
    for masks, _ in fitted:
        assert masks == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert sorted(options["ring"] for _, options in fitted) == [4] * 3 + [8] * 3
    assert {seed for *_, seed in asked} == {50, 51, 52}


def test_what_a_search_saves(monkeypatch):
    """From 1.5 to 1.2 is a fifth of 50 ms a step; a home does so in every layer and step."""
    ratios = {"none": 1.5, "refined": 1.2}

    def placed(mask, *, blocks="refined", home=None, **_):
        return "none" if home is None and blocks == "none" else "refined"

    monkeypatch.setattr(planning_cost, "plan", placed)
    monkeypatch.setattr(planning_cost, "work_table", lambda mask, placed: ratios[placed])
    monkeypatch.setattr(planning_cost, "imbalance_ratio", lambda ratio: ratio)
    monkeypatch.setattr(planning_cost, "fit_home", lambda others, ring: np.arange(8))
    found = planning_cost.search_cost(np.ones((1, 8, 8), bool), [], evaluations=10, interval=6.0)
    for name in ("short", "hidden", "long"):
        assert found[name]["saved"] == pytest.approx(6 * 0.05 * 0.2)
    assert found["home"]["saved"] == pytest.approx(40 * 30 * 0.05 * 0.2)


def test_the_cost_of_drift_is_chosen_on_the_tuning_seeds_alone(monkeypatch):
    """A run of seed s makes s / cost plans: the least cost that affords a budget tells the seed."""
    monkeypatch.setattr(replanning, "sparge_trace", lambda seed: np.full((1, 1), seed))
    monkeypatch.setattr(replanning, "_drift", lambda cost, *_: cost)
    monkeypatch.setattr(
        replanning,
        "_score",
        lambda cost, trace: [trace[0, 0] / max(cost, 1e-9), float(trace[0, 0])],
    )
    found = replanning.by_drift({"1.1": [[4.0, 1.1]]}, tuning=[1], seeds=[2, 3], layers=1)
    assert found["model 1.1"]["cost"] == 0.25
    assert found["model 1.1"]["scores"] == [[8.0, 2.0], [12.0, 3.0]]
