"""Kernels are timed on the right tiles, and times added up as by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.workloads import parallel_attention
from experiments.workloads.parallel_attention import (
    Kernels,
    Setting,
    end_to_end,
    overhead,
    step_seconds,
    time_alone,
)
from jaxlab.dbsp import Plan, layer_time, work_table
from tests.oracles import balance


def returns_queries(q, k, v, mask, implementation):
    return q


@pytest.mark.parametrize(("ulysses", "ring"), [(1, 1), (3, 1), (1, 2), (3, 2), (1, 3)])
def test_every_rank_is_timed_on_its_own_tile(monkeypatch, ulysses, ring):
    rng = np.random.default_rng(2)
    blocks = rng.random((3, 12, 18)) < rng.random((3, 1, 1))
    orders = [np.stack([rng.permutation(size) for _ in range(ulysses)]) for size in (12, 18)]
    plan = Plan(ulysses, ring, rng.permutation(3), *orders)
    work = balance.work_by_block(blocks, plan)

    def count(functions, *, rounds, calls):
        masks = [function.args[3] for function in functions]
        for function, mask in list(zip(functions, masks, strict=True))[1:]:
            q, k, v = function.args[:3]
            assert q.shape == (1, 12 // ring * 4, 3 // ulysses, 8)
            assert k.shape == v.shape == (1, 18 // ring * 4, 3 // ulysses, 8)
            assert (mask.q_len, mask.kv_len) == (q.shape[1], k.shape[1])
        return np.array([float(jnp.sum(mask.blocks)) for mask in masks])

    monkeypatch.setattr(parallel_attention, "time_alone", count)
    monkeypatch.setattr(parallel_attention, "block_sparse_attention", returns_queries)
    whole = Plan.contiguous(heads=3, q_blocks=12, kv_blocks=18, ulysses=1, ring=1)
    found = step_seconds(Kernels(block=4, dim=8), blocks, {"whole": whole, "ours": plan})
    assert found["whole"].tolist() == [[[blocks.sum()]]]
    rank = np.arange(ring)
    for step in range(ring):
        np.testing.assert_array_equal(found["ours"][:, step], work[:, rank, (rank + step) % ring])


def test_times_grow_with_the_blocks():
    blocks = np.zeros((2, 16, 16), bool)
    blocks[0, :, :2], blocks[1] = True, True
    plan = Plan.contiguous(heads=2, q_blocks=16, kv_blocks=16, ulysses=2, ring=1)
    seconds = step_seconds(Kernels(block=32, dim=32, rounds=5), blocks, {"": plan})[""]
    assert work_table(blocks, plan).reshape(-1).tolist() == [32, 256]
    assert 1.5 * seconds[0, 0, 0] < seconds[1, 0, 0]


def test_a_machine_that_slows_down_for_seconds_does_not_show():
    """Its speed is halved for 3 of every 7 seconds, and a sample now and then is disturbed."""
    now, disturbed = [0.0], np.random.default_rng(1)

    def work(seconds):
        def run():
            slow = 2 if now[0] % 7 < 3 else 1
            now[0] += seconds * slow * (3 if disturbed.random() < 0.05 else 1)

        return run

    true = np.linspace(0.01, 0.05, 200)
    functions = [work(seconds) for seconds in true]
    found = time_alone(functions, rounds=5, clock=lambda: now[0])
    relative = found / true
    assert np.median(relative) == pytest.approx(1)
    assert np.mean(abs(relative - 1) > 1e-6) < 0.05  # next to where the speed changes


def test_what_a_plan_pads_is_no_work(monkeypatch):
    blocks = np.ones((3, 5, 3), bool)
    plan = Plan.contiguous(heads=3, q_blocks=5, kv_blocks=3, ulysses=2, ring=2)

    def count(functions, *, rounds, calls):
        assert {function.args[0].shape for function in functions} == {(1, 16, 2, 8)}
        return np.array([float(jnp.sum(function.args[3].blocks)) for function in functions])

    monkeypatch.setattr(parallel_attention, "time_alone", count)
    monkeypatch.setattr(parallel_attention, "block_sparse_attention", returns_queries)
    found = step_seconds(Kernels(block=4, dim=8), blocks, {"": plan})[""]
    assert found.tolist() == [[[16, 2], [8, 4]], [[8, 1], [4, 2]]]


def test_calls_in_a_row_are_one_sample():
    now, called = [0.0], []

    def run():
        called.append(now[0])
        now[0] += 3.0

    assert time_alone([run], rounds=2, calls=4, clock=lambda: now[0]).tolist() == [3.0]
    assert len(called) == 8


def test_scaled_links_weigh_the_same():
    setting = Setting()
    # 4 * 0.414 * 75600^2 * 40 * 128 / (8 * 150e12) seconds of attention
    assert setting.attention_seconds == pytest.approx(0.0404, rel=2e-3)
    kernels = Kernels(block=64, dim=32)
    assert kernels.tensor_bytes(40, 64) == 4 * 40 * 4096 * 32
    for seconds, size in ((0.3, kernels.tensor_bytes(40, 64)), (0.001, 7.0)):
        links = setting.links_for(seconds, size)
        idle = np.full((8, 1, 1), seconds)
        there = layer_time(idle, None, tensor_bytes=size, links=links)
        here = layer_time(
            np.full((8, 1, 1), setting.attention_seconds),
            None,
            tensor_bytes=setting.tensor_bytes,
            links=setting.links,
        )
        assert there.all_to_all / there.ring == pytest.approx(here.all_to_all / here.ring)


def test_the_law_of_amdahl():
    assert end_to_end(1.4, 0.5) == pytest.approx(1 / (0.5 + 0.5 / 1.4))
    assert end_to_end(2.0, 1.0) == 1
    assert end_to_end(2.0, 0.0) == 2


def test_overhead_worked_by_hand():
    setting = Setting(
        tokens=10, heads=1, dim=1, devices=2, itemsize=2, bandwidth=5.0, latency=0.5,
        memory_bandwidth=40.0,
    )  # 10 bytes of a tensor on each device  # fmt: skip
    parts = overhead(
        setting,
        planning_seconds=6.0,
        interval=3.0,
        prediction_seconds=0.3,
        moved=(0.5, 0.0),
        attention_seconds=100.0,
    )
    assert parts == pytest.approx(
        {
            "planning": 0.02,
            "prediction": 0.001,
            "permute": 0.02,
            "exchange": 0.03,  # 2 * 0.5 * 10 / 5 + 2 * 0.5
            "total": 0.071,
        }
    )


@pytest.mark.parametrize("field", ["block", "dim", "rounds", "calls"])
def test_bad_kernels_are_refused(field):
    with pytest.raises(ValueError, match=f"{field}=0"):
        Kernels(**{field: 0})
