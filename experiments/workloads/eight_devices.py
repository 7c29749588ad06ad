"""What the sharded layer computes and sends on virtual devices, in a process that has eight.

The number of virtual devices is fixed when jax starts, so ``on_eight_devices`` starts this module
as a process of its own and reads what it prints.
"""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.workloads.dit import Dit, denoise, planned_steps
from jaxlab.blocksparse import BlockMask, gaussian_field_mask
from jaxlab.dbsp import (
    Plan,
    ReplanPolicy,
    device_plan,
    fit_home,
    from_home,
    plan,
    sharded_attention,
    to_home,
    traffic,
)
from jaxlab.measure import compiled_cost

ROOT = pathlib.Path(__file__).parents[2]
FLAG = "--xla_force_host_platform_device_count"
QUICK_COMPILE = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
"""Nothing is timed here, and what a program computes and sends does not depend on it."""


@dataclasses.dataclass(frozen=True)
class Sharded:
    """What runs on the virtual devices.

    Attributes:
      degrees: (U, R) of the layers that are compared and counted.
      dit_degrees: (U, R) of the transformer.
      layers: of the transformer.
      steps: of its denoising.
      threshold: above which its layers are planned again.
    """

    degrees: tuple[tuple[int, int], ...] = (
        (1, 1), (3, 1), (1, 3), (2, 2), (2, 3), (8, 1), (4, 2), (2, 4), (1, 8),
    )  # fmt: skip
    dit_degrees: tuple[tuple[int, int], ...] = ((2, 4), (4, 2))
    layers: int = 2
    steps: int = 6
    threshold: float = 1.1

    def __post_init__(self) -> None:
        for ulysses, ring in (*self.degrees, *self.dit_degrees):
            if not 1 <= ulysses * ring <= 8:
                raise ValueError(f"degrees: {ulysses} times {ring} is not 1 to 8 devices.")


def on_eight_devices(sharded: Sharded) -> dict:
    """Runs everything in a process with eight virtual CPU devices.

    Args:
      sharded: what.

    Returns:
      ``layers``, rows of ``layer``, and ``dit``, rows of ``transformer``.

    Raises:
      RuntimeError: the process failed; the message holds what it wrote.
    """
    flags = re.sub(rf"{FLAG}=\d+", "", os.environ.get("XLA_FLAGS", ""))
    flags = f"{flags} {FLAG}=8 {QUICK_COMPILE}".strip()
    variables = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    done = subprocess.run(
        [sys.executable, "-m", "experiments.workloads.eight_devices"],
        input=json.dumps(dataclasses.asdict(sharded)),
        cwd=ROOT,
        env=variables,
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode:
        raise RuntimeError(f"the process with eight devices failed:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def layer(ulysses: int, ring: int) -> dict[str, object]:
    """Compares a planned layer with float64 and its program with the account of its bytes.

    Lengths that no degree divides, six query heads over three key heads, two masks in a batch,
    causal where the ring degree is odd, a dense border; every group has orders of its own.

    Args:
      ulysses: U.
      ring: R.

    Returns:
      ``degrees``, worst relative errors ``forward`` and ``backward``, the parts ``moved``, and
      bytes: ``needed``, ``accounted`` (padded) and ``sent`` by the compiled program.
    """
    rng = np.random.default_rng([ulysses, ring])
    length, block = 333, 16
    mask = _asymmetric_mask(rng, length, block, causal=ring % 2 == 1)
    placed = _with_own_orders(rng, mask, ulysses, ring)
    lowered = device_plan(placed, sharing=2)
    mesh = _mesh(ulysses, ring)
    shapes = [(2, length, heads, 8) for heads in (6, 3, 3, 6)]
    arrays = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
    by_sequence = NamedSharding(mesh, P(None, ("ring", "ulysses")))
    *here, d_out = (jax.device_put(to_home(x, placed, block), by_sequence) for x in arrays)

    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return sharded_attention(q, k, v, mask, lowered, mesh=mesh)

    def everything(q: jax.Array, k: jax.Array, v: jax.Array, d_out: jax.Array) -> tuple:
        out, pull = jax.vjp(attend, q, k, v)
        return out, *pull(d_out)

    found = [
        np.asarray(from_home(np.asarray(x), placed, block, length))
        for x in jax.jit(everything)(*here, d_out)
    ]
    right = _attention_and_gradients(*(np.asarray(x, np.float64) for x in arrays), mask)
    errors = [
        float(np.linalg.norm(one - other) / np.linalg.norm(other))
        for one, other in zip(found, right, strict=True)
    ]
    program = compiled_cost(jax.jit(attend), *here)
    account = traffic(*here, mask, placed)
    return {
        "degrees": [ulysses, ring],
        "forward": errors[0],
        "backward": max(errors[1:]),
        "moved": [placed.q_moved, placed.kv_moved],
        "needed": account.total.needed,
        "accounted": account.total.sent,
        "sent": sum(one.wire_bytes for one in program.collectives) * account.devices,
        "gathers": sum(one.kind == "all-gather" for one in program.collectives),
    }


def transformer(sharded: Sharded, ulysses: int, ring: int) -> dict[str, object]:
    """Denoises with a small transformer on one device and on a mesh, planning again as masks drift.

    Args:
      sharded: steps and threshold.
      ulysses: U; it need not divide the five heads.
      ring: R.

    Returns:
      ``degrees``, the relative ``difference`` of the samples, ``replans`` in all layers and steps,
      and the ``control``: the relative difference if the last step's masks are not renewed.
    """
    model, words, block = Dit(grid=(4, 6, 10), layers=sharded.layers), 7, 8
    tokens = int(np.prod(model.grid)) + words
    noise = jax.random.normal(jax.random.key(0), (1, tokens - words, 4))
    text = jax.random.normal(jax.random.key(1), (1, words, 6))
    first = (jax.random.key(2), noise, np.float32(1), text)
    parameters = jax.tree.map(np.asarray, model.init(*first, lambda _, q, k, v: v))
    masks = [
        tuple(_drifting_mask(model, number, step, tokens, block) for number in range(model.layers))
        for step in range(sharded.steps)
    ]
    order = fit_home(list(masks[0]), ulysses=ulysses, ring=ring, evaluations=20_000)
    degrees = {"ulysses": ulysses, "ring": ring, "home": order}
    unplanned = plan(masks[0][0], **degrees, heads="none", blocks="none")
    policy = ReplanPolicy(
        unplanned,
        layers=model.layers,
        threshold=sharded.threshold,
        scope="layer",
        planner=lambda blocks: plan(blocks, **degrees, evaluations=20_000),
    )
    chosen, replans = planned_steps(policy, masks)
    alone = np.asarray(denoise(model, parameters, noise, text, [(one, ()) for one in masks]))
    stale = [*masks[:-1], masks[-2]]
    other = np.asarray(denoise(model, parameters, noise, text, [(one, ()) for one in stale]))
    mesh = _mesh(ulysses, ring)
    together = np.asarray(denoise(model, parameters, noise, text, chosen, mesh=mesh))
    difference, control = (
        float(np.linalg.norm(sample - alone) / np.linalg.norm(alone))
        for sample in (together, other)
    )
    return {
        "degrees": [ulysses, ring],
        "difference": difference,
        "replans": replans,
        "control": control,
    }


def _attention_and_gradients(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, d_out: np.ndarray, mask: BlockMask
) -> tuple[np.ndarray, ...]:
    """Softmax over all allowed pairs of tokens and its gradients, dense, in float64."""
    length, shared = q.shape[1], q.shape[2] // k.shape[2]
    tokens = np.arange(length) // mask.q_block
    allowed = np.asarray(mask.blocks)[..., tokens[:, None], tokens]
    if mask.causal:
        allowed = allowed & np.tri(length, dtype=bool)
    keys, values = (np.repeat(x, shared, axis=2) for x in (k, v))
    scale = q.shape[3] ** -0.5
    scores = np.where(allowed, scale * np.einsum("bihd,bjhd->bhij", q, keys), -np.inf)
    most = scores.max(-1, keepdims=True, initial=-1e300)
    weights = np.exp(scores - most)
    weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-300)
    out = np.einsum("bhij,bjhd->bihd", weights, values)
    d_weights = np.einsum("bihd,bjhd->bhij", d_out, values)
    along = np.einsum("bihd,bihd->bhi", d_out, out)[..., None]
    d_scores = scale * weights * (d_weights - along)
    d_q = np.einsum("bhij,bjhd->bihd", d_scores, keys)
    d_k = np.einsum("bhij,bihd->bjhd", d_scores, q)
    d_v = np.einsum("bhij,bihd->bjhd", weights, d_out)
    d_k, d_v = (x.reshape(*x.shape[:2], -1, shared, x.shape[3]).sum(3) for x in (d_k, d_v))
    return out, d_q, d_k, d_v


def _asymmetric_mask(rng: np.random.Generator, length: int, block: int, causal: bool) -> BlockMask:
    size, heads = -(-length // block), 6
    densities = rng.permutation(np.linspace(0.1, 0.8, heads))[:, None, None]
    blocks = rng.random((2, heads, size, size)) < densities
    blocks[..., -1, :] = blocks[..., -1] = True
    blocks[:, 1], blocks[:, 0, 3] = False, False
    return BlockMask(blocks, block, block, length, length, causal)


def _with_own_orders(rng: np.random.Generator, mask: BlockMask, ulysses: int, ring: int) -> Plan:
    """A refined plan that may move half of the blocks, from a home that is no order of time."""
    devices = ulysses * ring
    size = -(-mask.blocks.shape[-1] // devices) * devices
    home = rng.permutation(size)
    return plan(
        mask, ulysses=ulysses, ring=ring, home=home, kv_heads=3, q_cap=0.5, kv_cap=0.5,
        evaluations=5000, movement_weight=0,
    )  # fmt: skip


def _drifting_mask(model: Dit, number: int, step: int, tokens: int, block: int) -> BlockMask:
    key = jax.random.key(10 + number)
    video = gaussian_field_mask(
        key, heads=model.heads, grid=model.grid, block=block, step=step, cdf_threshold=0.6
    )
    size = -(-tokens // block)
    blocks = np.ones((model.heads, size, size), bool)
    inner = video.blocks.shape[-1]
    blocks[:, :inner, :inner] = np.asarray(video.blocks)
    return BlockMask(blocks, block, block, tokens, tokens)


def _mesh(ulysses: int, ring: int) -> Mesh:
    return jax.make_mesh(
        (ring, ulysses),
        ("ring", "ulysses"),
        axis_types=(AxisType.Auto,) * 2,
        devices=jax.devices()[: ulysses * ring],
    )


def main() -> None:
    """Reads what to run from the standard input and prints what came out, as JSON."""
    given = json.load(sys.stdin)
    pairs = {name: tuple((u, r) for u, r in given.pop(name)) for name in ("degrees", "dit_degrees")}
    sharded = Sharded(**pairs, **given)
    found = {
        "layers": [layer(*degrees) for degrees in sharded.degrees],
        "dit": [transformer(sharded, *degrees) for degrees in sharded.dit_degrees],
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
