"""Many quenches on many devices: an eigensolver cannot be sharded, a batch of them can."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec


def map_quenches(function: Callable[[Any], Any], quenches: Any, mesh: Mesh | None = None) -> Any:
    """Applies a function to each quench of a batch, each device taking its share in turn.

    Memory on a device is that of one quench. Put the caller under ``jax.jit``.

    Args:
      function: takes one quench, a pytree, and returns a pytree of arrays.
      quenches: the same pytree with a leading batch axis on every leaf.
      mesh: devices; the batch is spread over all axes. None for the default device. A batch that
        does not divide is filled up with its last quench, and the surplus dropped.

    Returns:
      What ``function`` returns, with a leading batch axis.

    Raises:
      ValueError: there is no quench, or leading axes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> print(map_quenches(lambda x: x**2, jnp.arange(3.0)))
      [0. 1. 4.]
    """
    sizes = {leaf.shape[0] if leaf.ndim else None for leaf in jax.tree.leaves(quenches)}
    if len(sizes) != 1 or not (size := next(iter(sizes))):
        raise ValueError(f"map_quenches: leading axes {sizes} must be one positive batch size.")
    if mesh is None:
        return jax.lax.map(function, quenches)
    missing = -size % mesh.size
    filled = jax.tree.map(
        lambda leaf: jnp.concatenate([leaf, jnp.repeat(leaf[-1:], missing, axis=0)]), quenches
    )
    spread = PartitionSpec(mesh.axis_names)
    # No value passes from device to device, so jax's check of varying axes has nothing to find; it
    # would refuse LAPACK's foreign call, and loops of the caller that start from constants.
    share = jax.shard_map(
        lambda part: jax.lax.map(function, part),
        mesh=mesh,
        in_specs=spread,
        out_specs=spread,
        check_vma=False,
    )
    return jax.tree.map(lambda leaf: leaf[:size], share(filled))
