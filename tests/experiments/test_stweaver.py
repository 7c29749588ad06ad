"""The experiment's own arithmetic, on inputs small enough to count by hand."""

import dataclasses
import math

import numpy as np
import pytest

from experiments import stweaver
from experiments.figures.stweaver import draw
from experiments.harness import Result
from experiments.workloads import (
    stweaver_packing,
    stweaver_runtime,
    stweaver_tables,
    stweaver_values,
)
from experiments.workloads.stweaver_training import Training, efficiency, largest
from jaxlab.stweaver import MODELS, Parallelism, Trace

SMOKE = stweaver.PRESETS["smoke"]
TINY = Training("GPT-2-345M", Parallelism(pipeline=2, microbatches=4), layers=2)


def peaks(reserved, allocated):
    share = allocated / reserved
    return {"efficiency": share, "reserved": reserved, "allocated": allocated}


def run_of(caching, static, ours, reuse, without):
    return {
        **dict.fromkeys(("caching", "expandable", "gmlake", "gmlake 64"), peaks(caching, 60)),
        "static": peaks(static, 60),
        "stweaver": peaks(ours, 60),
        "fallback_reuse": reuse,
        "fallback_static": without,
    }


def dense_row(schedule, shares):
    names = ("caching", "expandable", "gmlake", "stweaver", "gmlake 64")
    shares = (*shares, shares[2])
    return {
        "model": "M",
        "fallback": 0,
        "schedule": schedule,
        "requests": 3,
        "gap": 0.02,
        "allocators": {
            name: peaks(100 / share, 100) for name, share in zip(names, shares, strict=True)
        },
        "reduction": {"caching": shares[0], "expandable": shares[1], "gmlake": shares[2]},
    }


DENSE = [dense_row("N", (0.9, 0.8, 0.7, 0.99)), dense_row("R", (0.5, 0.4, 0.3, 0.95))]
MIXTURE = [
    {"schedule": "N", "requests": 9, "dynamic": 4, "runs": [run_of(100, 80, 75, 4, 4)] * 2},
    {"schedule": "R", "requests": 9, "dynamic": 4, "runs": [run_of(110, 70, 65, 1, 4)]},
]


CASE = {"caching": 3, "expandable": 4, "gmlake": 2, "stweaver": 4}


def test_values_of_training_are_those_counted_by_hand():
    sweep = [(1, DENSE[0]), (2, DENSE[1])]
    cases = [
        {"caching": 3, "expandable": 4, "gmlake": 2, "stweaver": 4},
        {"caching": 3, "expandable": 3, "gmlake": 2, "stweaver": 5},
    ]
    full = [dense_row("N", (0.2,) * 4), dense_row("R", (0.7, 0.6, 0.6, 0.98))]
    values = stweaver_values.training_values(DENSE, MIXTURE, sweep, cases, full)
    got = {name: value.value for name, value in values.items()}
    assert got["online-fragments"] == pytest.approx(0.5)
    assert (got["full-fragments"], got["full-efficiency"]) == pytest.approx((0.7, 0.98))
    assert got["recompute-fragments-more"] == pytest.approx(0.4)
    assert got["dense-efficiency"] == pytest.approx(0.95)
    assert got["dense-reduction-expandable"] == pytest.approx(0.6)
    assert got["moe-fragmentation"] == pytest.approx((2 * 15 / 75 + 5 / 65) / 3)
    assert got["moe-reuse-recompute"] == pytest.approx(0.25)
    assert got["moe-reuse-none"] == 1
    saved_by_plan, saved = 2 * (100 - 80) + (110 - 70), 2 * (100 - 75) + (110 - 65)
    assert got["static-share"] == pytest.approx(saved_by_plan / saved)
    assert got["microbatch-spread"] == pytest.approx(0.04)
    assert (got["larger-microbatch-never-less"], got["larger-microbatch"]) == (0, 2)


def test_a_share_of_no_gain_is_no_number():
    losers = [{"schedule": name, "requests": 9, "dynamic": 4, "runs": []} for name in "NR"]
    for row in losers:
        row["runs"] = [run_of(100, 120, 110, 4, 4)]
    values = stweaver_values.training_values(DENSE, losers, [(1, DENSE[0])], [CASE], [])
    assert "fits" in values["full-fragments"].reason
    assert math.isnan(values["static-share"].value)
    claim = next(claim for claim in stweaver.CLAIMS if claim.id == "static-share")
    assert not claim.criterion.accepts(values["static-share"].value)
    assert not claim.criterion.accepts(3.6)
    assert values["moe-reduction-caching"].value == pytest.approx(1 - 100 / 80)


def test_values_of_packing_count_instances():
    hard = [
        {"name": "A", "height": 100, "solved": True, "seconds": 1.0},
        {"name": "B", "height": 120, "solved": False, "seconds": 10.0},
    ]
    known = [{"solved": turn % 4 > 0} for turn in range(200)]
    patient = [{"solved": turn < 6} for turn in range(24)]
    values = stweaver_values.packing_values([], hard, {"A": 101, "B": 120}, known, patient)
    got = {name: value.value for name, value in values.items()}
    assert got == {
        "minimalloc-solved": 1,
        "minimalloc-slowest": 10,
        "minimalloc-total": 11,
        "minimalloc-peer": 1,
        "known-optimum": 0.75,
        "known-optimum-minute": 0.25,
    }
    alone = stweaver_values.packing_values([], hard, {}, [], patient[1:])
    assert "omnimalloc" in alone["minimalloc-peer"].reason
    assert "200" in alone["known-optimum"].reason
    assert "24" in alone["known-optimum-minute"].reason


def test_savings_are_judged_where_there_is_room():
    rows = [
        {"model": "a", "ours": 90, "program": 100, "saving": 0.1, "room": 0.2},
        {"model": "b", "ours": 99, "program": 100, "saving": 0.01, "room": 0.1},
    ]
    ran = [
        {**rows[0], "batch": 4, "identical": True},
        {**rows[0], "batch": 64, "identical": False},
    ]
    jaxprs = [{"bound": 98, "height": 100}, {"bound": 1, "height": 1}]
    xla = [
        {"model": "a", "remat": False, "stated": 8, "rebuilt": 8, "error": ""},
        {"model": "a", "remat": True, "stated": 8, "rebuilt": 7, "error": ""},
    ]
    values = stweaver_values.program_values([*ran, rows[1]], jaxprs, xla)
    assert values["order-saves"].value == pytest.approx(0.1)
    assert values["order-never-worse"].value == pytest.approx(0.99)
    assert values["order-identical"].value == {"a, batch 4": True, "a, batch 64": False}
    assert values["jax-plans"].value == pytest.approx(0.98)
    assert values["xla-temporaries"].value == {"a": True, "a remat": False}
    assert "15 %" in stweaver_values.program_values(rows[1:], jaxprs, xla)["order-saves"].reason


def test_every_peer_that_is_lower_is_listed():
    hard = [{"name": "A", "height": 110, "bound": 100}]
    table = stweaver_tables.shortfalls(DENSE, [], [], hard, {"A": 100}, [], [], [])
    assert ("MiniMalloc A", None, pytest.approx(0.1)) in table.rows
    assert ("MiniMalloc A", "supermalloc", pytest.approx(0.1)) in table.rows
    assert not [row for row in table.rows if row[1] == "caching"]
    worse = [dense_row("N", (0.9, 0.995, 0.7, 0.99))]
    table = stweaver_tables.shortfalls(worse, [], [], [], {}, [], [], [])
    assert [row[1] for row in table.rows] == [None, "expandable"]


def test_a_job_is_traced_with_the_blocks_asked_for():
    assert TINY.shapes.layers == 2
    assert dataclasses.replace(TINY, layers=0).shapes == MODELS["GPT-2-345M"]
    row = efficiency(TINY, "R", 3, microbatch=3)
    assert row["allocators"]["stweaver"]["efficiency"] <= 1
    bytes_ = {name: one["reserved"] for name, one in row["allocators"].items()}
    half = efficiency(TINY, "R", 3, microbatch=1)["allocators"]["stweaver"]["reserved"]
    assert half < bytes_["stweaver"]


def test_the_largest_microbatch_obeys_the_capacity():
    found = largest(TINY, "N", 2 << 30, limit=64)
    assert set(found) == {"caching", "expandable", "gmlake", "stweaver"}
    assert 0 < found["stweaver"] < 64
    assert found["stweaver"] >= largest(TINY, "N", 1 << 30, limit=64)["stweaver"]


def test_microbatches_are_added_until_there_are_enough_requests():
    trace = stweaver_packing.steady(TINY, "N", 2_000)
    assert 2_000 <= len(trace) < 2_300
    assert trace.period is not None


def test_an_interrupted_request_costs_the_counting_matcher_the_rest():
    rows = stweaver_runtime.surprises(TINY, "N", trials=4, seed=1)
    assert [row["change"] for row in rows] == ["inserted", "deleted"] * 2
    assert min(row["resynchronized"] for row in rows) > 0.9
    assert all(row["counted"] < 0.9 for row in rows)


def test_one_more_request_is_one_more_request():
    trace = Trace.of(size=[512, 1024, 2048], start=[0, 2, 3], end=[5, 4, 6])
    more = stweaver_runtime._with_extra(trace, 1, np.random.default_rng(0))
    assert len(more) == 4
    assert more.size[[0, 2, 3]].tolist() == [512, 1024, 2048]
    assert more.start.tolist() == [0, 3, 4, 6]
    assert np.unique(more.id).size == 4


def test_instances_of_known_optimum_are_many_and_of_many_kinds():
    cuts = stweaver.PRESETS["paper"].known
    assert len(set(cuts)) == len(cuts) >= 200
    assert {cut.requests for cut in cuts} == {500, 1000, 1500, 2000}
    cut = stweaver_packing.Cut(40, 1 << 20, 0.5, 3)
    row = stweaver_packing.known_optimum(cut, 5.0, 0)
    assert (row["solved"], row["gap"], row["requests"]) == (True, 0, 40)
    patient = stweaver.PRESETS["paper"].patient
    kinds = {(one.requests, one.duration, one.pinwheels) for one in patient}
    assert len(kinds) == len(patient) == 24


@pytest.mark.slow
def test_instances_with_more_time_run_in_processes_of_their_own():
    cuts = tuple(stweaver_packing.Cut(40, 1 << 20, 0.5, seed) for seed in (3, 4, 5))
    rows = stweaver_packing.patiently(cuts, 5.0)
    assert [row["seed"] for row in rows] == [3, 4, 5]
    assert all(row["solved"] for row in rows)


def test_the_last_row_of_rectangles_is_their_total():
    cut = {"requests": 5, "duration": 8, "pinwheels": 0.0}
    found = [{**cut, "solved": True, "took": 3.0, "gap": 0.0}]
    found.append({**cut, "requests": 6, "solved": False, "took": 9.0, "gap": 0.5})
    _, _, table, patient = stweaver_tables.packing_tables([], [], {}, found[:1], found)
    assert table.rows == ((5, 8, 0.0, 1, 1, 3.0, 0, 0), ("all", None, None, 1, 1, 3.0, 0, 0))
    assert patient.rows[1:] == (
        (6, 8, 0.0, 1, 0, None, 0.5, 0.5),
        ("all", None, None, 2, 0.5, 3.0, 0.25, 0.5),
    )


def test_figures_need_no_more_than_the_facts():
    curve = {"reserved": [1, 3, 3], "allocated": [1, 2, 1]}
    occupancy = {
        "title": "two requests",
        "period": 4,
        "start": [0, 3],
        "end": [2, 6],
        "size": [1 << 20, 2 << 20],
        "offset": [2 << 20, 0],
        "phase": [-1, 0],
        "height": 3 << 20,
        "bound": 3 << 20,
    }
    names = ("caching", "expandable", "gmlake", "stweaver")
    facts = {
        "efficiency": DENSE,
        "occupancy": occupancy,
        "curves": {"title": "M, R", "curves": dict.fromkeys(names, curve)},
    }
    assert list(draw(Result({}, facts=facts))) == ["occupancy", "reserved", "fragmentation"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 0}, "seeds=0"),
        ({"schedules": ("N",)}, "must hold both 'N' and 'R'"),
        ({"programs": ("gpt5",)}, "'gpt5'"),
        ({"dense": ()}, "dense is empty"),
    ],
)
def test_bad_configs_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMOKE, **change)


def test_bad_jobs_are_refused():
    with pytest.raises(ValueError, match="'GPT-5' is unknown"):
        Training("GPT-5", Parallelism())
    with pytest.raises(ValueError, match="layers=-1"):
        Training("GPT-2-345M", Parallelism(), layers=-1)
