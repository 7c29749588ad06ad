"""What one transformer block allocates and frees, operation by operation, forward and backward.

An operation allocates its results, then drops what it was the last to need. Forward operations
list what a pass *without* gradients drops; a pass that will be differentiated keeps the names in
``saved``, which the backward operations drop. ``x`` is the input of the block, ``y`` the output;
``dy`` and ``dx`` are their gradients. Sizes are in bytes: activations in bfloat16, statistics and
attention accumulators in float32.
"""

import dataclasses

import numpy as np
from jaxtyping import Int64

from jaxlab.stweaver.models import Model

MIXTURE = "experts"  # the module whose allocations differ from run to run


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
      module: the innermost module it belongs to.
      results: names and bytes of what it allocates, in order.
      drops: names that it frees.
    """

    module: str
    results: tuple[tuple[str, int], ...]
    drops: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class BlockOps:
    """The operations of a block on one rank for one microbatch.

    Attributes:
      forward: in order.
      backward: in order.
    """

    forward: tuple[Operation, ...]
    backward: tuple[Operation, ...]

    @property
    def saved(self) -> frozenset[str]:
        """What the backward pass needs of the forward pass; the input too."""
        made = {name for operation in self.forward for name, _ in operation.results}
        dropped = {name for operation in self.backward for name in operation.drops}
        return frozenset(made & dropped)


class _Writer:
    """Collects operations."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []

    def __call__(self, module: str, drops: str = "", /, **results: int) -> None:
        self.operations.append(Operation(module, tuple(results.items()), tuple(drops.split())))


def block_ops(
    model: Model,
    tokens: int,
    tensor: int,
    expert_counts: Int64[np.ndarray, " local_experts"] | None = None,
) -> BlockOps:
    """The operations of one block.

    Args:
      model: the model.
      tokens: tokens of a microbatch on this rank.
      tensor: ranks that share a matrix.
      expert_counts: tokens that each expert of this rank receives; None for a dense model.

    Returns:
      The operations.

    Source: reconstructed from the modules of Megatron-LM with flash attention, fused weight
    gradients and no sequence parallelism; see ``docs/sources/stweaver.md``, section "schedules".
    """
    forward, backward = _Writer(), _Writer()
    _attention_forward(forward, model, tokens, tensor)
    if expert_counts is None:
        _dense_forward(forward, model, tokens, tensor)
        _dense_backward(backward, model, tokens, tensor)
    else:
        _mixture_forward(forward, model, tokens, tensor, expert_counts)
        _mixture_backward(backward, model, tokens, tensor, expert_counts)
    _attention_backward(backward, model, tokens, tensor)
    return BlockOps(tuple(forward.operations), tuple(backward.operations))


def _widths(model: Model, tokens: int, tensor: int) -> tuple[int, int, int, int]:
    """Bytes of the residual stream, of queries, of keys, and of a float32 a head and token."""
    head = model.hidden // model.heads
    stream = 2 * tokens * model.hidden
    query = 2 * tokens * head * model.heads // tensor
    key = 2 * tokens * head * model.kv_heads // tensor
    return stream, query, key, 4 * tokens * model.heads // tensor


def _statistics(model: Model, tokens: int, number: int) -> dict[str, int]:
    names = ("rstd",) if model.gated else ("mean", "rstd")
    return {f"{name}{number}": 4 * tokens for name in names}


def _attention_forward(op: _Writer, model: Model, tokens: int, tensor: int) -> None:
    stream, query, key, per_head = _widths(model, tokens, tensor)
    statistics = _statistics(model, tokens, 1)
    op("attention", ln1=stream, **statistics)
    op("attention", "ln1 " + " ".join(statistics), qkv=query + 2 * key)
    if model.gated:
        op("attention", q=query, k=key)
    rotary = " q k" if model.gated else ""
    op("attention", "", context=query, lse=per_head, random=16)
    op("attention", "qkv lse random context" + rotary, o=stream)
    if model.gated:
        op("attention", "o", r=stream)
    else:
        op("attention", "o mask1", mask1=stream // 2, r=stream)


def _attention_backward(op: _Writer, model: Model, tokens: int, tensor: int) -> None:
    """From ``dr``, the gradient of the stream between attention and feed-forward, to ``dx``."""
    stream, query, key, per_head = _widths(model, tokens, tensor)
    if model.gated:
        op("attention", "", dcontext=query)
    else:
        op("attention", "mask1", do=stream)
        op("attention", "do", dcontext=query)
    op("attention", "", dq=query, dk=key, dv=key, delta=per_head, accumulator=2 * query)
    if model.gated:
        op("attention", "delta accumulator dcontext context lse random q k qkv")
        op("attention", "dq dk", dq0=query, dk0=key)
        op("attention", "dq0 dk0 dv", dqkv=query + 2 * key)
    else:
        op("attention", "delta accumulator dcontext context lse random qkv")
        op("attention", "dq dk dv", dqkv=query + 2 * key)
    op("attention", "dqkv ln1", dln1=stream)
    statistics = " ".join(_statistics(model, tokens, 1))
    op("attention", f"dln1 x dgamma1 {statistics}", dnorm1=stream, dgamma1=4 * model.hidden)
    op("attention", "dnorm1 dr", dx=stream)


def _dense_forward(op: _Writer, model: Model, tokens: int, tensor: int) -> None:
    stream, *_ = _widths(model, tokens, tensor)
    inner = 2 * tokens * model.ffn // tensor
    statistics = _statistics(model, tokens, 2)
    op("mlp", ln2=stream, **statistics)
    op("mlp", "ln2 " + " ".join(statistics), fc1=inner * (2 if model.gated else 1))
    op("mlp", "fc1", act=inner)
    op("mlp", "act", m=stream)
    if model.gated:
        op("mlp", "m r", y=stream)
    else:
        op("mlp", "m r mask2", mask2=stream // 2, y=stream)


def _norm2_backward(op: _Writer, model: Model, tokens: int, module: str) -> None:
    stream = 2 * tokens * model.hidden
    statistics = " ".join(_statistics(model, tokens, 2))
    op(module, f"dln2 r dgamma2 {statistics}", dnorm2=stream, dgamma2=4 * model.hidden)
    op(module, "dnorm2 dy", dr=stream)


def _dense_backward(op: _Writer, model: Model, tokens: int, tensor: int) -> None:
    stream, *_ = _widths(model, tokens, tensor)
    inner = 2 * tokens * model.ffn // tensor
    if model.gated:
        op("mlp", "act", dact=inner)
    else:
        op("mlp", "mask2", dm=stream)
        op("mlp", "act dm", dact=inner)
    op("mlp", "dact fc1", dfc1=inner * (2 if model.gated else 1))
    op("mlp", "dfc1 ln2", dln2=stream)
    _norm2_backward(op, model, tokens, "mlp")


def _mixture_forward(
    op: _Writer, model: Model, tokens: int, tensor: int, counts: Int64[np.ndarray, " experts"]
) -> None:
    stream, *_ = _widths(model, tokens, tensor)
    received = int(counts.sum())
    sent, arrived = tokens * model.top_k * 2 * model.hidden, received * 2 * model.hidden
    shared, choices = 2 * tokens * model.ffn // tensor, tokens * model.top_k
    statistics = _statistics(model, tokens, 2)
    op("router", ln2=stream, **statistics)
    op("router", " ".join(statistics), logits=4 * tokens * model.experts)
    op("router", "logits", probabilities=4 * tokens * model.experts)
    op("router", "probabilities", weight=4 * choices, expert=8 * choices)
    op(MIXTURE, "expert", permuted=sent, order=8 * choices)
    op(MIXTURE, "permuted", received=arrived)
    op(MIXTURE, "received", sorted=arrived, chunks=8 * model.experts)
    for number, count in enumerate(counts.tolist()):
        inner = 2 * count * model.expert_ffn
        op(f"{MIXTURE}.{number}", **{f"fc1_{number}": 2 * inner})
        op(f"{MIXTURE}.{number}", f"fc1_{number}", **{f"act_{number}": inner})
        op(
            f"{MIXTURE}.{number}",
            f"act_{number}",
            **{f"out_{number}": 2 * count * model.hidden},
        )
    outs = " ".join(f"out_{number}" for number in range(counts.size))
    op(MIXTURE, f"sorted {outs}", joined=arrived)
    op(MIXTURE, "joined chunks", back=arrived)
    op(MIXTURE, "back", returned=sent)
    op(MIXTURE, "returned weight order", routed=stream)
    op("shared", "ln2", sfc1=2 * shared)
    op("shared", "sfc1", sact=shared)
    op("shared", "sact", sout=stream, gate=2 * tokens)
    op("shared", "sout gate", gated=stream)
    op("shared", "routed gated", m=stream)
    op("shared", "m r", y=stream)


def _mixture_backward(
    op: _Writer, model: Model, tokens: int, tensor: int, counts: Int64[np.ndarray, " experts"]
) -> None:
    stream, *_ = _widths(model, tokens, tensor)
    received = int(counts.sum())
    sent, arrived = tokens * model.top_k * 2 * model.hidden, received * 2 * model.hidden
    shared, choices = 2 * tokens * model.ffn // tensor, tokens * model.top_k
    op("shared", "sout gate", dsout=stream, dgate=2 * tokens)
    op("shared", "dsout sact dgate", dsact=shared)
    op("shared", "dsact sfc1", dsfc1=2 * shared)
    op("shared", "dsfc1", dshared=stream)
    op(MIXTURE, "returned weight", dreturned=sent, dweight=4 * choices)
    op(MIXTURE, "dreturned", dback=arrived)
    op(MIXTURE, "dback", djoined=arrived)
    for number, count in reversed(list(enumerate(counts.tolist()))):
        inner, module = 2 * count * model.expert_ffn, f"{MIXTURE}.{number}"
        op(module, f"act_{number}", **{f"dact_{number}": inner})
        op(module, f"dact_{number} fc1_{number}", **{f"dfc1_{number}": 2 * inner})
        op(module, f"dfc1_{number}", **{f"din_{number}": 2 * count * model.hidden})
    parts = " ".join(f"din_{number}" for number in range(counts.size))
    op(MIXTURE, f"djoined sorted {parts}", dsorted=arrived)
    op(MIXTURE, "dsorted chunks", dreceived=arrived)
    op(MIXTURE, "dreceived", dpermuted=sent)
    op(MIXTURE, "dpermuted order", drouted=stream)
    op("router", "dweight expert probabilities", dlogits=4 * tokens * model.experts)
    op("router", "dlogits", drouter=stream)
    op("router", "drouter drouted dshared ln2", dln2=stream)
    _norm2_backward(op, model, tokens, "router")
