"""Values that differ between the devices of a ``jax.shard_map``, and how their types say so.

Outside of `shard_map` nothing varies, and these functions do nothing.
"""

from typing import Any

import jax
from jax import lax
from jaxtyping import Array


def varying_axes(*arrays: Any) -> frozenset[str]:
    """Mesh axes along which any of the arrays differs between devices."""
    return frozenset().union(*(jax.typeof(x).mat.varying for x in arrays))


def vary(x: Array, axes: frozenset[str]) -> Array:
    """Marks an array as differing between devices along the axes.

    A loop's state must carry the mark from the start, and so must the operands of a kernel.
    """
    missing = tuple(axes - varying_axes(x))
    return lax.pcast(x, missing, to="varying") if missing else x


def kernel_result(shape: tuple[int, ...], dtype: Any, like: Array) -> jax.ShapeDtypeStruct:
    """Type of a kernel's result that differs between devices wherever ``like`` does."""
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=jax.typeof(like).mat)
