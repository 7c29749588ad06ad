"""A block mask over tokens that every head sees in an order of its own."""

import dataclasses
import typing

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Shaped

from jaxlab.blocksparse.mask import BlockMask


@jax.tree_util.register_dataclass
@typing.no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class ReorderedMask:
    """A block mask whose blocks refer to reordered tokens, and the orders.

    Reorder queries, keys and values, attend under ``mask``, restore the output. Rotary embeddings
    and everything else that depends on positions come before, at original positions.

    Attributes:
      mask: blocks of reordered tokens: block ``i`` of head ``h`` holds the original tokens
        ``orders[h, i * block : (i + 1) * block]``.
      orders: int ``[heads, tokens]``; ``orders[h, p]`` is the original token at place ``p`` of
        query head ``h``.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxlab.blocksparse import svg_reordered_mask
      >>> reordered = svg_reordered_mask((2, 1, 2), ("spatial", "temporal"), block=2)
      >>> x = jnp.arange(4)[None, :, None, None] * jnp.ones((1, 1, 2, 1), jnp.int32)
      >>> reordered.reorder(x)[0, :, 1, 0].tolist()
      [0, 2, 1, 3]
      >>> bool((reordered.restore(reordered.reorder(x)) == x).all())
      True
    """

    mask: BlockMask
    orders: Int[Array, "heads tokens"] | Int[np.ndarray, "heads tokens"]

    def validate(self) -> "ReorderedMask":
        """Checks mask and orders against each other and returns the reordered mask itself.

        Raises:
          TypeError: ``orders`` is no integer array, or ``mask`` fails its own check.
          ValueError: ``orders`` is not ``[heads, tokens]`` of the mask, or a head's order is not a
            permutation of its tokens (checked where it is concrete); or ``mask`` fails its own
            check.
        """
        mask = self.mask.validate()
        if not np.issubdtype(getattr(self.orders, "dtype", object), np.integer):
            kind = getattr(self.orders, "dtype", type(self.orders).__name__)
            raise TypeError(f"ReorderedMask: orders must be an integer array, got {kind}.")
        tokens = mask.q_len
        if mask.kv_len != tokens or self.orders.shape != (mask.heads, tokens):
            raise ValueError(
                f"ReorderedMask: orders has shape {self.orders.shape}, but a mask of {mask.heads} "
                f"heads, {tokens} queries and {mask.kv_len} keys needs as many queries as keys and "
                f"orders [{mask.heads}, {tokens}]."
            )
        if not isinstance(self.orders, jax.core.Tracer):
            wrong = (np.sort(np.asarray(self.orders), axis=1) != np.arange(tokens)).any(1)
            if wrong.any():
                raise ValueError(
                    f"ReorderedMask: orders[{int(wrong.argmax())}] is not a permutation of "
                    f"0..{tokens - 1}, so it cannot be undone."
                )
        return self

    def reorder(
        self, x: Shaped[Array, "batch tokens heads dim"]
    ) -> Shaped[Array, "batch tokens heads dim"]:
        """Puts tokens into the order of the mask, head by head.

        Args:
          x: ``[batch, tokens, heads, dim]`` in original order: queries, or keys or values whose
            heads divide the mask's.

        Returns:
          The reordered array.

        Raises:
          TypeError: as ``validate``.
          ValueError: as ``validate``; tokens or heads do not fit the mask, or query heads that
            share a key head have different orders.
        """
        return _gather(x, self._orders_for(x))

    def restore(
        self, x: Shaped[Array, "batch tokens heads dim"]
    ) -> Shaped[Array, "batch tokens heads dim"]:
        """Undoes ``reorder``, for the attention output.

        Args:
          x: ``[batch, tokens, heads, dim]`` in the order of the mask.

        Returns:
          The array in original order.

        Raises:
          TypeError: as ``reorder``.
          ValueError: as ``reorder``.
        """
        return _gather(x, jnp.argsort(self._orders_for(x), axis=1))

    def _orders_for(self, x: Array) -> Array:
        heads, tokens = self.validate().orders.shape
        if x.ndim != 4 or x.shape[1] != tokens or heads % x.shape[2]:
            raise ValueError(
                f"ReorderedMask: x has shape {x.shape}, expected [batch, {tokens}, heads, dim] "
                f"with a number of heads that divides {heads}."
            )
        shared = self.orders.reshape(x.shape[2], -1, tokens)
        if shared.shape[1] > 1 and not isinstance(shared, jax.core.Tracer):
            differs = np.flatnonzero((np.asarray(shared) != np.asarray(shared[:, :1])).any((1, 2)))
            if differs.size:
                raise ValueError(
                    f"ReorderedMask: the query heads that share key head {differs[0]} have "
                    "different orders; give a group of heads one order or repeat k and v."
                )
        return jnp.asarray(shared[:, 0])


def _gather(x: Array, places: Array) -> Array:
    return jnp.take_along_axis(x, places.T[None, :, :, None], axis=1)
