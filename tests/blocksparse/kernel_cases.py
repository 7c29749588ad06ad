"""Inputs and an independent reference for the kernels of block-sparse attention."""

import base64
import dataclasses
import json
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.blocksparse import BlockMask


@dataclasses.dataclass(frozen=True)
class Case:
    """A problem: sizes, and what is unusual about its mask."""

    q_block: int
    kv_block: int
    q_len: int
    kv_len: int
    heads: int
    kv_heads: int
    dim: int
    value_dim: int
    batch: int = 1
    mask_batch: int = 1
    causal: bool = False
    positions: bool = False
    shuffled: bool = True
    scale: float = 0.17
    dtype: str = "bfloat16"
    density: float = 0.5

    def mask(self, density: float | None = None) -> BlockMask:
        density = self.density if density is None else density
        rng = np.random.default_rng(1)
        rows, columns = -(-self.q_len // self.q_block), -(-self.kv_len // self.kv_block)
        blocks = rng.random((self.mask_batch, self.heads, rows, columns)) < density
        blocks[:, 0, 0] = False
        blocks[:, -1, -1, -1] = True
        q_at = kv_at = None
        if self.positions:
            order = rng.permutation if self.shuffled else np.arange
            q_at, kv_at = (order(n).astype(np.int32) for n in (self.q_len, self.kv_len))
            q_at[[3, -2] if self.shuffled else 3] = -1
            kv_at[[0, 70] if self.shuffled else 0] = -1
        return BlockMask(
            blocks,
            self.q_block,
            self.kv_block,
            self.q_len,
            self.kv_len,
            self.causal,
            q_at,
            kv_at,
        )

    def arrays(self) -> dict[str, jax.Array]:
        rng = np.random.default_rng(2)
        shapes = {
            "q": (self.batch, self.q_len, self.heads, self.dim),
            "k": (self.batch, self.kv_len, self.kv_heads, self.dim),
            "v": (self.batch, self.kv_len, self.kv_heads, self.value_dim),
            "d_out": (self.batch, self.q_len, self.heads, self.value_dim),
        }
        arrays = {
            name: jnp.asarray(rng.standard_normal(shape), self.dtype)
            for name, shape in shapes.items()
        }
        d_lse = rng.standard_normal(shapes["q"][:3])
        return arrays | {"d_lse": jnp.asarray(d_lse, jnp.float32)}


# "small" stands for all in the default tests: grouped and ragged, with blocks that hold all pairs,
# some by causality, some by padding and none. The others are run by `make test-all`.
CASES = {
    "small": Case(
        64, 64, 130, 140, 2, 1, 24, 40, causal=True, positions=True, shuffled=False, scale=-0.3
    ),
    "ragged": Case(64, 64, 150, 200, 4, 2, 64, 64, batch=2, mask_batch=2),
    "permuted": Case(
        64, 64, 140, 130, 4, 2, 24, 40, causal=True, positions=True, scale=-0.3, batch=2
    ),
    "whole blocks": Case(128, 64, 256, 448, 2, 2, 128, 128, density=0.9),
    "causal": Case(128, 128, 200, 300, 2, 1, 128, 64, causal=True),
    "tall": Case(64, 128, 130, 256, 2, 1, 128, 128),
}


def reference(case: Case, arrays: dict[str, jax.Array], mask: BlockMask) -> dict[str, np.ndarray]:
    """Dense attention and its gradients in float64, written out."""
    q, k, v, d_out, d_lse = (
        np.asarray(arrays[n], np.float64) for n in ("q", "k", "v", "d_out", "d_lse")
    )
    group = case.heads // case.kv_heads
    k_all, v_all = np.repeat(k, group, 2), np.repeat(v, group, 2)
    scores = np.einsum("bqhd,bkhd->bhqk", q, k_all) * case.scale
    scores = np.where(token_mask(mask), scores, -np.inf)
    top = scores.max(-1, keepdims=True)
    weights = np.exp(scores - np.where(np.isneginf(top), 0, top))
    total = weights.sum(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        lse = (np.log(total) + np.where(np.isneginf(top), 0, top))[..., 0].swapaxes(1, 2)
    weights /= np.where(total > 0, total, 1)
    d_weights = np.einsum("bqhd,bkhd->bhqk", d_out, v_all)
    delta = (weights * d_weights).sum(-1, keepdims=True)
    d_scores = weights * (d_weights - delta + d_lse.swapaxes(1, 2)[..., None]) * case.scale

    def over_group(gradient: np.ndarray) -> np.ndarray:
        shape = (*gradient.shape[:2], case.kv_heads, group, gradient.shape[-1])
        return gradient.reshape(shape).sum(3)

    return {
        "out": np.einsum("bhqk,bkhd->bqhd", weights, v_all),
        "lse": lse,
        "dq": np.einsum("bhqk,bkhd->bqhd", d_scores, k_all),
        "dk": over_group(np.einsum("bhqk,bqhd->bkhd", d_scores, q)),
        "dv": over_group(np.einsum("bhqk,bqhd->bkhd", weights, d_out)),
    }


def token_mask(mask: BlockMask) -> np.ndarray:
    """The mask pair by pair, from its documented meaning, one block at a time."""
    *batch, heads, rows, columns = mask.blocks.shape
    pairs = np.zeros((*batch, heads, mask.q_len, mask.kv_len), bool)
    q_at = np.arange(mask.q_len) if mask.q_positions is None else mask.q_positions
    kv_at = np.arange(mask.kv_len) if mask.kv_positions is None else mask.kv_positions
    allowed = (q_at[:, None] >= 0) & (kv_at >= 0)
    if mask.causal:
        allowed &= kv_at <= q_at[:, None]
    for row in range(rows):
        for column in range(columns):
            q = slice(row * mask.q_block, (row + 1) * mask.q_block)
            kv = slice(column * mask.kv_block, (column + 1) * mask.kv_block)
            active = np.asarray(mask.blocks)[..., row, column, None, None]
            pairs[..., q, kv] = active & allowed[q, kv]
    return pairs


def live_counts(mask: BlockMask) -> np.ndarray:
    """How many blocks of every row hold a pair that attends."""
    pairs = token_mask(mask)
    q_starts = np.arange(0, mask.q_len, mask.q_block)
    kv_starts = np.arange(0, mask.kv_len, mask.kv_block)
    by_row = np.logical_or.reduceat(pairs, q_starts, axis=-2)
    return np.logical_or.reduceat(by_row, kv_starts, axis=-1).sum(-1)


def deviations(kernels: ModuleType, case: Case, interpret: Any = False) -> dict[str, float]:
    """Largest error of every result over that result's largest value; and how many trips differ."""
    mask, arrays = case.mask(), case.arrays()
    q, k, v, d_out, d_lse = (arrays[n] for n in ("q", "k", "v", "d_out", "d_lse"))

    @jax.jit
    def run(mask, q, k, v, d_out, d_lse):
        settings = {"scale": case.scale, "interpret": interpret}
        out, lse, trips = kernels.forward(q, k, v, mask, **settings)
        gradients = kernels.backward(q, k, v, mask, out, lse, d_out, d_lse, **settings)
        return out, lse, *gradients, trips

    *results, trips = run(mask, q, k, v, d_out, d_lse)
    expected = reference(case, arrays, mask)
    errors = {}
    for (name, value), result in zip(expected.items(), results, strict=True):
        measured = np.asarray(result, np.float64)
        nothing = np.isneginf(value)
        if not np.array_equal(nothing, np.isneginf(measured)) or measured.shape != value.shape:
            errors[name] = float("inf")
            continue
        difference = np.abs(np.where(nothing, 0, measured) - np.where(nothing, 0, value))
        errors[name] = float(difference.max() / np.abs(value[~nothing]).max())
    if case.dtype != str(results[0].dtype):
        errors["out"] = float("inf")
    counts = np.broadcast_to(live_counts(mask), trips.shape)
    return errors | {"trips": int((np.asarray(trips) != counts).sum())}


LIMITS = {
    "bfloat16": {"out": 8e-3, "lse": 1e-5, "dq": 8e-3, "dk": 8e-3, "dv": 8e-3},
    "float16": {"out": 1e-3, "lse": 1e-5, "dq": 1e-3, "dk": 1e-3, "dv": 1e-3},
    "float32": {"out": 1e-6, "lse": 1e-6, "dq": 2e-6, "dk": 2e-6, "dv": 2e-6},
}


def check(case: Case, measured: dict[str, float]) -> None:
    """Results within the type's limits, and as many trips as live blocks."""
    assert measured["trips"] == 0
    worst = {n: measured[n] for n, limit in LIMITS[case.dtype].items() if not measured[n] <= limit}
    assert not worst


def abstract_call(kernels: ModuleType, case: Case, direction: str) -> tuple[Any, tuple]:
    """A function of shapes alone that runs one direction of the kernels, and those shapes."""

    def run(mask, q, k, v, *rest):
        return getattr(kernels, direction)(q, k, v, mask, *rest, scale=case.scale)

    shapes = jax.eval_shape(case.arrays)
    q, k, v, d_out, d_lse = (shapes[n] for n in ("q", "k", "v", "d_out", "d_lse"))
    rest = (d_out, d_lse, d_out, d_lse) if direction == "backward" else ()
    return run, (jax.eval_shape(case.mask), q, k, v, *rest)


def loops_that_follow_memory(lowered: Any) -> list[int]:
    """For every kernel of a lowered program, its loops with a bound that is loaded from memory."""
    from jax._src.interpreters import mlir
    from jax._src.lib import tpu
    from jax._src.lib.mlir import ir
    from jax.experimental.mosaic.gpu import dialect

    kernels: list[bytes] = []

    def collect(op):
        if op.name == "stablehlo.custom_call":
            target = op.attributes["call_target_name"].value
            if target == "tpu_custom_call":
                config = json.loads(op.attributes["backend_config"].value)
                kernels.append(base64.b64decode(config["custom_call_config"]["body"]))
            elif target.startswith("mosaic_gpu"):
                kernels.append(op.attributes["mhlo.backend_config"]["module"].value_bytes)
        return ir.WalkResult.ADVANCE

    def loaded(value) -> bool:
        owner = value.owner
        if isinstance(owner, ir.Block):
            return False
        operation = owner.operation if hasattr(owner, "operation") else owner
        return operation.name.endswith("memref.load") or any(map(loaded, operation.operands))

    lowered.compiler_ir().operation.walk(collect)
    counts = []
    for kernel in kernels:
        context = mlir.make_ir_context()
        context.allow_unregistered_dialects = True
        dialect.register_dialect(context)
        tpu.register_dialect(context)
        found = []

        def count(op, found=found):
            if op.name.endswith("scf.for"):
                found.append(loaded(op.operands[1]))
            return ir.WalkResult.ADVANCE

        with context:
            ir.Module.parse(kernel).operation.walk(count)
        counts.append(sum(found))
    return counts
