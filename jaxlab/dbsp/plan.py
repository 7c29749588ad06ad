"""Where heads and token blocks go: the placement that the other files make, score and execute."""

import dataclasses
import typing

import numpy as np
from jaxtyping import Int64


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

    Raises:
      ValueError: the plan does not place every head and block exactly once; names the entry.
    """

    ulysses: int
    ring: int
    head_perm: Int64[np.ndarray, " heads"]
    q_order: Int64[np.ndarray, "ulysses q_blocks"]
    kv_order: Int64[np.ndarray, "ulysses kv_blocks"]

    @classmethod
    def contiguous(
        cls, *, heads: int, q_blocks: int, kv_blocks: int, ulysses: int, ring: int
    ) -> "Plan":
        """The plan that moves nothing: equal slices in the original order.

        Args:
          heads: number of heads, divisible by ``ulysses``.
          q_blocks: query blocks; padded up to a multiple of ``ring``.
          kv_blocks: key blocks; padded up to a multiple of ``ring``.
          ulysses: head groups.
          ring: sequence shards.

        Returns:
          The plan.

        Raises:
          ValueError: the degrees are not positive or do not divide the heads.
        """
        if ulysses < 1 or ring < 1:
            raise ValueError(f"Plan: ulysses={ulysses} and ring={ring} must be positive.")
        orders = [
            np.tile(np.arange(-(-blocks // ring) * ring), (ulysses, 1))
            for blocks in (q_blocks, kv_blocks)
        ]
        return cls(ulysses, ring, np.arange(heads), *orders)

    def __post_init__(self) -> None:
        if self.ulysses < 1 or self.ring < 1:
            raise ValueError(f"Plan: ulysses={self.ulysses} and ring={self.ring} must be positive.")
        for name in ("head_perm", "q_order", "kv_order"):
            values = np.asarray(getattr(self, name))
            if not np.issubdtype(values.dtype, np.integer):
                raise ValueError(f"Plan: {name} must hold integers, got {values.dtype}.")
            object.__setattr__(self, name, values.astype(np.int64))
        if self.head_perm.ndim != 1 or self.head_perm.size % self.ulysses:
            raise ValueError(
                f"Plan: {self.head_perm.size} heads do not divide into {self.ulysses} groups; pad "
                "the heads or choose another Ulysses degree."
            )
        _check_permutation("head_perm", self.head_perm)
        for name, order in (("q_order", self.q_order), ("kv_order", self.kv_order)):
            if order.ndim != 2 or order.shape[0] != self.ulysses or order.shape[1] % self.ring:
                raise ValueError(
                    f"Plan: {name} has shape {order.shape}, expected [{self.ulysses}, a multiple "
                    f"of {self.ring}]."
                )
            for group, row in enumerate(order):
                _check_permutation(f"{name}[{group}]", row)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Plan):
            return NotImplemented
        return (self.ulysses, self.ring) == (other.ulysses, other.ring) and all(
            np.array_equal(getattr(self, name), getattr(other, name))
            for name in ("head_perm", "q_order", "kv_order")
        )

    def __hash__(self) -> int:
        arrays = (self.head_perm, self.q_order, self.kv_order)
        return hash((self.ulysses, self.ring, *(array.tobytes() for array in arrays)))


def _check_permutation(name: str, values: Int64[np.ndarray, " size"]) -> None:
    seen = np.bincount(values[(values >= 0) & (values < values.size)], minlength=values.size)
    if (seen != 1).any():
        entry = int(np.argmax(seen != 1))
        raise ValueError(
            f"Plan: {name} is not a permutation of 0..{values.size - 1}: {entry} occurs "
            f"{int(seen[entry])} times."
        )
