"""Traces of training schedules: shapes, order of passes, lifetimes, routing."""

import collections
import dataclasses

import numpy as np
import pytest

from jaxlab.stweaver import (
    Parallelism,
    Runtime,
    Trace,
    ablation,
    compare,
    fragmentation_reduction,
    largest_microbatch,
    plan,
    schedule_trace,
    simulate,
    static_part,
    unroll,
)
from jaxlab.stweaver.block_ops import block_ops
from jaxlab.stweaver.models import block_weights
from jaxlab.stweaver.pipeline import one_forward_one_backward
from jaxlab.stweaver.routing import expert_tokens
from jaxlab.stweaver.schedule import MODELS, SCHEDULES
from tests.oracles.overlaps import collision

MIB = 1 << 20
TINY = dataclasses.replace(MODELS["Qwen1.5-MoE-A2.7B"], layers=4, sequence=64, vocab=1024)
SMALL = Parallelism(pipeline=2, data=2, expert=2, microbatches=4)


def quick(trace: Trace):
    return plan(trace, planner="greedy:size")


def live_bytes(trace: Trace, time: int) -> int:
    return int(trace.size[(trace.start <= time) & (time < trace.end)].sum())


# Shapes.


@pytest.mark.parametrize(
    ("name", "millions"),
    [("GPT-2-345M", 354.9), ("Llama-2-7B", 6738.4), ("Qwen1.5-MoE-A2.7B", 14315.8)],
)
def test_parameters_equal_the_published_counts(name: str, millions: float) -> None:
    # Padding the vocabulary of GPT-2 adds 47 rows to 354.82 million.
    assert MODELS[name].parameters / 1e6 == pytest.approx(millions, abs=0.06)


def test_weights_divide_over_ranks() -> None:
    model = MODELS["Qwen1.5-MoE-A2.7B"]
    whole, part = block_weights(model, 1, 1), block_weights(model, 2, 4)
    assert sum(name.endswith(".fc1") for name in part) == 15
    assert whole["qkv"] == 2 * part["qkv"] == 3 * 2048 * 2048
    assert whole["expert0.fc1"] == part["expert0.fc1"] == 2 * 2048 * 1408


@pytest.mark.parametrize("name", MODELS)
def test_blocks_free_all_they_allocate(name: str) -> None:
    model = MODELS[name]
    counts = np.array([5, 0, 9]) if model.experts else None
    ops = block_ops(model, 32, 1, counts)
    for forward_only in (True, False):
        live = {"x": 0} if forward_only else {"x": 0, "dy": 0}
        for operation in ops.forward if forward_only else (*ops.forward, *ops.backward):
            for result, size in operation.results:
                assert result not in live, result
                live[result] = size
            for dropped in operation.drops:
                if not forward_only and operation in ops.forward and dropped in ops.saved:
                    continue
                del live[dropped]
        assert set(live) == ({"x", "y"} if forward_only else {"y", "dx"})


def test_a_llama_block_saves_what_its_equations_need() -> None:
    ops = block_ops(MODELS["Llama-2-7B"], 10, 1)
    sizes = {name: size for operation in ops.forward for name, size in operation.results}
    # In units of tokens * hidden * 2 bytes: ln1, qkv (3), q, k, context, r, ln2; then fc1 and act.
    stream = 2 * 10 * 4096
    big = {name: sizes[name] for name in ops.saved if sizes[name] > 2000}
    assert sum(big.values()) == 9 * stream + 2 * 10 * 3 * 11008
    assert {name for name in ops.saved if name not in big} == {"lse", "random", "rstd1", "rstd2"}


# Order of passes.


def test_plain_schedule_by_hand() -> None:
    order = [f"{kind}{microbatch}" for kind, microbatch, _ in one_forward_one_backward(4, 1, 5)]
    assert order == ["F0", "F1", "F2", "B0", "F3", "B1", "F4", "B2", "B3", "B4"]
    last = [f"{kind}{microbatch}" for kind, microbatch, _ in one_forward_one_backward(4, 3, 2)]
    assert last == ["F0", "B0", "F1", "B1"]


def test_interleaved_schedule_by_hand() -> None:
    order = one_forward_one_backward(2, 0, 4, 2)
    text = [f"{kind}{microbatch}{'ab'[chunk]}" for kind, microbatch, chunk in order]
    expected = "F0a F1a F0b F1b F2a B0b F3a B1b F2b B0a F3b B1a B2b B3b B2a B3a"
    assert text == expected.split()
    with pytest.raises(ValueError, match="multiple of the ranks"):
        one_forward_one_backward(2, 0, 3, 2)


@pytest.mark.parametrize("chunks", [1, 2, 3])
@pytest.mark.parametrize("rank", [0, 1, 3])
@pytest.mark.parametrize("microbatches", [4, 8, 12])
def test_every_pass_runs_once_and_forward_comes_first(
    chunks: int, rank: int, microbatches: int
) -> None:
    order = one_forward_one_backward(4, rank, microbatches, chunks)
    assert len(order) == len(set(order)) == 2 * microbatches * chunks
    place = {item: number for number, item in enumerate(order)}
    for kind, microbatch, chunk in order:
        if kind == "B":
            assert place["F", microbatch, chunk] < place["B", microbatch, chunk]


# Traces.


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("rank", [0, 1])
def test_every_request_is_freed_and_every_time_is_used_once(schedule: str, rank: int) -> None:
    how = dataclasses.replace(SMALL, schedule=schedule, rank=rank)
    trace = schedule_trace(TINY, how, iterations=2)
    times = np.concatenate([trace.start, trace.end])
    assert np.array_equal(np.sort(times), np.arange(2 * len(trace)))
    assert trace.phases[0] == "init"
    assert set(trace.iteration.tolist()) == {-1, 0, 1}
    assert trace.dynamic.any()
    assert not (trace.dynamic & (trace.layer_start < 0)).any()
    modules = [trace.layers[code] for code in trace.layer_start[trace.dynamic]]
    assert all("experts" in module for module in modules)


def test_repeated_iterations_ask_for_the_same_static_bytes() -> None:
    trace = static_part(schedule_trace(TINY, SMALL, iterations=4))
    sizes = [trace.size[trace.iteration == number].tolist() for number in range(4)]
    assert sizes[1] == sizes[2] == sizes[3]
    assert len(sizes[0]) > len(sizes[1])  # moments of the optimizer are made in the first


def test_recomputation_and_sharding_save_what_they_should() -> None:
    peaks = {}
    model = dataclasses.replace(TINY, experts=8, vocab=512)
    for schedule in SCHEDULES:
        how = dataclasses.replace(SMALL, schedule=schedule, microbatch=256)
        trace = schedule_trace(model, how, iterations=1)
        peaks[schedule] = simulate(trace, "bump").peak_requested
    assert peaks["R"] < peaks["N"] <= peaks["V"]
    assert peaks["VR"] < peaks["V"]
    assert peaks["ZOR"] < peaks["ZR"] < peaks["R"]


def test_optimizer_states_shard_over_replicas() -> None:
    base = Parallelism(pipeline=2, data=4, microbatches=2)
    model = dataclasses.replace(MODELS["GPT-2-345M"], layers=2, sequence=32)
    states = {}
    for schedule in ("N", "Z"):
        trace = schedule_trace(model, dataclasses.replace(base, schedule=schedule), iterations=1)
        names = np.asarray([name.split(".", 1)[1] for name in trace.id])
        masters = np.char.endswith(names, "master") | np.char.endswith(names, "moment")
        states[schedule] = int(trace.size[masters].sum())
    assert states["Z"] == pytest.approx(states["N"] / 4, rel=1e-3)


def test_pipeline_stages_hold_fewer_microbatches_downstream() -> None:
    model = dataclasses.replace(MODELS["GPT-2-345M"], layers=8, sequence=64, vocab=128)
    saved = []
    for rank in range(4):
        how = Parallelism(pipeline=4, rank=rank, microbatches=8)
        trace = schedule_trace(model, how, iterations=1)
        of_blocks = np.char.endswith(trace.id, ".fc1") & (trace.iteration == 0)
        times = np.sort(trace.start[of_blocks])
        saved.append(max(live_bytes(trace.select(of_blocks), int(t)) for t in times))
    assert saved == [4 * saved[3], 3 * saved[3], 2 * saved[3], saved[3]]


def test_a_period_keeps_the_load_of_the_steady_iteration() -> None:
    straight = schedule_trace(TINY, SMALL, iterations=3)
    periodic = schedule_trace(TINY, SMALL, iterations=3, periodic=True)
    begin = int(straight.start[straight.iteration == 1].min())
    assert (periodic.end > periodic.period).sum() == 4  # the batch that is fetched ahead
    for time in range(0, periodic.period, 97):
        now = (periodic.start <= time) & (time < periodic.end)
        wrapped = time < periodic.end - periodic.period
        expected = live_bytes(straight, begin + time)
        assert int(periodic.size[now | wrapped].sum()) == expected


@pytest.mark.slow
def test_a_large_trace_has_many_sizes_and_phases() -> None:
    how = Parallelism(pipeline=2, data=4, expert=4, microbatches=64, schedule="R")
    model = dataclasses.replace(MODELS["Qwen1.5-MoE-A2.7B"], sequence=256)
    trace = schedule_trace(model, how, iterations=3, periodic=True)
    assert len(trace) > 150_000
    assert np.unique(trace.size).size >= 30
    assert len(trace.phases) >= 8
    assert (trace.end > trace.period).any()


# Routing.


def test_each_token_chooses_distinct_experts() -> None:
    counts = expert_tokens(500, 7, 7, layer=0, microbatch=0, seed=1)
    assert counts.tolist() == [500] * 7
    counts = expert_tokens(400, 6, 2, layer=1, microbatch=0, seed=1)
    assert counts.sum() == 800
    assert counts.max() <= 400


def test_routing_follows_its_chances() -> None:
    # Mean over many microbatches of top-1 counts, against the Gumbel-max definition.
    tokens, experts = 20_000, 5
    counts = expert_tokens(tokens, experts, 2, layer=3, microbatch=4, seed=9)
    lasting = np.random.default_rng([3]).normal(0, 0.3, experts)
    random = np.random.default_rng([9, 3, 4])
    logits = lasting + random.normal(0, 0.2, experts)
    noise = np.random.default_rng(0).gumbel(size=(200_000, experts))
    top = np.argsort(-(logits + noise), axis=1)[:, :2]
    expected = np.bincount(top.reshape(-1), minlength=experts) / 200_000
    assert counts / tokens == pytest.approx(expected, abs=0.02)


def test_seeds_change_the_dynamic_requests_alone() -> None:
    first, second = (schedule_trace(TINY, SMALL, seed=seed) for seed in (0, 1))
    assert len(first) == len(second)
    assert np.array_equal(first.dynamic, second.dynamic)
    assert np.array_equal(first.size[~first.dynamic], second.size[~second.dynamic])
    assert not np.array_equal(first.size[first.dynamic], second.size[second.dynamic])
    again = schedule_trace(TINY, SMALL, seed=1)
    assert again == second


# Plans of schedules.


@pytest.mark.parametrize("schedule", ["N", "VR", "ZOR"])
def test_a_plan_from_one_seed_serves_another(schedule: str) -> None:
    how = dataclasses.replace(SMALL, schedule=schedule)
    profile, run = (schedule_trace(TINY, how, seed=seed) for seed in (0, 5))
    replays = ablation(run, quick, profile=profile)
    for name in ("static", "full"):
        assert collision(run, replays[name]) is None
        assert replays[name].counters["unmatched"] == replays[name].counters["occupied"] == 0
    assert replays["static"].counters["reused"] == 0
    full, static = (replays[name].counters["fallback_reserved"] for name in ("full", "static"))
    assert full <= static


def test_reuse_lowers_the_fallback_under_recomputation() -> None:
    how = dataclasses.replace(SMALL, schedule="R", microbatches=6)
    profile, run = (schedule_trace(TINY, how, seed=seed) for seed in (0, 5))
    replays = ablation(run, quick, profile=profile)
    assert replays["full"].counters["reused"] > 0


def test_a_periodic_plan_serves_many_iterations() -> None:
    profile = schedule_trace(TINY, SMALL, periodic=True)
    runtime = Runtime.of(profile, quick(static_part(profile)))
    run = unroll(schedule_trace(TINY, SMALL, periodic=True, seed=3), 3)
    replay = runtime.replay(run)
    assert collision(run, replay) is None
    assert replay.counters["unmatched"] == replay.counters["occupied"] == 0
    assert replay.counters["planned"] == 3 * len(static_part(profile))


@pytest.mark.parametrize("schedule", ["N", "V", "ZOR"])
def test_the_last_profiled_iteration_repeats(schedule: str) -> None:
    how = dataclasses.replace(SMALL, schedule=schedule)
    profile = schedule_trace(TINY, how, iterations=2)
    runtime = Runtime.of(profile, quick(static_part(profile)))
    for iterations in (2, 3, 6):
        run = schedule_trace(TINY, how, iterations=iterations)
        replay = runtime.replay(run)
        assert collision(run, replay) is None
        assert replay.counters["unmatched"] == replay.counters["occupied"] == 0, iterations
        assert replay.counters["planned"] == len(static_part(run))
        first = runtime.replay(profile).counters
        if iterations > 2:  # the second iteration's share of idle ranges, again and again
            assert replay.counters["reused"] > first["reused"]


def test_one_profiled_iteration_is_not_taken_for_a_steady_one() -> None:
    profile = schedule_trace(TINY, SMALL, iterations=1)
    replay = Runtime.of(profile, quick(static_part(profile))).replay(
        schedule_trace(TINY, SMALL, iterations=2)
    )
    assert replay.counters["planned"] == len(static_part(profile))


def test_comparison_and_reduction() -> None:
    run = schedule_trace(TINY, SMALL)
    replays = compare(run, quick)
    assert list(replays) == ["caching", "expandable", "gmlake", "stweaver"]
    counts = collections.Counter(replay.allocator for replay in replays.values())
    assert set(counts.values()) == {1}
    base, ours = replays["caching"], replays["stweaver"]
    lost = base.peak_reserved - base.peak_allocated
    expected = 1 - (ours.peak_reserved - ours.peak_allocated) / lost
    assert fragmentation_reduction(ours, base) == pytest.approx(expected)
    assert fragmentation_reduction(base, base) == 0.0


def test_the_largest_microbatch_is_the_last_that_fits() -> None:
    model = dataclasses.replace(MODELS["GPT-2-345M"], layers=2, sequence=64, vocab=512)
    how = Parallelism(pipeline=1, microbatches=2, schedule="R")
    capacity = 800 * MIB
    for allocator in ("caching", "stweaver"):
        best = largest_microbatch(model, how, capacity, allocator=allocator, planner=quick)
        peaks = []
        for samples in (best, best + 1):
            trace = schedule_trace(
                model, dataclasses.replace(how, microbatch=samples), iterations=2
            )
            if allocator == "caching":
                peaks.append(simulate(trace, allocator, capacity=capacity).survived)
            else:
                peaks.append(quick(static_part(trace)).height + 50 * 512 <= capacity)
        assert peaks == [True, False], (allocator, best)
    assert largest_microbatch(model, how, 10 * MIB, planner=quick) == 0
    with pytest.raises(ValueError, match="planner"):
        largest_microbatch(model, how, capacity)


# Bad input.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 2, "pipeline": 2}, "rank=2"),
        ({"schedule": "X"}, "schedule='X'"),
        ({"schedule": "NR"}, "schedule='NR'"),
        ({"schedule": ""}, "schedule=''"),
        ({"data": 3, "expert": 2}, "expert=2 must divide"),
        ({"microbatch": 0}, "microbatch=0"),
        ({"schedule": "V", "chunks": 1}, "chunks=1"),
    ],
)
def test_impossible_training_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Parallelism(**options)


@pytest.mark.parametrize(
    ("model", "how", "iterations", "message"),
    [
        ("GPT-5", Parallelism(), 3, "model='GPT-5'"),
        ("GPT-2-345M", Parallelism(pipeline=5), 3, "24 layers do not divide by 5"),
        ("GPT-2-345M", Parallelism(tensor=3), 3, "16 heads"),
        ("GPT-2-345M", Parallelism(), 0, "iterations=0"),
    ],
)
def test_impossible_traces_are_refused(
    model: str, how: Parallelism, iterations: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        schedule_trace(model, how, iterations=iterations)
