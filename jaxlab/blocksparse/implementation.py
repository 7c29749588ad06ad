"""What every implementation of block-sparse attention offers, and what it may rely on."""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float, Int32

from jaxlab.blocksparse.mask import BlockMask

Queries = Float[Array, "batch q_len heads dim"]
Keys = Float[Array, "batch kv_len kv_heads dim"]
Values = Float[Array, "batch kv_len kv_heads value_dim"]
Outputs = Float[Array, "batch q_len heads value_dim"]
PerQuery = Float[Array, "batch q_len heads"]
Trips = Int32[Array, "batch heads q_blocks"]


@runtime_checkable
class Implementation(Protocol):
    """A module with both directions of block-sparse attention.

    The caller has checked all arguments. It has put zeros where padding tokens stand, and into the
    cotangents of queries that attend to nothing.
    """

    def forward(
        self, q: Queries, k: Keys, v: Values, mask: BlockMask, *, scale: float
    ) -> tuple[Outputs, PerQuery, Trips]:
        """Attends over the active blocks.

        Args:
          q: queries ``[batch, q_len, heads, dim]``.
          k: keys, of the same type, ``[batch, kv_len, kv_heads, dim]``; ``kv_heads`` divides
            ``heads``.
          v: values, of the same type, ``[batch, kv_len, kv_heads, value_dim]``.
          mask: which blocks attend, ``[batch or 1, heads, q_blocks, kv_blocks]``.
          scale: factor on the scores.

        Returns:
          ``out``, of the accumulator's type or, where only that is written, of q's, 0 for a query
          that attends to nothing; ``lse``, the logarithm of the sum of exponentials, float32 or
          wider, -inf for such a query; and ``trips``, the key blocks computed for each row of
          blocks.
        """
        ...

    def backward(
        self,
        q: Queries,
        k: Keys,
        v: Values,
        mask: BlockMask,
        out: Outputs,
        lse: PerQuery,
        d_out: Outputs,
        d_lse: PerQuery,
        *,
        scale: float,
    ) -> tuple[Queries, Keys, Values]:
        """Gradients of ``forward``, from cotangents of both ``out`` and ``lse``.

        With scores ``S``, probabilities ``P = exp(S - lse)`` and ``dP = d_out v^T``, the scores'
        cotangent is ``dS = P (dP - delta)``, where ``delta = sum(out * d_out) - d_lse``.

        Args:
          q: as for ``forward``.
          k: as for ``forward``.
          v: as for ``forward``.
          mask: as for ``forward``.
          out: ``forward``'s output.
          lse: ``forward``'s log-sum-exp.
          d_out: cotangent of ``out``.
          d_lse: cotangent of ``lse``.
          scale: as for ``forward``.

        Returns:
          The gradients of ``q``, ``k`` and ``v``, in their types.
        """
        ...


@runtime_checkable
class Kernels(Implementation, Protocol):
    """An implementation for one kind of device, with limits."""

    def unsupported(self, q: Any, k: Any, v: Any, mask: BlockMask) -> str | None:
        """Why these kernels cannot run such inputs, or None when they can.

        Args:
          q: as for ``forward``; only the shape and type are looked at, here and below.
          k: as for ``forward``.
          v: as for ``forward``.
          mask: which blocks attend.
        """
        ...
