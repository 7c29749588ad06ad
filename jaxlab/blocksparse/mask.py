"""Which blocks of the attention matrix are computed: the mask, its meaning, its lists."""

import dataclasses
import typing
from typing import Literal, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Int32

from jaxlab.blocksparse.arguments import whole_number

_LARGEST = np.iinfo(np.int32).max


class BlockLists(NamedTuple):
    """Active blocks of every row of blocks, first entries of each list first.

    Attributes:
      indices: int32 ``[*batch, heads, rows, columns]``; the first ``counts`` entries of a row are
        its active columns in ascending order, the rest is unspecified (but in range).
      counts: int32 ``[*batch, heads, rows]``, number of active columns.
    """

    indices: Int32[Array, "*batch heads rows columns"]
    counts: Int32[Array, "*batch heads rows"]


@jax.tree_util.register_dataclass
@typing.no_type_check
@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class BlockMask:
    """A block-sparse attention mask.

    Every token pair of an active block attends, except pairs that involve a padding token, a token
    beyond the true lengths, or, with ``causal``, a key whose position exceeds the query's.

    Positions are the tokens' places in the original sequence. They matter once tokens have been
    reordered: a causal mask then still compares original positions, and a negative position marks a
    padding token, which attends to nothing and is attended by nothing.

    Attributes:
      blocks: bool ``[*batch, heads, q_blocks, kv_blocks]``, numpy or jax; ``batch`` broadcasts
        against the batch of the attention inputs.
      q_block: queries in a block, in tokens.
      kv_block: keys in a block, in tokens.
      q_len: queries, ``ceil(q_len / q_block) == q_blocks``.
      kv_len: keys, ``ceil(kv_len / kv_block) == kv_blocks``.
      causal: whether a key with a larger position than the query's is left out.
      q_positions: int ``[q_len]`` or None for ``0, 1, 2, ...``.
      kv_positions: int ``[kv_len]`` or None for ``0, 1, 2, ...``.

    Example:
      >>> import numpy as np
      >>> BlockMask(np.tri(4, 4, dtype=bool)[None], 64, 64, q_len=250, kv_len=250)
      BlockMask(heads=1, blocks=4x4 of 64x64, tokens=250x250, density=0.625)
    """

    blocks: Bool[Array, "*batch heads q_blocks kv_blocks"] | Bool[np.ndarray, "..."]
    q_block: int = dataclasses.field(metadata={"static": True})
    kv_block: int = dataclasses.field(metadata={"static": True})
    q_len: int = dataclasses.field(metadata={"static": True})
    kv_len: int = dataclasses.field(metadata={"static": True})
    causal: bool = dataclasses.field(default=False, metadata={"static": True})
    q_positions: Int[Array, " q_len"] | Int[np.ndarray, "..."] | None = None
    kv_positions: Int[Array, " kv_len"] | Int[np.ndarray, "..."] | None = None

    def __post_init__(self) -> None:
        for name in ("q_block", "kv_block", "q_len", "kv_len"):
            value = whole_number("BlockMask", name, getattr(self, name))
            object.__setattr__(self, name, value)
        if not isinstance(self.causal, bool | np.bool_):
            raise TypeError(f"BlockMask: causal must be a bool, got {self.causal!r}.")
        object.__setattr__(self, "causal", bool(self.causal))

    def validate(self) -> "BlockMask":
        """Checks the arrays against the static fields and returns the mask itself.

        Tree operations may put anything into the leaves, so the constructor checks only the static
        fields; every public function that takes a mask calls this first.

        Raises:
          TypeError: ``blocks`` is not a boolean array or positions are not integers.
          ValueError: a shape disagrees with the block sizes and lengths, or there are no heads.
        """
        _check_boolean("BlockMask", self.blocks)
        expected = (-(-self.q_len // self.q_block), -(-self.kv_len // self.kv_block))
        if self.blocks.ndim < 3 or self.blocks.shape[-2:] != expected:
            raise ValueError(
                f"BlockMask: blocks has shape {self.blocks.shape}, but {self.q_len} queries in "
                f"blocks of {self.q_block} and {self.kv_len} keys in blocks of {self.kv_block} "
                f"need [*batch, heads, {expected[0]}, {expected[1]}]."
            )
        if 0 in self.blocks.shape:
            raise ValueError(
                f"BlockMask: blocks has shape {self.blocks.shape}; it must hold a head or more."
            )
        for name, length in (("q_positions", self.q_len), ("kv_positions", self.kv_len)):
            positions = getattr(self, name)
            if positions is None:
                continue
            if not np.issubdtype(getattr(positions, "dtype", object), np.integer):
                raise TypeError(f"BlockMask: {name} must be an integer array, got {positions!r}.")
            if positions.shape != (length,):
                raise ValueError(
                    f"BlockMask: {name} has shape {positions.shape}, expected ({length},): one "
                    "position for every token, negative for padding."
                )
            if not isinstance(positions, jax.core.Tracer):
                known = np.asarray(positions)
                for position in (int(known.min()), int(known.max())):
                    if not -_LARGEST <= position < _LARGEST:
                        raise ValueError(
                            f"BlockMask: {name} must lie between -(2**31 - 1) and 2**31 - 2, got "
                            f"{position}; number the tokens from 0."
                        )
        return self

    @classmethod
    def from_tokens(
        cls,
        tokens: Bool[Array, "*batch heads q_len kv_len"]
        | Bool[np.ndarray, "*batch heads q_len kv_len"],
        q_block: int,
        kv_block: int,
        *,
        causal: bool = False,
        round: Literal["up"] | None = None,  # noqa: A002
    ) -> "BlockMask":
        """Makes a block mask from a token mask, on the host.

        Args:
          tokens: bool ``[*batch, heads, q_len, kv_len]``, concrete.
          q_block: queries in a block, in tokens.
          kv_block: keys in a block, in tokens.
          causal: the mask is causal; pairs above the diagonal are not looked at.
          round: ``"up"`` activates a block that is partly True (the mask then attends to more than
            ``tokens`` says); None refuses it.

        Returns:
          The mask; without ``round`` it means exactly ``tokens``.

        Raises:
          TypeError: a block size is not an integer, or ``tokens`` is traced.
          ValueError: a block is neither full nor empty and ``round`` is None; ``round`` is
            something else; or a block size is not positive.
        """
        if round not in (None, "up"):
            raise ValueError(f"from_tokens: round must be None or 'up', got {round!r}.")
        q_block = whole_number("from_tokens", "q_block", q_block)
        kv_block = whole_number("from_tokens", "kv_block", kv_block)
        if isinstance(tokens, jax.core.Tracer):
            raise TypeError(
                "from_tokens: tokens must be concrete, got a traced array; make the mask outside "
                "of jit, or give BlockMask the blocks themselves."
            )
        tokens = np.asarray(tokens)
        if tokens.ndim < 3 or tokens.dtype != np.bool_ or 0 in tokens.shape:
            raise ValueError(
                "from_tokens: tokens must be a nonempty boolean array [*batch, heads, q_len, "
                "kv_len], got "
                f"{tokens.dtype} {tokens.shape}."
            )
        q_len, kv_len = tokens.shape[-2:]
        counted = np.tri(q_len, kv_len, dtype=bool) if causal else np.ones((q_len, kv_len), bool)
        starts = (np.arange(0, q_len, q_block), np.arange(0, kv_len, kv_block))

        def block_sums(pairs: np.ndarray) -> np.ndarray:
            by_row = np.add.reduceat(pairs, starts[0], axis=-2, dtype=np.int64)
            return np.add.reduceat(by_row, starts[1], axis=-1)

        active = block_sums(tokens & counted)
        partial = (active > 0) & (active < block_sums(counted))
        if round is None and partial.any():
            first = tuple(int(i) for i in np.argwhere(partial)[0])
            raise ValueError(
                f"from_tokens: {int(partial.sum())} blocks of {q_block}x{kv_block} tokens are only "
                f"partly True, the first at [*batch, head, q block, kv block] = {first}; pass "
                "round='up' to activate them whole, or choose blocks that fit the mask."
            )
        return cls(active > 0, q_block, kv_block, q_len, kv_len, causal).validate()

    @property
    def heads(self) -> int:
        """Number of query heads."""
        return self.blocks.shape[-3]

    def query_positions(self) -> Int[Array, " q_len"]:
        """Original position of every query, int32 ``[q_len]``; negative for padding."""
        given = self.q_positions
        return jnp.arange(self.q_len) if given is None else jnp.asarray(given, jnp.int32)

    def key_positions(self) -> Int[Array, " kv_len"]:
        """Original position of every key, int32 ``[kv_len]``; negative for padding."""
        given = self.kv_positions
        return jnp.arange(self.kv_len) if given is None else jnp.asarray(given, jnp.int32)

    def to_tokens(self) -> Bool[Array, "*batch heads q_len kv_len"]:
        """The mask's meaning, pair by pair: bool ``[*batch, heads, q_len, kv_len]``.

        For references and pictures; its size is quadratic in the sequence length.
        """
        self.validate()
        rows = jnp.repeat(jnp.asarray(self.blocks), self.q_block, axis=-2)[..., : self.q_len, :]
        pairs = jnp.repeat(rows, self.kv_block, axis=-1)[..., : self.kv_len]
        q_positions, kv_positions = self.query_positions()[:, None], self.key_positions()[None, :]
        allowed = (q_positions >= 0) & (kv_positions >= 0)
        if self.causal:
            allowed &= kv_positions <= q_positions
        return pairs & allowed

    def live_blocks(self) -> Bool[Array, "*batch heads q_blocks kv_blocks"]:
        """Active blocks in which at least one pair may attend.

        Drops blocks that lie wholly above the causal diagonal or hold only padding.

        Returns:
          bool ``[*batch, heads, q_blocks, kv_blocks]``.
        """
        self.validate()
        blocks = jnp.asarray(self.blocks)
        if not self.causal and self.q_positions is None and self.kv_positions is None:
            return blocks
        last_query = _block_reduce(self.query_positions(), self.q_block, -1, jnp.max)
        keys = self.key_positions()
        beyond = jnp.iinfo(jnp.int32).max
        first_key = _block_reduce(jnp.where(keys < 0, beyond, keys), self.kv_block, beyond, jnp.min)
        reachable = (last_query >= 0)[:, None] & (first_key < beyond)[None, :]
        if self.causal:
            reachable &= first_key[None, :] <= last_query[:, None]
        return blocks & reachable

    def kv_lists(self) -> BlockLists:
        """For every query block, the live key blocks: ``rows = q_blocks``."""
        return compress(self.live_blocks())

    def q_lists(self) -> BlockLists:
        """For every key block, the live query blocks: ``rows = kv_blocks``."""
        return compress(jnp.swapaxes(self.live_blocks(), -1, -2))

    def head_counts(self) -> Int[np.ndarray, "*batch heads"]:
        """Active blocks of every head, int64 ``[*batch, heads]``, counted on the host."""
        return np.asarray(self.validate().blocks).sum((-2, -1), dtype=np.int64)

    def density(self) -> float:
        """Active blocks over all blocks, counted on the host."""
        return float(self.head_counts().sum() / np.prod(self.blocks.shape))

    def permuted(
        self,
        q_order: Int[Array, " q_blocks"] | Int[np.ndarray, " q_blocks"],
        kv_order: Int[Array, " kv_blocks"] | Int[np.ndarray, " kv_blocks"],
    ) -> "BlockMask":
        """The same mask for inputs whose blocks have been reordered.

        Args:
          q_order: int ``[q_blocks]``, a permutation; new query block ``i`` is old block
            ``q_order[i]``.
          kv_order: int ``[kv_blocks]``, the same for keys.

        Returns:
          A mask over whole blocks: its lengths are multiples of the block sizes, and the tokens
          that fill up a last partial block have position -1 wherever that block now stands.

        Raises:
          TypeError: an order is no array.
          ValueError: an order is not a permutation (checked where it is concrete).
        """
        self.validate()
        for name, order, size in (
            ("q_order", q_order, self.blocks.shape[-2]),
            ("kv_order", kv_order, self.blocks.shape[-1]),
        ):
            if not isinstance(order, np.ndarray | jax.Array):
                raise TypeError(f"permuted: {name} must be an array, got {type(order).__name__}.")
            concrete = not isinstance(order, jax.core.Tracer)
            if order.shape != (size,) or (
                concrete and not np.array_equal(np.sort(order), np.arange(size))
            ):
                raise ValueError(
                    f"permuted: {name} must be a permutation of 0..{size - 1}, got {order!r}."
                )
        blocks = jnp.take(jnp.asarray(self.blocks), jnp.asarray(q_order), axis=-2)
        q_positions = _in_blocks(self.query_positions(), self.q_block, -1)[jnp.asarray(q_order)]
        kv_positions = _in_blocks(self.key_positions(), self.kv_block, -1)[jnp.asarray(kv_order)]
        return BlockMask(
            jnp.take(blocks, jnp.asarray(kv_order), axis=-1),
            self.q_block,
            self.kv_block,
            q_positions.size,
            kv_positions.size,
            self.causal,
            q_positions.reshape(-1),
            kv_positions.reshape(-1),
        ).validate()

    def __repr__(self) -> str:
        shape = getattr(self.blocks, "shape", ())
        if len(shape) < 3:
            return f"BlockMask({self.blocks!r})"
        parts = [f"batch={tuple(shape[:-3])}"] if len(shape) > 3 else []
        parts += [
            f"heads={shape[-3]}",
            f"blocks={shape[-2]}x{shape[-1]} of {self.q_block}x{self.kv_block}",
            f"tokens={self.q_len}x{self.kv_len}",
        ]
        if isinstance(self.blocks, np.ndarray | jax.Array) and not isinstance(
            self.blocks, jax.core.Tracer
        ):
            parts.append(f"density={np.asarray(self.blocks).mean():.3g}")
        if self.causal:
            parts.append("causal")
        if self.q_positions is not None or self.kv_positions is not None:
            parts.append("positions given")
        return f"BlockMask({', '.join(parts)})"


def compress(blocks: Bool[Array, "*batch heads rows columns"]) -> BlockLists:
    """Lists the active columns of every row of blocks; traceable.

    Args:
      blocks: bool ``[*batch, heads, rows, columns]``.

    Returns:
      The lists, as wide as a full row, so that their shape does not depend on the mask.

    Raises:
      TypeError: ``blocks`` is not a boolean array.
    """
    _check_boolean("compress", blocks)
    columns = blocks.shape[-1]
    column = jnp.arange(columns, dtype=jnp.int32)
    order = jnp.sort(jnp.where(blocks, column, column + columns), axis=-1)
    return BlockLists(
        jnp.where(order >= columns, order - columns, order),
        blocks.sum(-1, dtype=jnp.int32),
    )


def _check_boolean(rule: str, blocks: typing.Any) -> None:
    if getattr(blocks, "dtype", None) != np.bool_:
        kind = getattr(blocks, "dtype", type(blocks).__name__)
        raise TypeError(
            f"{rule}: blocks must be a boolean array, got {kind}; "
            "threshold it first, for example `blocks > 0`."
        )


def _in_blocks(values: Array, block: int, fill: int) -> Array:
    padded = jnp.pad(values, (0, -values.shape[0] % block), constant_values=fill)
    return padded.reshape(-1, block)


def _block_reduce(values: Array, block: int, fill: int, reduce: typing.Callable) -> Array:
    return reduce(_in_blocks(values, block, fill), axis=1)
