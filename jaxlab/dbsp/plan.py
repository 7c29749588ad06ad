"""Where heads and token blocks go: the placement that the other files make, score and execute."""

import dataclasses
import os
import typing

import numpy as np
from jaxtyping import Int64

from jaxlab.blocksparse import BlockMask
from jaxlab.dbsp.plan_file import read_record, write_record

_ARRAYS = ("head_perm", "q_order", "kv_order", "q_home", "kv_home")


@typing.no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A placement of heads over Ulysses groups and of token blocks over ring shards.

    A placement changes where and when blocks are computed, never the result.

    Attributes:
      ulysses: U, the number of head groups.
      ring: R, the number of sequence shards; ``U * R`` devices in all.
      head_perm: int64 ``[heads]``; group ``u`` holds the heads of its ``u``-th equal slice.
      q_order: int64 ``[U, q_blocks]``; in group ``u``, ring shard ``i`` holds the query blocks of
        the ``i``-th equal slice of row ``u``.
      kv_order: int64 ``[U, kv_blocks]``, the same for key blocks.
      q_home: int64 ``[q_blocks]``, the order in which the query blocks arrive, before any exchange:
        the ``i``-th equal slice is at home on ring shard ``i``. None is the original order.
      kv_home: int64 ``[kv_blocks]``, the same for key blocks.

    Numbers from the true count of heads or blocks upward are padding and hold no work.

    Raises:
      ValueError: the plan does not place every head and block exactly once; names the entry.
    """

    ulysses: int
    ring: int
    head_perm: Int64[np.ndarray, " heads"]
    q_order: Int64[np.ndarray, "ulysses q_blocks"]
    kv_order: Int64[np.ndarray, "ulysses kv_blocks"]
    q_home: Int64[np.ndarray, " q_blocks"] = None  # pyright: ignore[reportAssignmentType]
    kv_home: Int64[np.ndarray, " kv_blocks"] = None  # pyright: ignore[reportAssignmentType]

    @classmethod
    def contiguous(
        cls, *, heads: int, q_blocks: int, kv_blocks: int, ulysses: int, ring: int
    ) -> "Plan":
        """The plan that moves nothing: equal slices in the original order.

        Args:
          heads: number of heads; padded up to a multiple of ``ulysses``.
          q_blocks: query blocks; padded up to a multiple of ``ulysses * ring``, so that every
            device holds whole blocks.
          kv_blocks: key blocks; padded likewise.
          ulysses: head groups.
          ring: sequence shards.

        Returns:
          The plan.

        Raises:
          ValueError: a degree is not positive.
        """
        if ulysses < 1 or ring < 1:
            raise ValueError(f"Plan: ulysses={ulysses} and ring={ring} must be positive.")
        devices = ulysses * ring
        orders = [
            np.tile(np.arange(-(-blocks // devices) * devices), (ulysses, 1))
            for blocks in (q_blocks, kv_blocks)
        ]
        return cls(ulysses, ring, np.arange(-(-heads // ulysses) * ulysses), *orders)

    @property
    def head_inv(self) -> Int64[np.ndarray, " heads"]:
        """int64 ``[heads]``: ``head_inv[head_perm[k]] == k``."""
        return np.argsort(self.head_perm)

    @property
    def q_exchange(self) -> Int64[np.ndarray, "ulysses ring ring"]:
        """int64 ``[U, R, R]``: query blocks that ring shard ``i`` sends to ``j`` in each group."""
        return _exchange(self.q_home, self.q_order, self.ring)

    @property
    def kv_exchange(self) -> Int64[np.ndarray, "ulysses ring ring"]:
        """int64 ``[U, R, R]``: key blocks that ring shard ``i`` sends to ``j`` in each group."""
        return _exchange(self.kv_home, self.kv_order, self.ring)

    @property
    def q_moved(self) -> float:
        """Fraction of query blocks that leave their home shard, mean over the groups."""
        return _moved(self.q_exchange)

    @property
    def kv_moved(self) -> float:
        """Fraction of key blocks that leave their home shard, mean over the groups."""
        return _moved(self.kv_exchange)

    def validate(self, mask: BlockMask | np.ndarray) -> "Plan":
        """Checks that the plan can be one for a mask and returns the plan itself.

        Args:
          mask: a mask, or bool ``[*batch, heads, q_blocks, kv_blocks]``.

        Returns:
          The plan itself.

        Raises:
          ValueError: the mask has more heads or blocks than the plan, or so many fewer that the
            rest cannot be padding.
        """
        heads, q_blocks, kv_blocks = (mask.blocks if isinstance(mask, BlockMask) else mask).shape[
            -3:
        ]
        # the smaller of two kinds of blocks follows the padding of the larger one
        q_ratio, kv_ratio = -(-q_blocks // kv_blocks), -(-kv_blocks // q_blocks)
        for name, size, planned, most in (
            ("heads", heads, self.head_perm.size, heads * self.ulysses),
            ("query blocks", q_blocks, self.q_home.size, q_blocks + q_ratio * self._devices - 1),
            ("key blocks", kv_blocks, self.kv_home.size, kv_blocks + kv_ratio * self._devices - 1),
        ):
            if not size <= planned <= most:
                raise ValueError(
                    f"Plan: made for {planned} {name} (padding included), but the mask has {size}; "
                    "make a plan for this mask."
                )
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the plan to a file: JSON with a format version and a sha256, replaced at once.

        Args:
          path: the file; an older one is replaced only when the new one is complete.
        """
        arrays = {name: getattr(self, name).tolist() for name in _ARRAYS}
        write_record(path, {"ulysses": self.ulysses, "ring": self.ring, **arrays})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Plan":
        """Reads a plan that ``save`` wrote; trusts nothing that the file says.

        Args:
          path: the file.

        Returns:
          The plan.

        Raises:
          ValueError: the file is too large, truncated, altered, of another format version, or does
            not hold a plan.
        """
        record = read_record(path)
        if set(record) != {"ulysses", "ring", *_ARRAYS}:
            raise ValueError(f"{path}: holds {sorted(record)}, which is no plan.")
        degrees = [record["ulysses"], record["ring"]]
        if not all(type(degree) is int for degree in degrees):
            raise ValueError(f"{path}: ulysses and ring must be integers, got {degrees}.")
        try:
            return cls(*degrees, **{name: np.asarray(record[name]) for name in _ARRAYS})
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{path}: not a valid plan: {error}") from error

    @property
    def _devices(self) -> int:
        return self.ulysses * self.ring

    def __str__(self) -> str:
        return (
            f"Plan(U{self.ulysses}R{self.ring}, heads={self.head_perm.size}, "
            f"blocks={self.q_home.size}x{self.kv_home.size}, moved {self.q_moved:.1%} of Q and "
            f"{self.kv_moved:.1%} of KV)"
        )

    def __post_init__(self) -> None:
        if self.ulysses < 1 or self.ring < 1:
            raise ValueError(f"Plan: ulysses={self.ulysses} and ring={self.ring} must be positive.")
        for name, order in (("q_home", "q_order"), ("kv_home", "kv_order")):
            if getattr(self, name) is None:
                object.__setattr__(self, name, np.arange(np.shape(getattr(self, order))[-1]))
        for name in _ARRAYS:
            values = np.asarray(getattr(self, name))
            if not np.issubdtype(values.dtype, np.integer):
                raise ValueError(f"Plan: {name} must hold integers, got {values.dtype}.")
            object.__setattr__(self, name, values.astype(np.int64))
        if self.head_perm.ndim != 1 or self.head_perm.size % self.ulysses:
            raise ValueError(
                f"Plan: {self.head_perm.size} heads do not divide into {self.ulysses} groups; pad "
                "the heads or choose another Ulysses degree."
            )
        _check_permutations("head_perm", self.head_perm)
        for name, order in (("q_order", self.q_order), ("kv_order", self.kv_order)):
            if order.ndim != 2 or order.shape[0] != self.ulysses or order.shape[1] % self.ring:
                raise ValueError(
                    f"Plan: {name} has shape {order.shape}, expected [{self.ulysses}, a multiple "
                    f"of {self.ring}]."
                )
            _check_permutations(name, order)
        for name, order in (("q_home", self.q_order), ("kv_home", self.kv_order)):
            home = getattr(self, name)
            if home.shape != order.shape[1:]:
                raise ValueError(
                    f"Plan: {name} has shape {home.shape}, expected {order.shape[1:]}."
                )
            _check_permutations(name, home)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Plan):
            return NotImplemented
        return (self.ulysses, self.ring) == (other.ulysses, other.ring) and all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in _ARRAYS
        )

    def __hash__(self) -> int:
        return hash((self.ulysses, self.ring, *(getattr(self, name).tobytes() for name in _ARRAYS)))


def spare_heads(ulysses: int, sharing: int) -> int:
    """The most heads of padding: sets that share a key head are whole, and so is every group."""
    return (ulysses - 1) * sharing


def _exchange(
    home: Int64[np.ndarray, " blocks"], order: Int64[np.ndarray, "ulysses blocks"], ring: int
) -> Int64[np.ndarray, "ulysses ring ring"]:
    if ring == 1:
        return np.full((order.shape[0], 1, 1), home.size)
    shard = np.repeat(np.arange(ring), home.size // ring)
    source = np.empty_like(shard)
    source[home] = shard
    group = np.arange(order.shape[0])[:, None]
    pairs = (group * ring + source[order]) * ring + shard
    counts = np.bincount(pairs.reshape(-1), minlength=order.shape[0] * ring**2)
    return counts.reshape(order.shape[0], ring, ring)


def _moved(exchange: Int64[np.ndarray, "ulysses ring ring"]) -> float:
    blocks = int(exchange.sum())
    kept = int(np.trace(exchange, axis1=1, axis2=2).sum())
    return 1 - kept / blocks if blocks else 0.0


def _check_permutations(name: str, values: Int64[np.ndarray, "*rows size"]) -> None:
    size = values.shape[-1]
    if not size:
        raise ValueError(f"Plan: {name} is empty.")
    rows = values.reshape(-1, size)
    shared = len(rows) > 1 and (rows == rows[0]).all()  # one order for all groups
    for number, row in enumerate(rows[:1] if shared else rows):
        inside = row.min() >= 0 and row.max() < size
        seen = np.bincount(row if inside else row[(row >= 0) & (row < size)], minlength=size)
        if seen.min() < 1:
            entry = int(np.flatnonzero(seen != 1)[0])
            raise ValueError(
                f"Plan: {name}{f'[{number}]' if values.ndim > 1 else ''} is not a permutation of "
                f"0..{size - 1}: {entry} occurs {int(seen[entry])} times."
            )
