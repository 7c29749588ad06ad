"""How much longer one function takes than another, timed in turns in one process."""

import dataclasses
import gc
import inspect
import math
import numbers
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float64


@dataclasses.dataclass(frozen=True, eq=False)
class TimeRatio:
    """Times of some functions, and of each round their ratios to the first.

    Functions that share a round share the machine's mood, so the ratio inside a round is steadier
    than a ratio of two medians.

    Attributes:
      names: one for each function.
      seconds: float64 ``[rounds, functions]``, mean time of one call, in seconds.
      calls: calls in one sample, one number for each function.
    """

    names: tuple[str, ...]
    seconds: Float64[np.ndarray, "rounds functions"]
    calls: tuple[int, ...]

    @property
    def rounds(self) -> int:
        """Number of samples of each function."""
        return self.seconds.shape[0]

    @property
    def median(self) -> Float64[np.ndarray, " functions"]:
        """Median time of one call, in seconds."""
        return np.median(self.seconds, axis=0)

    @property
    def interquartile(self) -> Float64[np.ndarray, " functions"]:
        """Distance between the quartiles of the times, in seconds."""
        low, high = np.quantile(self.seconds, (0.25, 0.75), axis=0)
        return high - low

    @property
    def ratios(self) -> Float64[np.ndarray, "rounds functions"]:
        """Time over the first function's time of the same round."""
        return self.seconds / self.seconds[:, :1]

    @property
    def ratio(self) -> Float64[np.ndarray, " functions"]:
        """Median of ``ratios`` over the rounds; above 1 is slower than the first function."""
        return np.median(self.ratios, axis=0)

    @property
    def ratio_spread(self) -> Float64[np.ndarray, "2 functions"]:
        """Lower and upper quartile of ``ratios``."""
        return np.quantile(self.ratios, (0.25, 0.75), axis=0)

    def __str__(self) -> str:
        width = max(len(name) for name in self.names)
        low, high = self.ratio_spread
        rows = zip(self.names, self.median, self.interquartile, self.ratio, low, high, strict=True)
        return "\n".join(
            f"{name:<{width}}  {median:.4g} s (iqr {spread:.2g})  x{ratio:.3f} [{q1:.3f}, {q3:.3f}]"
            for name, median, spread, ratio, q1, q3 in rows
        )


def time_ratio(
    *functions: Callable[[], Any],
    names: Sequence[str] | None = None,
    rounds: int = 15,
    min_seconds: float | int = 0.01,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> TimeRatio:
    """Times two or more functions in turns and compares them with the first.

    Every round takes one sample of each function, in an order that changes from round to round: in
    as many rounds as there are functions (twice as many when their number is odd) each stands at
    every place equally often and inside a round follows every other one equally often. So neither
    drift nor what ran just before favors one: a function that follows a hungry one pays for cold
    caches and returned memory. A sample calls its function as often as
    ``min_seconds`` needs and waits for each result on every device. The garbage collector rests
    meanwhile.

    Args:
      *functions: callables without arguments that do the same work each time they are called; what
        they return, a pytree of arrays, is waited for.
      names: one for each function; None numbers them.
      rounds: samples of each function.
      min_seconds: least duration of one sample, in seconds.
      warmup: untimed calls of each function before the first round; the first call compiles.
      clock: what tells the time, in seconds.

    Returns:
      The times and their ratios to the first function.

    Raises:
      TypeError: a function is not callable or needs arguments, ``rounds`` or ``warmup`` is not an
        integer, or ``min_seconds`` not a number.
      ValueError: fewer than two functions, names that do not fit, numbers out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.ones((64, 64))
      >>> square, cube = jax.jit(lambda x: x @ x), jax.jit(lambda x: x @ x @ x)
      >>> timed = time_ratio(lambda: square(x), lambda: cube(x), rounds=3, min_seconds=1e-4)
      >>> timed.seconds.shape, float(timed.ratio[0])
      ((3, 2), 1.0)
    """
    chosen = _check(functions, names, rounds, min_seconds, warmup)
    calls = []
    for function in functions:
        for _ in range(warmup):
            jax.block_until_ready(function())
        once = _sample(function, 1, clock)
        calls.append(max(1, math.ceil(min_seconds / once)) if once > 0 else 1)
    seconds = np.empty((rounds, len(functions)))
    collecting = gc.isenabled()
    gc.disable()
    try:
        for number in range(rounds):
            for which in _order(len(functions), number):
                seconds[number, which] = _sample(functions[which], calls[which], clock)
    finally:
        if collecting:
            gc.enable()
    if not (seconds > 0).all():
        slow = chosen[int(np.argmin(seconds.min(0)))]
        raise ValueError(
            f"time_ratio: the clock did not advance during {slow}; raise min_seconds={min_seconds}."
        )
    return TimeRatio(chosen, seconds, tuple(calls))


def _order(functions: int, number: int) -> list[int]:
    """A round's order, a row of Williams' square (1949), balanced for what each one follows.

    ``0, -1, 1, -2, 2, ...`` steps by every distance once, so its shifts hold every ordered pair of
    neighbors once when ``functions`` is even; an odd number needs the mirrored shifts too.
    """
    zigzag = [(place // 2 if place % 2 == 0 else -(place // 2) - 1) for place in range(functions)]
    order = [(number + step) % functions for step in zigzag]
    mirrored = functions % 2 == 1 and number // functions % 2 == 1
    return order[::-1] if mirrored else order


def _sample(function: Callable[[], Any], calls: int, clock: Callable[[], float]) -> float:
    """Mean time of one call, in seconds."""
    start = clock()
    for _ in range(calls):
        jax.block_until_ready(function())
    return (clock() - start) / calls


def _check(
    functions: Sequence[Callable[[], Any]],
    names: Sequence[str] | None,
    rounds: Any,
    min_seconds: Any,
    warmup: Any,
) -> tuple[str, ...]:
    """Refuses what cannot be timed; returns the names."""
    if len(functions) < 2:
        raise ValueError(f"time_ratio: needs two functions or more, got {len(functions)}.")
    for place, function in enumerate(functions):
        if not callable(function):
            raise TypeError(
                f"time_ratio: function {place} is a {type(function).__name__}; pass a callable "
                "without arguments, for example `lambda: f(x)`."
            )
        try:
            inspect.signature(function).bind()
        except TypeError as error:
            raise TypeError(
                f"time_ratio: function {place} needs arguments ({error}); wrap it, for example "
                "`lambda: f(x)`."
            ) from None
        except ValueError:
            continue  # a builtin without a signature shows itself when it is called
    chosen = tuple(names) if names is not None else tuple(str(n) for n in range(len(functions)))
    if len(chosen) != len(functions) or len(set(chosen)) != len(chosen):
        raise ValueError(
            f"time_ratio: names={chosen!r} must be {len(functions)} different ones, one a function."
        )
    for name, value in (("rounds", rounds), ("warmup", warmup)):
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise TypeError(f"time_ratio: {name}={value!r} must be an integer.")
        if value < 1:
            raise ValueError(f"time_ratio: {name}={value} must be at least 1.")
    if isinstance(min_seconds, bool) or not isinstance(min_seconds, numbers.Real):
        raise TypeError(f"time_ratio: min_seconds={min_seconds!r} must be a number, in seconds.")
    if not 0 <= float(min_seconds) < math.inf:
        raise ValueError(f"time_ratio: min_seconds={min_seconds} must be finite and not negative.")
    return chosen
