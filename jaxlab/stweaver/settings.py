"""The settings of a simulated allocator, checked, in the form that kernels take."""

import typing

from jaxlab.stweaver.blocks import UNLIMITED

CACHING, BFC, BEST_FIT, BUDDY, BUMP = range(5)  # which code serves the requests

MIB = 1 << 20


class Settings(typing.NamedTuple):
    """What an allocator is told; fields that its code does not read keep their defaults."""

    code: int
    capacity: int = UNLIMITED  # bytes that the driver has
    max_split_size: int = UNLIMITED
    power2_divisions: int = 0
    collect_above: int = 0  # reserved bytes above which unused segments are collected; 0 is never
    expandable: bool = False
    virtual_range: int = 0  # bytes of an expandable segment's address space
    stitch_above: int = UNLIMITED  # smallest request that GMLake stitches
    gmlake: bool = False
    limit: int = UNLIMITED  # bytes that BFC may take from the driver
    first_region: int = 0
    max_waste: int = 0  # BFC splits a chunk when the rest is at least this
    alignment: int = 512


def positive(name: str, value: int, allocator: str) -> int:
    """The value as an int.

    Args:
      name: the option.
      value: its value.
      allocator: who is told.

    Returns:
      The value.

    Raises:
      ValueError: it is not a positive integer.
    """
    if isinstance(value, bool) or value != int(value) or value < 1:
        raise ValueError(f"simulate: {name}={value!r} of {allocator!r} must be a positive integer.")
    return int(value)


def capacity_of(capacity: int | None, allocator: str) -> int:
    """The driver's capacity in bytes; None is no limit.

    Args:
      capacity: bytes, or None.
      allocator: who is told.

    Returns:
      The capacity.

    Raises:
      ValueError: it is not a positive integer.
    """
    return UNLIMITED if capacity is None else positive("capacity", capacity, allocator)
