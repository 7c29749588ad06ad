"""How low any plan can be."""

import numpy as np

from jaxlab.stweaver.lifetimes import Lifetimes
from jaxlab.stweaver.trace import Trace


def lower_bound(trace: Trace, *, alignment: int = 1) -> int:
    """A height that no plan of the trace can undercut.

    It is the maximum over time of the live bytes. In a periodic trace requests that live longer
    than half the period meet pairwise although they need not all be live at once, so the sum of
    their sizes counts too.

    Args:
      trace: the requests.
      alignment: offsets and sizes are multiples of this many bytes.

    Returns:
      Bytes.

    Source: the load bound is the paper's "theoretical peak"; the rest is our own.

    Example:
      >>> lower_bound(Trace.of(size=[3, 4, 5], start=[0, 2, 4], end=[3, 5, 6]))
      9
    """
    lives = Lifetimes.of(trace, alignment)
    return max(peak_load(lives), long_arcs(trace, lives))


def peak_load(lives: Lifetimes) -> int:
    """Maximum over time of the live bytes."""
    return int(lives.load.max(initial=0))


def long_arcs(trace: Trace, lives: Lifetimes) -> int:
    """Bytes of the requests that live longer than half the period; 0 without one."""
    if trace.period is None:
        return 0
    return int(lives.size[2 * lives.duration > trace.period].sum())


def next_height(sizes: np.ndarray, above: int) -> int:
    """The smallest height above ``above`` that a lowest plan can have.

    In a lowest plan every request rests on address 0 or on another, so the height is a sum of
    some of the sizes. With it a refuted capacity raises the lower bound by more than one byte.

    Args:
      sizes: int64 ``[requests]``, bytes.
      above: a height known to be impossible.

    Returns:
      The smallest sum of a subset of ``sizes`` above ``above``; where there are too many sums to
      list them, the next multiple of the sizes' greatest common divisor.
    """
    unit = int(np.gcd.reduce(sizes))
    if (above // unit) * sizes.size > 1 << 30 or int(sizes.sum()) <= above:
        return (above // unit + 1) * unit
    reach = (above + int(sizes.max())) // unit + 1
    sums, mask = 1, (1 << (reach + 1)) - 1
    for size in sizes // unit:
        sums |= (sums << int(size)) & mask
    rest = sums >> (above // unit + 1)
    return (above // unit + 1 + (rest & -rest).bit_length() - 1) * unit
