"""The experiment's own arithmetic, on times written down by hand."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from experiments import dbsp
from experiments.harness import Missing, Unavailable, Value
from experiments.workloads import (
    block_balance,
    dbsp_tables,
    dbsp_values,
    planning_cost,
    replanning,
    timed_layers,
)
from experiments.workloads.block_balance import (
    BOUNDED,
    CONTIGUOUS,
    LATER,
    NEAR,
    Blocks,
    mean_and_worst,
)
from experiments.workloads.eight_devices import Sharded
from experiments.workloads.parallel_attention import Kernels, Setting
from experiments.workloads.timed_layers import DEGREES, Judged, Layers, judge
from jaxlab.dbsp import CostModel, Links, Plan, imbalance_ratio, plan, work_table

SMOKE = dbsp.PRESETS["smoke"]
KINDS = ("none", "db-SP", "striped", "refined")


def judged(**seconds):
    names = {f"{kind} U{u}R{r}": kind for kind in KINDS for u, r in DEGREES}
    links = Links(1.0, 0.0, 1.0, 0.0)
    held = {kind: np.array(times)[1:] for kind, times in seconds.items()}
    return Judged(
        {name: np.array(seconds[kind]) for name, kind in names.items()},
        chosen=held,
        least={kind: times / 1.01 for kind, times in held.items()},
        fixed={kind: times * 1.1 for kind, times in held.items()},
        model=CostModel(1.0, 1.0, links, 1.0),
        held_out=np.array([1, 2]),
    )


def test_speedups_are_of_held_out_uneven_layers():
    layers = [{"plans": {"none U8R1": {"ratio": ratio}}} for ratio in (1.5, 1.4, 1.0)]
    times = judged(
        **{
            "none": [9.0, 6.0, 8.0],
            "db-SP": [1.0, 4.0, 1.0],
            "striped": [1.0, 3.0, 1.0],
            "refined": [1.0, 2.0, 0.5],
        }
    )
    found = {name: one.value for name, one in dbsp_values.speedups(layers, times, rest=1.0).items()}
    one = "1 of 2 held-out layers"
    assert found["attention-speedup"] == pytest.approx({one: 1.5})
    assert found["attention-speedup-best"] == pytest.approx({one: 1.65})
    assert found["attention-speedup-refined"] == pytest.approx(2)
    assert found["attention-speedup-striped"] == pytest.approx(1.6)
    assert list(found["end-to-end"].values()) == pytest.approx(
        [1 / (0.5 + 0.5 / 1.5), 1 / (0.3 + 0.7 / 1.5)]
    )
    # (6 + 1) / (4 + 1), the other held-out layer is too even
    assert found["end-to-end-dit"] == pytest.approx({one: 1.4})
    assert found["degrees-regret"] == pytest.approx(0.01)
    assert found["degrees-gain"] == pytest.approx(0.1)
    for layer in layers:
        layer["plans"]["none U8R1"]["ratio"] = 1.1
    even = dbsp_values.speedups(layers, times, rest=1.0)
    assert isinstance(even["attention-speedup"], Missing)
    assert even["degrees-gain"].value == pytest.approx(0.1)


def test_costs_count_what_moves_and_how_long_a_plan_serves():
    setting = Setting()
    greedy = {"plans": 6e-3, "prediction": 1e-3, "judging": 5e-3, "copy": 2e-3, "ratio": 1.2}
    moved = planning_cost.balancing_costs(setting, {**greedy, "moved": [0.4, 0.3]}, 6.0)
    at_home = planning_cost.balancing_costs(setting, {**greedy, "moved": [0.0, 0.0]}, 6.0)
    attention = 1.2 * setting.attention_seconds
    assert moved["planning"] == pytest.approx(1e-3 / attention)
    assert moved["judging, on the host meanwhile"] == pytest.approx(5e-3 / attention)
    sent = 2 * 0.7 * setting.tensor_bytes / setting.devices / setting.bandwidth
    assert moved["exchange"] == pytest.approx((sent + 4 * setting.latency) / attention)
    assert at_home["exchange"] == 0
    assert moved["total"] - at_home["total"] == pytest.approx(moved["exchange"])


def test_policies_are_compared_at_as_many_plans():
    fixed = {"1.1": [[5.0, 1.08], [5.0, 1.1]], "1.2": [[3.0, 1.13], [3.0, 1.13]]}
    for plans, gain in ((5.0, 0.01), (4.0, 0.03), (3.0, 0.05)):
        drift = {"model 1.1": {"scores": [[plans, 1.07], [plans, 1.09]]}}
        assert replanning.gain(fixed, drift, 1.1) == pytest.approx(gain)


def rows_of_plans(**ratios):
    plans = {"near": NEAR, "later": LATER, "home": "fitted home"}
    rows = {plan: [ratios[name], 9.0, 0.1, 0.1, 1] for name, plan in plans.items()}
    for cap in BOUNDED:
        rows[f"refined, {cap:.0%} from contiguous"] = [ratios["moved"], 9.0, cap, cap, 1]
        share = (1 + cap) / ratios["moved"]
        rows[f"bound over plan, {cap:.0%} from contiguous"] = [share / 2, share, cap, cap, 2]
    assert CONTIGUOUS in rows
    return {**rows, "greedy, reward 0": [1.5, 9.0, 0.9, 0.9, 1]}


def test_bars_take_the_worst_family_of_their_degrees():
    blocks = {
        "gen U2R4": rows_of_plans(home=1.1, near=1.2, later=1.3, moved=1.4),
        "svg-reord U2R4": rows_of_plans(home=1.2, near=1.1, later=1.3, moved=1.5),
        "gen U1R8": rows_of_plans(home=2.1, near=2.2, later=2.3, moved=2.4),
        "svg-reord U1R8": rows_of_plans(home=3.1, near=3.2, later=3.3, moved=3.4),
    }
    found = dbsp_values.block_values({"64": blocks}, {})
    small, large = "U2R4, n = 64, 1 seeds", "U1R8, n = 64, 1 seeds"
    expected = {
        "home-r4": {small: 1.2}, "home-r8": {large: 2.1}, "home-r8-svg": {large: 3.1},
        "near-home": {small: 1.2, large: 2.2}, "near-home-svg": {large: 3.2},
        "later": {small: 1.3, large: 2.3}, "moved-r4": {small: 1.5}, "moved-r8": {large: 3.4},
    }  # fmt: skip
    assert {name: found[name].value for name in expected} == expected
    assert found["blocks-greedy"].value == 1.5
    least = {"2%": 1.4 / 1.02, "5%": 1.4 / 1.05, "10%": 1.4 / 1.1, "20%": 1.4 / 1.2}
    assert found["bound-valid"].value == pytest.approx(least)
    clip = {
        "U1R8": rows_of_plans(home=7.0, near=8.0, later=9.0, moved=10.0),
        "U2R4": rows_of_plans(home=7.5, near=8.5, later=9.5, moved=10.5),
    }
    other = {"gen U2R4": rows_of_plans(home=5.0, near=5.0, later=5.0, moved=5.0)}
    other["gen U2R4"]["fitted home"][-1] = 3
    other["sta U2R4"] = rows_of_plans(home=4.0, near=4.0, later=4.0, moved=4.0)
    found = dbsp_values.block_values({"64": blocks, "256": other}, {"film": clip})
    seeds = "U2R4, n = 256, 1 to 3 seeds"
    assert found["home-r4"].value == {small: 1.2, seeds: 5.0, "U2R4, film": 7.5}
    assert found["near-home"].value["U1R8, film"] == 8.0
    assert found["later"].value["U2R4, film"] == 9.5
    assert found["home-r8-svg"].value == {large: 3.1}
    assert isinstance(dbsp_values.block_values({"256": other}, {})["home-r8"], Missing)


def test_plans_of_some_layers_only_are_averaged_over_those():
    rows = [{"a": (1.0, 0.0, 0.2), "b": (2.0, 0.4, 0.4)}, {"a": (3.0, 0.2, 0.0)}]
    found = mean_and_worst(rows)
    assert found["a"] == pytest.approx([2.0, 3.0, 0.1, 0.1, 2])
    assert found["b"] == pytest.approx([2.0, 2.0, 0.4, 0.4, 1])


def rows_of(layers, seconds_per_block):
    """Timed layers whose kernels take exactly a price for every block."""

    def exact(kernels, blocks, plans, implementation):
        found = {}
        for name, one in plans.items():
            work, rank = timed_layers.work_table(blocks, one), np.arange(one.ring)
            steps = [work[:, rank, (rank + step) % one.ring] for step in range(one.ring)]
            found[name] = 1e-4 + seconds_per_block * np.stack(steps, 1)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timed_layers, "step_seconds", exact)
        return [timed_layers.timed_layer(layers, "gen", seed) for seed in range(layers.seeds)]


def test_exact_kernels_are_judged_without_regret():
    layers = Layers(
        families=("gen",), seeds=2, n=64, heads=8, kernels=Kernels(dim=8), fitted=1,
        evaluations=2000,
    )  # fmt: skip
    rows = rows_of(layers, 1e-6)
    for line in timed_layers.kernel_lines(rows).values():
        assert line == pytest.approx({"constant": 1e-4, "block": 1e-6, "r_squared": 1})
    found = judge(layers, rows, Setting())
    assert found.model.seconds_per_block == pytest.approx(1e-6)
    assert found.model.seconds_per_launch == pytest.approx(1e-4)
    assert found.held_out.tolist() == [1]
    for kind in KINDS:
        np.testing.assert_allclose(found.chosen[kind], found.least[kind])
    row = rows[0]["plans"]["none U8R1"]
    assert isinstance(timed_layers.rebuilt(row["plan"]), Plan)
    busiest = 1e-4 + 1e-6 * row["work"].max()
    assert found.seconds["none U8R1"][0] > busiest  # and the all-to-all
    swept = judge(layers, rows, Setting(bandwidth=40e9))
    assert (swept.seconds["none U8R1"] > found.seconds["none U8R1"]).all()


def test_kernels_of_a_gpu_answer_claims_of_their_own():
    one = {"kernel-affine": Value(0.5, "timed")}
    on_gpu = dbsp.on_this_backend(one, "gpu")
    assert on_gpu["kernel-affine-gpu"] == one["kernel-affine"]
    assert isinstance(on_gpu["kernel-affine"], Missing)
    elsewhere = dbsp.on_this_backend(one, "cpu")
    assert elsewhere["kernel-affine"] == one["kernel-affine"]
    assert "this is cpu" in elsewhere["kernel-affine-gpu"].reason


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="is about other machines")
def test_the_gpu_preset_wants_a_gpu():
    with pytest.raises(Unavailable, match="needs a CUDA GPU"):
        dbsp.run(dbsp.PRESETS["gpu"])


def test_a_layers_table_says_what_is_fitted_and_what_moves():
    still = plan(np.ones((2, 8, 8), bool), ulysses=1, ring=2, heads="none", blocks="none")
    moved = dataclasses.replace(still, q_order=still.q_order[:, ::-1])
    plans = {
        f"refined U{u}R{r}": {"plan": dataclasses.asdict(moved if u == 1 else still)}
        for u, r in DEGREES
    }
    row = {"family": "gen", "seed": 3, "density": 0.5, "plans": plans}
    plans["none U8R1"] = {"ratio": 1.2}
    found = judged(**{kind: [1.0, 1.0, 2.0] for kind in KINDS} | {"striped": [2.0, 0.5, 1.0]})
    table = dbsp_tables.layers_table([row, row], found)
    assert [tuple(one) for one in table.rows] == [
        ("gen", 3, 0.5, 1.2, 1, 2.0, "fitted to it"),
        ("gen", 3, 0.5, 1.2, 1, 0.5, "judged on it"),
    ]


def test_links_beside_kernels_of_true_size_are_as_assumed():
    setting = Setting()
    layers = Layers(n=1184, heads=40, kernels=Kernels(dim=128, dtype="bfloat16"), true_to_size=True)
    assert layers.links(setting, []) == setting.links
    kernels = np.full((8, 1, 1), setting.attention_seconds)
    slowed = dataclasses.replace(layers, true_to_size=False).links(
        setting, [{"plans": {"none U8R1": {"seconds": 2 * kernels}}}]
    )
    assert slowed.hop_latency == pytest.approx(2 * setting.latency)


def test_a_picture_of_a_padded_plan_shows_padding_as_nothing():
    mask = np.ones((2, 7, 7), bool)
    padded = plan(mask, ulysses=1, ring=2, heads="none", blocks="none")
    assert padded.q_order.shape == (1, 8)
    assert timed_layers._placed(mask, padded, size=4).tolist() == [
        [100, 100, 100, 50], [100, 100, 100, 50], [100, 100, 100, 50], [50, 50, 50, 25],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"traces": (100,)}, "must not overlap"),
        ({"blocks": ()}, "at least one entry"),
    ],
)
def test_bad_configs_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMOKE, **change)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (Blocks, {"families": ("nothere",)}, "'nothere' is unknown"),
        (Blocks, {"n": 65}, "n=65 must be one of"),
        (Blocks, {"seeds": 0}, "seeds=0 must be at least 1"),
        (dbsp.Clips, {"names": ("nothere",)}, "'nothere' is unknown"),
        (Sharded, {"degrees": ((3, 3),)}, "not 1 to 8 devices"),
    ],
)
def test_bad_parts_of_configs_are_refused(kind, change, message):
    with pytest.raises(ValueError, match=message):
        kind(**change)


def test_layers_need_a_seed_to_judge_and_divide():
    with pytest.raises(ValueError, match="seeds=1"):
        Layers(seeds=1)
    with pytest.raises(ValueError, match="heads=12"):
        Layers(heads=12)


def test_homes_of_clips_are_fitted_to_other_layers_before(monkeypatch):
    """Masks name their layer and position, so that what was fitted and judged can be read off."""

    class Positions:
        steps = 4

        def video(self, name):
            return name

        def inputs(self, video, step, *, key, heads, dim):
            return key, step, None

    layer_of = {
        jax.random.key_data(jax.random.fold_in(jax.random.key(7), layer)).tobytes(): layer
        for layer in range(4)
    }

    def named(q, k, **blocks):
        mask = np.zeros((1, 8, 8, 16), bool)
        mask[..., layer_of[jax.random.key_data(q).tobytes()], k] = True
        return types.SimpleNamespace(blocks=mask)

    def name_of(mask):
        return tuple(int(x) for x in np.argwhere(mask[0])[0])

    fitted, seen = [], []

    def fit(masks, *, ring, ulysses, seed):
        fitted.append([name_of(mask) for mask in masks])
        return np.arange(8)

    def balance(judged, later, home, **arguments):
        seen.append((name_of(judged), name_of(later)))
        return {"fitted home": (1.5, 0.0, 0.0)}

    for name, fake in (("sparge_mask", named), ("fit_home", fit), ("balance_of", balance)):
        monkeypatch.setattr(block_balance, name, fake)
    found = block_balance.clip_balance(
        Positions(), "film", heads=8, dim=1, layers=2, blocks=(2, 1), evaluations=1, seed=7
    )
    assert fitted == [[(0, 0), (0, 1), (1, 0), (1, 1)]] * 2
    assert seen == [((2, 2), (2, 3)), ((3, 2), (3, 3))] * 2
    mask = np.zeros((8, 8, 16), bool)
    mask[:, 2, 0] = True  # one block of one shard: as uneven as can be
    alone = imbalance_ratio(work_table(mask, plan(mask, ulysses=1, ring=8, blocks="none")))
    assert found["U1R8"][block_balance.WHERE_FITTED] == [alone, alone, 0, 0, 2]
