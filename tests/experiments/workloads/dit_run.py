"""Several denoising steps with new masks and plans at each, in one process or several.

Run as a script it joins the processes and prints the sample.
"""

import argparse
import functools
import json
import sys

import jax
import numpy as np
from jax.sharding import AxisType

from experiments.workloads.dit import Dit, denoise, planned_steps
from jaxlab.blocksparse import BlockMask
from jaxlab.dbsp import ReplanPolicy, plan

SMALL, MODEL = (Dit(grid=(4, 5, 6), layers=layers) for layers in (1, 2))
WORDS, BLOCK, STEPS = 7, 8, 3
TOKENS = 4 * 5 * 6 + WORDS


def masks(step: int, model: Dit = MODEL) -> tuple[BlockMask, ...]:
    """Random blocks for every layer, different at every step, with a dense text border."""
    made = []
    for layer in range(model.layers):
        rng = np.random.default_rng([step, layer])
        size = -(-TOKENS // BLOCK)
        density = rng.uniform(0.1, 0.7, (model.heads, 1, 1))
        blocks = rng.random((model.heads, size, size)) < density
        blocks[:, -1], blocks[:, :, -1] = True, True
        made.append(BlockMask(blocks, BLOCK, BLOCK, TOKENS, TOKENS))
    return tuple(made)


def policy(ulysses: int, ring: int, model: Dit = MODEL) -> ReplanPolicy:
    """Plans every layer again at every step, from one home, which is no order of time."""
    home = np.random.default_rng(9).permutation(-(-TOKENS // BLOCK))
    degrees = {"ulysses": ulysses, "ring": ring, "home": home}
    return ReplanPolicy(
        plan(masks(0)[0], **degrees, heads="none", blocks="none"),
        layers=model.layers,
        threshold=1.0,
        scope="layer",
        planner=lambda blocks: plan(blocks, **degrees, evaluations=2000),
    )


@functools.cache
def inputs(model: Dit = MODEL) -> tuple:
    """Parameters, noise and text, the same in every process."""
    noise = jax.random.normal(jax.random.key(0), (1, TOKENS - WORDS, 4))
    text = jax.random.normal(jax.random.key(1), (1, WORDS, 6))

    @jax.jit
    def parameters(key: jax.Array) -> dict:
        return model.init(key, noise, np.float32(1), text, lambda _, q, k, v: v)

    return jax.tree.map(np.asarray, (parameters(jax.random.key(2)), noise, text))


def on_one_device(steps: int = STEPS, model: Dit = MODEL) -> np.ndarray:
    parameters, noise, text = inputs(model)
    chosen = [(masks(step, model), ()) for step in range(steps)]
    return np.asarray(denoise(model, parameters, noise, text, chosen))


def on_a_mesh(ulysses: int, ring: int, model: Dit = MODEL) -> tuple[np.ndarray, int]:
    """The sample, and the plans adopted on the way."""
    parameters, noise, text = inputs(model)
    mesh = jax.make_mesh(
        (ring, ulysses),
        ("ring", "ulysses"),
        axis_types=(AxisType.Auto,) * 2,
        devices=jax.devices()[: ulysses * ring],
    )
    every = [masks(step, model) for step in range(STEPS)]
    chosen, adopted = planned_steps(policy(ulysses, ring, model), every)
    return np.asarray(denoise(model, parameters, noise, text, chosen, mesh=mesh)), adopted


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--coordinator-address")
    parser.add_argument("--num-processes", type=int)
    parser.add_argument("--process-id", type=int)
    options = parser.parse_args()
    jax.distributed.initialize(
        options.coordinator_address, options.num_processes, options.process_id
    )
    sample, adopted = on_a_mesh(2, 4)
    answer = {
        "processes": jax.process_count(),
        "devices": [jax.local_device_count(), jax.device_count()],
        "adopted": adopted,
        "sample": sample.ravel().tolist(),
    }
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
