"""The time of attention on several devices, from kernels that one machine times rank by rank.

Eight virtual devices on two cores share those cores, so their wall time says nothing about eight
real ones. Here every rank's kernel of every ring step runs alone; a ring step takes as long as its
slowest kernel, and a link model adds what is sent. Times so made are modelled, not measured.

Kernels on a CPU are some thousand times slower than on the devices of the paper. Links are slowed
down alike: moving a tensor takes the same part of balanced attention as in a `Setting` of the
paper's size.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float64
from scipy.ndimage import median_filter

from jaxlab.blocksparse import BlockMask, block_sparse_attention
from jaxlab.dbsp import CostModel, Links, Plan

AROUND, TURNS = 15, 4
"""Samples that tell how fast the machine is just then, and how often they are set against what
their functions take."""


@dataclasses.dataclass(frozen=True)
class Kernels:
    """How kernels are timed.

    Attributes:
      block: tokens of a query block and of a key block.
      dim: head size.
      dtype: of queries, keys and values.
      rounds: samples of every kernel, see ``time_alone``.
      calls: of a kernel in a row in every sample; a GPU starts the next while one runs.
    """

    block: int = 64
    dim: int = 32
    dtype: str = "float32"
    rounds: int = 8
    calls: int = 1

    def __post_init__(self) -> None:
        for name in ("block", "dim", "rounds", "calls"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")

    def tensor_bytes(self, heads: int, blocks: int) -> int:
        """Bytes of the queries of one layer."""
        return jnp.dtype(self.dtype).itemsize * heads * blocks * self.block * self.dim


@dataclasses.dataclass(frozen=True)
class Setting:
    """A layer and machine of the paper's size; all figures but the layer's are assumptions.

    Attributes:
      tokens: of the layer.
      heads: of the layer.
      dim: head size.
      devices: that share it.
      density: part of the blocks that is computed.
      rate: floating point operations a second of one device's attention kernel.
      bandwidth: bytes a second that a device sends.
      latency: seconds of a send.
      memory_bandwidth: bytes a second of a device's memory, for permuting tokens in place.
      itemsize: bytes of a number.
    """

    tokens: int = 75_600
    heads: int = 40
    dim: int = 128
    devices: int = 8
    density: float = 0.414
    rate: float = 150e12
    bandwidth: float = 160e9
    latency: float = 20e-6
    memory_bandwidth: float = 1.5e12
    itemsize: int = 2

    @property
    def attention_seconds(self) -> float:
        """Of perfectly balanced attention."""
        pairs = self.density * self.tokens**2
        return 4 * pairs * self.heads * self.dim / (self.devices * self.rate)

    @property
    def tensor_bytes(self) -> float:
        """Bytes of the queries on all devices."""
        return float(self.tokens * self.heads * self.dim * self.itemsize)

    @property
    def links(self) -> Links:
        """All links alike."""
        return Links(self.bandwidth, self.latency, self.bandwidth, self.latency)

    def model(self, block: float) -> CostModel:
        """Predicts the time of a layer of this size in blocks of so many tokens."""
        seconds = 4 * block**2 * self.dim / self.rate
        return CostModel(seconds, 0.0, self.links, self.tensor_bytes)

    def links_for(self, attention_seconds: float, tensor_bytes: float | int) -> Links:
        """Links that weigh as much beside another layer's attention as these beside this one's.

        Args:
          attention_seconds: of that layer, perfectly balanced over as many devices.
          tensor_bytes: bytes of its queries on all devices.

        Returns:
          Slower or faster links.
        """
        slower = attention_seconds / self.attention_seconds
        bandwidth = self.bandwidth * tensor_bytes / self.tensor_bytes / slower
        return Links(bandwidth, self.latency * slower, bandwidth, self.latency * slower)


def step_seconds(
    kernels: Kernels,
    blocks: Bool[np.ndarray, "heads q_blocks kv_blocks"],
    plans: Mapping[str, Plan],
    implementation: Literal["xla", "pallas"] | None = None,
) -> dict[str, Float64[np.ndarray, "ulysses steps ranks"]]:
    """Times every rank's kernel of every ring step, alone.

    The kernels of all plans take turns, so that a drift of the machine favors none; see
    ``time_alone``.

    Args:
      kernels: how.
      blocks: the layer's mask; what a plan pads it with is computed nowhere.
      plans: where they go, by name.
      implementation: as in ``block_sparse_attention``.

    Returns:
      Seconds by plan; ring rank ``i`` of group ``u`` at step ``s`` stands at ``[u, s, i]`` and
      computes key shard ``(i + s) mod R``.
    """
    attend = jax.jit(block_sparse_attention, static_argnames="implementation")
    functions = []
    for plan in plans.values():
        padded = (plan.head_perm.size, plan.q_order.shape[1], plan.kv_order.shape[1])
        whole = padded_mask(blocks, padded)
        inputs = _inputs(kernels, padded, plan.ulysses, plan.ring)
        tokens = [x.shape[1] for x in inputs[:2]]
        for group, step, rank in np.ndindex(plan.ulysses, plan.ring, plan.ring):
            heads = plan.head_perm.reshape(plan.ulysses, -1)[group]
            rows = plan.q_order[group].reshape(plan.ring, -1)[rank]
            columns = plan.kv_order[group].reshape(plan.ring, -1)[(rank + step) % plan.ring]
            tile = jnp.asarray(whole[np.ix_(heads, rows, columns)])
            mask = BlockMask(tile, kernels.block, kernels.block, *tokens)
            functions.append(
                functools.partial(attend, *inputs, mask, implementation=implementation)
            )
        jax.block_until_ready(functions[-1]())  # compiles what all kernels of the plan run
    seconds = time_alone(functions, rounds=kernels.rounds, calls=kernels.calls)
    found = {}
    for name, plan in plans.items():
        count = plan.ulysses * plan.ring**2
        found[name] = seconds[:count].reshape(plan.ulysses, plan.ring, plan.ring)
        seconds = seconds[count:]
    return found


def padded_mask(
    blocks: Bool[np.ndarray, "heads q_blocks kv_blocks"], shape: tuple[int, int, int]
) -> Bool[np.ndarray, "heads_padded q_padded kv_padded"]:
    """The mask with heads and blocks of nothing behind its own, up to a shape."""
    widths = [(0, size - own) for own, size in zip(blocks.shape, shape, strict=True)]
    return np.pad(blocks, widths)


def time_alone(
    functions: Sequence[Callable[[], object]],
    *,
    rounds: int,
    calls: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Float64[np.ndarray, " functions"]:
    """Times functions one by one, as the machine runs at its best.

    A shared machine runs at half its speed for seconds at a time. How much slower it is than at its
    best at some moment is the median, over the samples taken around it, of a sample over what its
    function usually takes; that divides the sample. What a function usually takes follows from the
    samples so divided: both are found in turn.

    Args:
      functions: what to time, each called before.
      rounds: samples of each, of which the lower quartile counts; every round has an order of its
        own.
      calls: of a function in a row in every sample.
      clock: what tells the time, in seconds.

    Returns:
      Seconds of each function.
    """
    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(functions)) for _ in range(rounds)]
    seconds = np.empty((rounds, len(functions)))
    for number, order in enumerate(orders):
        for which in order:
            began = clock()
            jax.block_until_ready([functions[which]() for _ in range(calls)])
            seconds[number, which] = (clock() - began) / calls
    evened, usual = seconds, seconds.min(0)
    for _ in range(TURNS):
        evened = seconds.copy()
        for number, order in enumerate(orders):
            slower = seconds[number, order] / usual[order]
            evened[number, order] /= median_filter(slower, AROUND, mode="nearest")
        usual = np.median(evened, axis=0)
    return np.quantile(evened, 0.25, axis=0)


@functools.lru_cache(maxsize=8)
def _inputs(
    kernels: Kernels, shape: tuple[int, int, int], ulysses: int, ring: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Random queries, keys and values of one rank: only the mask decides how long they take."""
    heads, q_len, kv_len = (
        shape[0] // ulysses,
        *(size // ring * kernels.block for size in shape[1:]),
    )
    q, k, v = (
        jax.random.normal(key, (1, length, heads, kernels.dim), kernels.dtype)
        for key, length in zip(
            jax.random.split(jax.random.key(0), 3), (q_len, kv_len, kv_len), strict=True
        )
    )
    return q, k, v


def end_to_end(attention_speedup: float, other_share: float) -> float:
    """Amdahl's law.

    Args:
      attention_speedup: how much faster attention is.
      other_share: part of the time before that is not attention.

    Returns:
      How much faster the whole is.
    """
    return 1 / (other_share + (1 - other_share) / attention_speedup)


def overhead(
    setting: Setting,
    *,
    planning_seconds: float,
    interval: float,
    prediction_seconds: float,
    moved: tuple[float, float],
    attention_seconds: float,
) -> Mapping[str, float]:
    """What balancing itself costs a layer and step, beside its attention.

    Args:
      setting: layer and machine.
      planning_seconds: of all plans of one layer.
      interval: steps that a plan serves.
      prediction_seconds: of choosing the degrees once, which is done with every plan.
      moved: parts of the query and key blocks that leave home.
      attention_seconds: of the layer, on its critical path.

    Returns:
      Parts of the attention time: ``planning``, ``prediction``, ``permute`` (queries, keys, values
      and output read and written once each), ``exchange``, and their sum, ``total``.
    """
    local = setting.tensor_bytes / setting.devices
    sends = 2 * (moved[0] > 0) + 2 * (moved[1] > 0)
    parts = {
        "planning": planning_seconds / interval,
        "prediction": prediction_seconds / interval,
        "permute": 4 * 2 * local / setting.memory_bandwidth,
        "exchange": 2 * sum(moved) * local / setting.bandwidth + sends * setting.latency,
    }
    parts = {name: seconds / attention_seconds for name, seconds in parts.items()}
    return {**parts, "total": sum(parts.values())}
