"""The experiment's own arithmetic, on rows written down by hand."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import vne
from experiments.harness import Steps
from experiments.workloads import (
    transport_exact,
    transport_extremes,
    transport_free,
    transport_mps,
    transport_shots,
    transport_tables,
    transport_values,
)
from jaxlab.vne import Interacting, block_diag, entropy, evolve_eig, ground_corr, hopping_chain, qpc
from tests.oracles import fock

SMOKE = vne.PRESETS["smoke"]


def test_exponents_are_powers_of_the_strength():
    rows = [
        {"strength": u, "time": t, "gap": 3 * t * u**power}
        for t, power in ((1.0, 2.0), (4.0, 2.5))
        for u in (0.05, 0.1, 0.2)
    ]
    found = transport_tables.exponents(rows)
    assert found["t=1"] == pytest.approx(2)
    assert found["t=4"] == pytest.approx(2.5)


def test_local_exponents_are_those_of_neighbors():
    rows = [{"strength": u, "time": 1.0, "gap": u**2 + u**4} for u in (1e-4, 1e-3, 10.0, 20.0)]
    found = transport_tables.local_exponents(rows)
    assert [(row["from U"], row["to U"]) for row in found][::2] == [(1e-4, 1e-3), (10.0, 20.0)]
    assert [round(row["t=1"], 1) for row in found][::2] == [2.0, 4.0]


@pytest.mark.parametrize(
    ("off", "none", "helps"),
    [
        ([3.0, 2.0, 1.0], [4.0, 5.0, 6.0], True),
        ([3.0, 2.0, 2.1], [4.0, 5.0, 6.0], False),
        ([3.0, 2.0, 1.0], [4.0, 1.9, 6.0], False),
    ],
)
def test_a_quench_helps_if_the_gap_falls_and_stays_below(off, none, helps):
    rows = [
        {"strength": 1.0, "quench": kind, "time": t, "gap": gap}
        for kind, gaps in (("off", off), ("none", none))
        for t, gap in enumerate(gaps)
    ]
    assert transport_tables.quench_helps(rows) is helps


def test_decay_leaves_early_times_out():
    rows = [{"quench": "off", "time": t, "gap": t**-1.5} for t in (1.0, 2.0, 4.0)]
    rows += [{"quench": "off", "time": 0.5, "gap": 9.0}, {"quench": "none", "time": 1, "gap": 7.0}]
    assert transport_tables.decay(rows) == pytest.approx(-1.5)


def test_weak_gaps_are_read_late_and_always():
    rows = [
        {"lead": lead, "strength": v, "time": t, "gap / S": 100 * lead * v / t}
        for lead, last in ((6, 5.4), (8, 7.2))
        for v in (0.1, 0.2, 0.5)
        for t in (0.5, 2.0, last)
    ]
    late, always = transport_values.weak_gaps(rows)
    assert late == pytest.approx({"6 sites": 120 / 5.4, "8 sites": 160 / 7.2})
    assert always == pytest.approx({"6 sites": 240, "8 sites": 320})


def bracket(gaussian, surplus, low, high, thermal=False):
    return {
        "gaussian": gaussian,
        "surplus": surplus,
        "low": low,
        "high": high,
        "number low": (low + high) / 2,
        "number high": high,
        "exact": (low + high) / 2,
        "thermal": thermal,
    }


def test_brackets_are_split_by_start_and_by_what_zero_clips():
    rows = [
        bracket(1.0, 0.5, 0.8, 1.0),
        bracket(1.0, 2.0, 0.8, 1.0),
        bracket(1.0, 0.5, 0.6, 1.0, thermal=True),
        bracket(1.0, 0.0, 1.0, 1.0),
    ]
    parts = transport_tables.split_brackets(rows)
    assert {name: len(part) for name, part in parts.items()} == {
        "pure, not clipped": 1,
        "pure, clipped at zero": 1,
        "thermal, not clipped": 1,
        "thermal, clipped at zero": 0,
    }
    assert transport_tables.tightening(parts["pure, not clipped"])["saved"] == pytest.approx(0.6)
    assert transport_tables.tightening(parts["pure, clipped at zero"])["plain"] == pytest.approx(1)
    values = transport_values.bracket_values(rows)
    assert values["bracket-holds"].value == 0
    assert values["bracket-thermal"].value == pytest.approx(0.2)
    assert values["bracket-number"].value == pytest.approx(0.6)
    broken = transport_values.bracket_values([*rows, {**rows[0], "exact": 0.7}])
    assert broken["bracket-holds"].value == 2


def test_shots_needed_follow_from_bias_and_spread():
    rows = [
        {"shots": 100, "estimator": "good", "target": 1.0, "spread": 9.0},
        {"shots": 1000, "estimator": "good", "target": 1.0, "spread": 0.1},
        {"shots": 1000, "estimator": "biased", "target": 1.016, "spread": 0.1},
        {"shots": 1000, "estimator": "wrong", "target": 1.1, "spread": 0.1},
    ]
    needed = {row["estimator"]: row["shots"] for row in transport_shots.shots_needed(rows, 1.0)}
    assert needed["good"] == pytest.approx(1000 * 0.01 / 0.0004)
    assert needed["biased"] == pytest.approx(1000 * 0.01 / 0.000144)
    assert needed["wrong"] is None


def test_shots_of_two_point_functions_count_all_settings():
    rows = [
        {"start": start, "settings": 11, "shots a setting": shots, "entropy": 2.0}
        | {"spread": 0.03, "bias": 0.04}
        for start in ("ground states", "T = 1")
        for shots in (300, 3000)
    ]
    needed = transport_shots.pair_shots_needed(rows)
    assert [row["start"] for row in needed] == ["ground states", "T = 1"]
    assert needed[0]["shots"] == pytest.approx(3000 * 11 * 0.0025 / 0.04**2)
    assert transport_shots.pair_shots_needed([]) == []


def test_samples_have_the_right_means():
    with jax.enable_x64(True):
        corr = np.asarray(ground_corr(hopping_chain(4), 2))
        sites, charges = transport_shots._sums(jax.random.key(0), corr, 7, 2000)
    assert sites.shape == (7, 4)
    np.testing.assert_allclose(sites.mean(0) / 2000, np.diag(corr).real, atol=0.02)
    np.testing.assert_array_equal(charges, [[0, 0, 2000, 0, 0]] * 7)


def test_dots_repel_where_they_should():
    closed, opened, interaction, left = transport_exact.dot_matrices("spinful", 0.7)
    np.testing.assert_array_equal(left, [1, 1, 1, 0, 0] * 2)
    assert closed[1, 2] == closed[6, 7] == closed[4, 5] == 0
    assert opened[1, 2] == opened[7, 8] == -0.5
    assert opened[2, 2] == opened[7, 7] == -0.35
    assert np.argwhere(interaction).tolist() == [[2, 7], [7, 2]]
    _, opened, interaction, _ = transport_exact.dot_matrices("resonant", 0.7)
    assert np.diag(opened)[4:7].tolist() == [-0.35, -0.7, -0.35]
    assert np.argwhere(interaction).tolist() == [[4, 5], [5, 4], [5, 6], [6, 5]]


def test_search_for_extreme_states():
    """Where nothing correlates, states reach both ends of the plain bracket."""
    bit = np.log(2)
    pair = np.diag([0.45, 0.05, 0.05, 0.45])
    search = transport_extremes._Search(
        np.eye(4) / 2 + 0j, 2, 3.3 * bit, np.kron(pair, np.eye(4) / 4)
    )
    assert search.extreme(1.0) == pytest.approx(1.3 * bit, abs=1e-4)
    assert search.extreme(-1.0) == pytest.approx(2 * bit, abs=1e-4)
    x, step = search._pack(search._gaussian() + 0.02), 1e-6
    direction = np.random.default_rng(1).normal(size=x.size)
    value = lambda s: search._lagrangian(x + s * direction, 1.0, 0.1 * search.corr, 0.3, 5.0)  # noqa: E731
    slope = (value(step)[0] - value(-step)[0]) / (2 * step)
    assert value(0.0)[1] @ direction == pytest.approx(slope, rel=1e-6)


def test_searches_start_from_the_true_state():
    """With the sites in another order, signs of exchange included."""
    with jax.enable_x64(True):
        (one,) = transport_exact.random_quenches(1, 3, ((5, 2),))
        order = np.array([3, 0, 4, 1, 2])
        rho = transport_extremes._density(one, order)
    corr = one.corr[np.ix_(order, order)]
    np.testing.assert_allclose(fock.correlation(rho, 5), corr, atol=1e-12)
    assert fock.von_neumann(rho) == pytest.approx(one.start, abs=1e-9)
    inside = one.region[order]
    exact = fock.von_neumann(fock.reduced(rho, 5, inside))
    assert exact == pytest.approx(one.exact, abs=1e-9)


def test_failed_searches_are_no_widths(monkeypatch):
    """Another start is tried; where neither leads anywhere, the width is unknown, not zero."""
    search = transport_extremes._Search(np.eye(2) / 2 + 0j, 1, 1.0, np.eye(4) / 4)
    found = iter([None, 0.3])
    monkeypatch.setattr(transport_extremes._Search, "_from", lambda *_: next(found))
    assert search.extreme(1.0) == 0.3
    monkeypatch.setattr(transport_extremes._Search, "_from", lambda *_: None)
    assert search.extreme(1.0) is None
    (row,) = transport_extremes.reached_widths(1, 0)
    assert row["reached"] is None
    rows = [row | {"certified": 0.4}, row | {"certified": 0.4, "reached": 0.3}]
    assert transport_values.reached_value(rows).value == pytest.approx(0.375)
    assert "1 of 2" in transport_tables.reached_table(rows).caption


@pytest.mark.slow
def test_correlation_of_a_matrix_product_has_strings():
    qtn = pytest.importorskip("quimb.tensor")
    rng = np.random.default_rng(0)
    amplitudes = rng.normal(size=(16,)) + 1j * rng.normal(size=(16,))
    amplitudes /= np.linalg.norm(amplitudes)
    # Index 0 of quimb's sites is occupied here, index 1 of the brute force's.
    flipped = amplitudes.reshape(2, 2, 2, 2)[::-1, ::-1, ::-1, ::-1].ravel()
    state = qtn.MatrixProductState.from_dense(amplitudes, [2] * 4)
    expected = fock.correlation(np.outer(flipped, flipped.conj()), 4)
    np.testing.assert_allclose(transport_mps.correlation(state), expected, atol=1e-12)


@pytest.mark.slow
def test_matrix_products_follow_the_free_chain():
    pytest.importorskip("quimb")
    start = transport_mps.leads(6, 0.0, 32)
    walk = transport_mps.evolver(start, 6, 0.0, 64)
    walk.update_to(1.0, order=4)
    with jax.enable_x64(True):
        half = ground_corr(hopping_chain(6), 3)
        (corr,) = evolve_eig(qpc(6, 6, contact=0.5), block_diag(half, half), np.array([1.0]))
        exact = float(entropy(corr, np.arange(12) < 6))
    np.testing.assert_allclose(transport_mps.correlation(walk.pt), corr, atol=1e-4)
    assert transport_mps.half_entropy(walk.pt, 6) == pytest.approx(exact, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["off", "none"])
def test_interacting_matrix_products_are_exact_in_short_leads(kind):
    """Six sites a lead need no more than 64 singular values: only the splitting errs."""
    pytest.importorskip("quimb")
    lead, strength = 6, 0.5
    hops, bonds = np.ones(11), np.full(11, strength)
    bonds[lead - 1] = 0

    def model(contact, kept):
        hops[lead - 1] = contact
        interaction = np.diag(kept * bonds, 1)
        interaction += interaction.T
        h = -np.diag(hops, 1) - np.diag(hops, -1) - np.diag(interaction.sum(1)) / 2
        return Interacting(h, interaction, lead)

    left = np.arange(12) < lead
    start = model(0.0, 1).ground_state(np.stack([left, ~left]), (3, 3))
    after = model(transport_mps.CONTACT, int(kind == "none"))
    with jax.enable_x64(True):
        rows = transport_mps.long_quenches(lead, strength, 64, (1.0, 2.0), (kind,))
        for row, state in zip(rows, after.evolve(start, np.array([1.0, 2.0])), strict=True):
            exact = after.entropy(state, left)
            assert row["exact"] == pytest.approx(exact, abs=1e-4)
            gaussian = float(entropy(after.correlation(state), left))
            assert row["gaussian"] == pytest.approx(gaussian, abs=1e-4)


def test_finished_steps_are_not_done_again(tmp_path, monkeypatch):
    """An interrupted run goes on where it stopped."""
    calls = []

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(transport_free, "estimators", lambda *a: calls.append(a) or [])
    monkeypatch.setattr(transport_free, "cumulant_series", stop)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            vne.run(SMOKE, Steps(tmp_path))
    assert calls == [(SMOKE.terminals,)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sweep": (0.2, 0.4)}, "two strengths"),
        ({"sweep": (0.2, 0.1)}, "ascend"),
        ({"window": (120.0, 160.0)}, "reflections"),
    ],
)
def test_bad_configs_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMOKE, **change)
