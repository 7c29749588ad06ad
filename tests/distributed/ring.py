"""A program for eight devices, in one process or several: ring and all-to-all over a mesh.

Run as a script it joins the processes and prints a digest of its part of the result.
"""

import argparse
import json
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

RING, ULYSSES = 4, 2
SHAPE = (24, 6, 5)  # sequence, heads, features


def inputs() -> np.ndarray:
    return np.sin(np.arange(math.prod(SHAPE), dtype=np.float32)).reshape(SHAPE)


def program():
    """Sharded function and sharding: sequence over both axes in, heads over ``ulysses`` out."""
    mesh = jax.make_mesh((RING, ULYSSES), ("ring", "ulysses"), axis_types=(AxisType.Auto,) * 2)
    onward = [(rank, (rank + 1) % RING) for rank in range(RING)]

    def local(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = jax.lax.all_to_all(x, "ulysses", split_axis=1, concat_axis=0, tiled=True)
        here = jax.lax.axis_index("ring").astype(jnp.float32)

        def step(number: jax.Array, state: tuple[jax.Array, jax.Array]):
            total, moving = state
            # Unequal weights: a block that arrives in the wrong step changes the result.
            total = total + moving * (1.0 + number + 10.0 * here)
            return total, jax.lax.ppermute(moving, "ring", onward)

        total, _ = jax.lax.fori_loop(0, RING, step, (jnp.zeros_like(x), x))
        everything = jax.lax.psum((total**2).sum(), ("ring", "ulysses"))
        return total, everything

    function = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=P(("ring", "ulysses")),
        out_specs=(P("ring", "ulysses"), P()),
        check_vma=False,
    )
    return jax.jit(function), NamedSharding(mesh, P(("ring", "ulysses")))


def expected() -> np.ndarray:
    """The same in plain loops: the blocks of the sequence, weighted by step and ring rank."""
    blocks = inputs().astype(np.float64).reshape(RING, -1, *SHAPE[1:])
    result = np.zeros_like(blocks)
    for here in range(RING):
        for number in range(RING):
            result[here] += blocks[(here - number) % RING] * (1.0 + number + 10.0 * here)
    return result.reshape(SHAPE)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--coordinator-address")
    parser.add_argument("--num-processes", type=int)
    parser.add_argument("--process-id", type=int)
    options = parser.parse_args()
    jax.distributed.initialize(
        options.coordinator_address, options.num_processes, options.process_id
    )
    function, sharding = program()
    values = inputs()
    x = jax.make_array_from_callback(SHAPE, sharding, lambda index: values[index])
    total, everything = function(x)
    shards = [
        {
            "place": [
                [part.start or 0, part.stop or size]
                for part, size in zip(s.index, SHAPE, strict=True)
            ],
            "values": np.asarray(s.data).ravel().tolist(),
        }
        for s in total.addressable_shards
    ]
    answer = {
        "processes": jax.process_count(),
        "devices": [jax.local_device_count(), jax.device_count()],
        "everything": float(everything),
        "shards": shards,
    }
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
