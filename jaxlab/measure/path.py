"""How long synchronized steps take when every step waits for its slowest rank."""

import dataclasses

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int, Int64


@dataclasses.dataclass(frozen=True, eq=False)
class CriticalPath:
    """The time of synchronized steps beside what better balance could reach.

    Attributes:
      seconds: float64 ``[*batch]``, sum over the steps of the slowest rank's time.
      balanced: float64 ``[*batch]``, the same work spread evenly over the ranks, the lower bound of
        any placement.
      busiest: float64 ``[*batch]``, the largest total of one rank, the lower bound without moving
        work: what remains when ranks no longer wait for each other between steps.
      imbalance: float64 ``[*batch]``, ``seconds / balanced``, at least 1; 1 where there is no work.
      rank: int64 ``[*batch, steps]``, the slowest rank of each step, the first of equals.
    """

    seconds: Float64[np.ndarray, "*batch"]
    balanced: Float64[np.ndarray, "*batch"]
    busiest: Float64[np.ndarray, "*batch"]
    imbalance: Float64[np.ndarray, "*batch"]
    rank: Int64[np.ndarray, "*batch steps"]


def critical_path(
    step_times: Float[Array, "*batch steps ranks"]
    | Int[Array, "*batch steps ranks"]
    | Float[np.ndarray, "*batch steps ranks"]
    | Int[np.ndarray, "*batch steps ranks"],
) -> CriticalPath:
    """Adds up the slowest rank of every step.

    Args:
      step_times: ``[*batch, steps, ranks]``, time of every rank in every step, in seconds, or work
        in any other unit, which then is the unit of the result.

    Returns:
      The path and its bounds, computed in float64 on the host.

    Raises:
      TypeError: ``step_times`` is traced or not made of real numbers.
      ValueError: no ranks, or a time that is negative or not finite.

    Example:
      >>> path = critical_path(np.array([[1.0, 3.0], [2.0, 2.0]]))
      >>> float(path.seconds), float(path.balanced), path.rank.tolist()
      (5.0, 4.0, [1, 0])
    """
    if isinstance(step_times, jax.core.Tracer):
        raise TypeError(
            "critical_path: step_times must be concrete, got a traced array; call it outside "
            "of jit."
        )
    given = np.asarray(step_times)
    real = jnp.issubdtype(given.dtype, jnp.floating) or jnp.issubdtype(given.dtype, jnp.integer)
    if not real:
        raise TypeError(
            f"critical_path: step_times must be real numbers, got {given.dtype}; pass an array of "
            "floats or integers."
        )
    times = given.astype(np.float64)
    if times.ndim < 2 or times.shape[-1] == 0:
        raise ValueError(
            f"critical_path: step_times has shape {times.shape}; it must end in (steps, ranks) "
            "with at least one rank."
        )
    wrong = ~(np.isfinite(times) & (times >= 0))
    if wrong.any():
        place = tuple(int(index) for index in np.argwhere(wrong)[0])
        raise ValueError(
            f"critical_path: step_times{list(place)} is {times[place]}; times must be finite and "
            "not negative."
        )
    seconds = times.max(-1).sum(-1)
    balanced = times.mean(-1).sum(-1)
    busy = balanced > 0
    return CriticalPath(
        seconds=np.asarray(seconds),
        balanced=np.asarray(balanced),
        busiest=np.asarray(times.sum(-2).max(-1)),
        imbalance=np.where(busy, seconds / np.where(busy, balanced, 1.0), 1.0),
        rank=times.argmax(-1),
    )
