"""Whether arrays, mask and plan fit each other."""

from typing import Any

from jaxlab.blocksparse import BlockMask
from jaxlab.dbsp.device_plan import DevicePlan
from jaxlab.dbsp.plan import spare_heads


def check_arrays(caller: str, q: Any, k: Any, v: Any) -> None:
    """Raises ValueError, in the name of the caller, unless q, k and v are of one attention."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        if getattr(x, "ndim", None) != 4:
            raise ValueError(
                f"{caller}: {name} must be an array [batch, seq, heads, dim], got shape "
                f"{getattr(x, 'shape', type(x).__name__)}."
            )
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3] or k.shape[:3] != v.shape[:3]:
        raise ValueError(
            f"{caller}: q {q.shape}, k {k.shape} and v {v.shape} do not fit: one batch, "
            "one dim of q and k, and for v the shape of k but for its dim."
        )
    if not k.shape[2] or q.shape[2] % k.shape[2]:
        raise ValueError(
            f"{caller}: {q.shape[2]} heads of q are no multiple of the {k.shape[2]} heads "
            "of k and v."
        )


def check_sizes(
    caller: str, q: Any, k: Any, v: Any, mask: Any, plan: DevicePlan, *, placed: bool
) -> None:
    """Raises TypeError or ValueError unless mask and plan are for these arrays.

    ``placed``: whether the tokens must stand in the order of the plan's homes already, padding
    included; else the mask's lengths will do as well.
    """
    if not isinstance(mask, BlockMask):
        raise TypeError(f"{caller}: mask must be a BlockMask, got {type(mask).__name__}.")
    mask.validate()
    if mask.heads != q.shape[2]:
        raise ValueError(f"{caller}: mask has {mask.heads} heads, q has {q.shape[2]}.")
    planned = plan.head_inv.shape[0]
    spare = spare_heads(plan.ulysses, q.shape[2] // k.shape[2])
    if not 0 <= planned - mask.heads <= spare:
        raise ValueError(
            f"{caller}: the plan is for another mask: it places {planned} heads, the mask "
            f"has {mask.heads}; plan for this mask."
        )
    devices, larger = plan.ulysses * plan.ring, max(mask.q_block, mask.kv_block)
    for name, arrays, length, block, home in (
        ("q", (q,), mask.q_len, mask.q_block, plan.q_home),
        ("k and v", (k, v), mask.kv_len, mask.kv_block, plan.kv_home),
    ):
        padded = home.shape[0] * block
        blocks = -(-length // block)
        # Padding stays below one block a device; what differs more was planned for another mask.
        if not 0 <= padded - blocks * block < devices * larger:
            raise ValueError(
                f"{caller}: the plan is for another mask: it places {home.shape[0]} "
                f"blocks of {name}, the mask has {blocks}; plan for this mask."
            )
        if padded % devices:
            raise ValueError(
                f"{caller}: {padded} tokens of {name}, {home.shape[0]} blocks of {block}, "
                f"do not divide over {devices} devices; pad the plan to a multiple of {devices} "
                "blocks, as Plan.contiguous does."
            )
        for array in arrays:
            if array.shape[1] not in ((padded,) if placed else (padded, length)):
                raise ValueError(
                    f"{caller}: {name} has {array.shape[1]} tokens, expected {padded}"
                    + (
                        ", in the order of the plan's home; call to_home on the model's input."
                        if placed
                        else f" or {length}."
                    )
                )
