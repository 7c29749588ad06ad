"""Compiles the layer for four TPUs that are not there; prints what runs between the ring's hops."""

import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxlab.blocksparse import BlockMask
from jaxlab.dbsp import Plan, device_plan, sharded_attention

TOKENS, BLOCK, HEADS, DIM = 2048, 128, 4, 64


def program(implementation: str) -> str:
    """The optimized program of the forward pass for a ring of four."""
    devices = topologies.get_topology_desc("v5e:2x2", platform="tpu").devices
    mesh = Mesh(
        np.array(devices).reshape(4, 1), ("ring", "ulysses"), axis_types=(AxisType.Auto,) * 2
    )
    size = TOKENS // BLOCK
    mask = BlockMask(np.ones((HEADS, size, size), bool), BLOCK, BLOCK, TOKENS, TOKENS)
    plan = Plan.contiguous(heads=HEADS, q_blocks=size, kv_blocks=size, ulysses=1, ring=4)

    def abstract(leaf: np.ndarray, *axes: object) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, P(*axes)))

    tokens = jax.ShapeDtypeStruct((1, TOKENS, HEADS, DIM), jnp.bfloat16)
    tokens = abstract(tokens, None, ("ring", "ulysses"))

    def attend(q, k, v, mask, plan):
        return sharded_attention(q, k, v, mask, plan, mesh=mesh, implementation=implementation)

    rest = jax.tree.map(abstract, (mask, device_plan(plan)))
    return jax.jit(attend).lower(tokens, tokens, tokens, *rest).compile().as_text()


def order(text: str) -> list[list[str]]:
    """For every computation with hops: starts, ends and heavy work, in scheduled order."""
    found = []
    for computation in re.split(r"\n(?=%|ENTRY)", text):
        steps = []
        for line in computation.splitlines():
            if "= " not in line:
                continue
            if match := re.search(r" collective-permute-(start|done)\(", line):
                steps.append(match[1])
            elif re.search(r" while\(| fusion\(.*kind=kOutput| convolution\(", line):
                steps.append("work")
        if "start" in steps:
            found.append(steps)
    return found


if __name__ == "__main__":
    text = program(sys.argv[1])
    sys.stdout.write(json.dumps({"order": order(text), "gathers": "all-gather" in text}) + "\n")
