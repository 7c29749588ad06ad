"""Several denoising steps with new masks and plans at each, in one process or several.

Run as a script it joins the processes and prints the sample.
"""

import argparse
import dataclasses
import json
import sys

import jax
import numpy as np
from jax.sharding import AxisType

from experiments.workloads.dit import Dit, denoise
from jaxlab.blocksparse import BlockMask
from jaxlab.dbsp import Plan, device_plan

MODEL = Dit(grid=(4, 5, 6))
WORDS, BLOCK, STEPS = 7, 8, 3
TOKENS = 4 * 5 * 6 + WORDS


def masks(step: int) -> tuple[BlockMask, ...]:
    """Random blocks for every layer, different at every step, with a dense text border."""
    made = []
    for layer in range(MODEL.layers):
        rng = np.random.default_rng([step, layer])
        size = -(-TOKENS // BLOCK)
        density = rng.uniform(0.1, 0.7, (MODEL.heads, 1, 1))
        blocks = rng.random((MODEL.heads, size, size)) < density
        blocks[:, -1], blocks[:, :, -1] = True, True
        made.append(BlockMask(blocks, BLOCK, BLOCK, TOKENS, TOKENS))
    return tuple(made)


def random_plan(step: int, layer: int, ulysses: int, ring: int) -> Plan:
    """A plan of its own for every step and layer, from one home for the whole run."""
    size = -(-TOKENS // BLOCK)
    plain = Plan.contiguous(
        heads=MODEL.heads, q_blocks=size, kv_blocks=size, ulysses=ulysses, ring=ring
    )
    home = np.random.default_rng(9).permutation(plain.q_home)
    rng = np.random.default_rng([step, layer, 1])
    return dataclasses.replace(
        plain,
        head_perm=rng.permutation(plain.head_perm),
        q_order=rng.permuted(plain.q_order, axis=1),
        kv_order=rng.permuted(plain.kv_order, axis=1),
        q_home=home,
        kv_home=home,
    )


def inputs() -> tuple:
    """Parameters, noise and text, the same in every process."""
    noise = jax.random.normal(jax.random.key(0), (1, TOKENS - WORDS, 4))
    text = jax.random.normal(jax.random.key(1), (1, WORDS, 6))
    first = jax.random.key(2)
    parameters = MODEL.init(first, noise, np.float32(1), text, lambda _, q, k, v: v)
    return jax.tree.map(np.asarray, (parameters, noise, text))


def on_one_device(steps: int = STEPS) -> np.ndarray:
    parameters, noise, text = inputs()
    chosen = [(masks(step), ()) for step in range(steps)]
    return np.asarray(denoise(MODEL, parameters, noise, text, chosen))


def on_a_mesh(ulysses: int, ring: int) -> np.ndarray:
    parameters, noise, text = inputs()
    mesh = jax.make_mesh((ring, ulysses), ("ring", "ulysses"), axis_types=(AxisType.Auto,) * 2)
    chosen = [
        (
            masks(step),
            tuple(
                device_plan(random_plan(step, layer, ulysses, ring), capacities=(4, 4))
                for layer in range(MODEL.layers)
            ),
        )
        for step in range(STEPS)
    ]
    return np.asarray(denoise(MODEL, parameters, noise, text, chosen, mesh=mesh))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--coordinator-address")
    parser.add_argument("--num-processes", type=int)
    parser.add_argument("--process-id", type=int)
    options = parser.parse_args()
    jax.distributed.initialize(
        options.coordinator_address, options.num_processes, options.process_id
    )
    answer = {
        "processes": jax.process_count(),
        "devices": [jax.local_device_count(), jax.device_count()],
        "sample": on_a_mesh(2, 4).ravel().tolist(),
    }
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
