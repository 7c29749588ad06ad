"""The small diffusion transformer: one sample on one device, on eight and on two processes."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.workloads import dit
from experiments.workloads.dit import Dit, planned_steps, rest_seconds, velocity
from jaxlab.blocksparse import BlockMask
from jaxlab.dbsp import device_plan
from tests.compile_counter import count_compilations
from tests.distributed.launch import run_processes
from tests.distributed.test_processes import JOIN
from tests.experiments.workloads import dit_run
from tests.jaxpr_equations import equations


@pytest.mark.parametrize(
    ("model", "degrees"),
    [
        (dit_run.SMALL, (1, 2)),
        pytest.param(dit_run.MODEL, (2, 4), marks=pytest.mark.slow),
    ],
)
def test_devices_denoise_as_one_with_new_masks_and_plans_at_every_step(
    model: Dit, degrees: tuple[int, int]
) -> None:
    alone = dit_run.on_one_device(model=model)
    with count_compilations("velocity") as compiled:
        together, adopted = dit_run.on_a_mesh(*degrees, model)
    assert compiled.count == 1
    assert adopted == model.layers * dit_run.STEPS
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-4)
    fewer = dit_run.on_one_device(steps=2, model=model)
    assert abs(fewer - alone).max() > 1e-2


def test_every_step_runs_on_the_plans_made_from_the_step_before() -> None:
    policy, masks = dit_run.policy(2, 2), [dit_run.masks(step) for step in (0, 1)]
    (first, second), _ = planned_steps(policy, masks)
    assert first[0] is masks[0]
    assert second[0] is masks[1]
    made = [policy.planner(np.asarray(mask.blocks)) for mask in masks[0]]
    for plans, expected in ((first[1], [policy.initial] * 2), (second[1], made)):
        for found, one in zip(plans, expected, strict=True):
            np.testing.assert_array_equal(found.head_inv, device_plan(one).head_inv)
            shards = np.asarray(found.q_blocks), one.q_order.reshape(2, 2, -1)
            np.testing.assert_array_equal(*(np.sort(x, axis=-1) for x in shards))


def test_masks_and_positions_matter() -> None:
    small = dit_run.SMALL
    parameters, noise, text = dit_run.inputs(small)

    def run(model: Dit, step: int) -> np.ndarray:
        masks = dit_run.masks(step, small)
        return np.asarray(velocity(model, parameters, noise, np.float32(0.5), text, masks))

    plain = run(small, 0)
    assert abs(run(small, 1) - plain).max() > 1e-2
    assert abs(run(Dit(grid=(6, 4, 5), layers=1), 0) - plain).max() > 1e-3


def test_runs_without_text() -> None:
    model = Dit(grid=(2, 3, 4), layers=1)
    noise = jax.random.normal(jax.random.key(0), (2, 24, 3))
    mask = BlockMask(np.ones((5, 3, 3), bool), 8, 8, 24, 24)

    def run(key: jax.Array) -> jax.Array:
        given = noise, jnp.float32(1), None
        parameters = model.init(key, *given, lambda _, q, k, v: v)
        return velocity(model, parameters, *given, (mask,))

    assert jax.eval_shape(run, jax.random.key(1)).shape == noise.shape


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


def test_what_is_outside_attention_is_multiplied_in_the_dtype_asked_for(monkeypatch):
    """What is timed is called once here: every matrix product has operands of that type."""
    kinds = set()

    def look(run, *_, rounds):
        jaxpr = jax.make_jaxpr(run)()
        for *_, equation in equations(jaxpr.jaxpr):
            if equation.primitive.name == "dot_general":
                kinds.update(str(operand.aval.dtype) for operand in equation.invars)
        return types.SimpleNamespace(median=np.zeros(2))

    monkeypatch.setattr(dit, "time_ratio", look)
    for dtype in ("float32", "bfloat16"):
        kinds.clear()
        rest_seconds(tokens=8, heads=2, dim=4, dtype=dtype)
        assert kinds == {dtype}
