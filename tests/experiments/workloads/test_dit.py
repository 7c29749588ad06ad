"""The small diffusion transformer: one sample on one device, on eight and on two processes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.workloads.dit import Dit, planned_steps, velocity
from jaxlab.blocksparse import BlockMask
from jaxlab.dbsp import device_plan
from tests.compile_counter import count_compilations
from tests.distributed.launch import run_processes
from tests.distributed.test_processes import JOIN
from tests.experiments.workloads import dit_run


def test_eight_devices_denoise_as_one_with_new_masks_and_plans_at_every_step() -> None:
    alone = dit_run.on_one_device()
    with count_compilations("velocity") as compiled:
        together, adopted = dit_run.on_a_mesh(2, 4)
    assert compiled.count == 1
    assert adopted == 6  # two layers, at every step
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-4)
    fewer = dit_run.on_one_device(steps=2)
    assert abs(fewer - alone).max() > 1e-2


def test_every_step_runs_on_the_plans_made_from_the_step_before() -> None:
    policy, masks = dit_run.policy(2, 2), [dit_run.masks(step) for step in (0, 1)]
    (first, second), _ = planned_steps(policy, masks)
    assert (first[0], second[0]) == tuple(masks)
    made = [policy.planner(np.asarray(mask.blocks)) for mask in masks[0]]
    for plans, expected in ((first[1], [policy.initial] * 2), (second[1], made)):
        for found, one in zip(plans, expected, strict=True):
            np.testing.assert_array_equal(found.head_inv, device_plan(one).head_inv)
            shards = np.asarray(found.q_blocks), one.q_order.reshape(2, 2, -1)
            np.testing.assert_array_equal(*(np.sort(x, axis=-1) for x in shards))


def test_masks_and_positions_matter() -> None:
    parameters, noise, text = dit_run.inputs()

    def run(model: Dit, masks: tuple[BlockMask, ...], x: np.ndarray) -> np.ndarray:
        return np.asarray(velocity(model, parameters, x, np.float32(0.5), text, masks))

    plain = run(dit_run.MODEL, dit_run.masks(0), noise)
    assert abs(run(dit_run.MODEL, dit_run.masks(1), noise) - plain).max() > 1e-2
    assert abs(run(Dit(grid=(6, 4, 5)), dit_run.masks(0), noise) - plain).max() > 1e-3


def test_runs_without_text() -> None:
    model = Dit(grid=(2, 3, 4), layers=1)
    noise = jax.random.normal(jax.random.key(0), (2, 24, 3))
    mask = BlockMask(np.ones((5, 3, 3), bool), 8, 8, 24, 24)
    parameters = model.init(jax.random.key(1), noise, jnp.float32(1), None, lambda _, q, k, v: v)
    assert velocity(model, parameters, noise, np.float32(1), None, (mask,)).shape == noise.shape


@pytest.mark.distributed
def test_two_processes_denoise_as_one_device() -> None:
    alone = dit_run.on_one_device()
    for entry in run_processes([dit_run.__file__, *JOIN], processes=2, devices=4, timeout=280):
        answer = json.loads(entry.output.splitlines()[-1])
        assert answer["processes"] == 2
        assert answer["devices"] == [4, 8]
        assert answer["adopted"] == 6
        sample = np.float32(answer["sample"]).reshape(alone.shape)
        np.testing.assert_allclose(sample, alone, rtol=1e-4, atol=1e-4)
