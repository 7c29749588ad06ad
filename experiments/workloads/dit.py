"""A small video diffusion transformer whose attention runs block-sparse, on one device or many.

Proportions are those of Wan2.1 (feed-forward 2.7 times the width, RMS-normalized queries and keys,
six modulation vectors a layer from the time embedding), scaled down. Text tokens, if any, join the
sequence at its end, as in CogVideoX. Weights are random; nothing is zero at the start, so that
every layer's attention shows in the output.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from experiments.workloads.video_attention import rotate, rotation_angles
from jaxlab.blocksparse import BlockMask, block_sparse_attention
from jaxlab.dbsp import (
    DevicePlan,
    ReplanPolicy,
    device_plan,
    from_home,
    sharded_attention,
    to_home,
)
from jaxlab.measure import time_ratio

TIME_FEATURES = 32


class Layer(nn.Module):
    """One transformer layer: modulated attention, then modulated feed-forward.

    Attributes:
      heads: attention heads; they divide the width.
    """

    heads: int

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        condition: Float[Array, "batch width"],
        angles: Float[Array, "tokens pairs"],
        attend: Callable[[Array, Array, Array], Array],
    ) -> Float[Array, "batch tokens width"]:
        """Applies the layer.

        Args:
          x: ``[batch, tokens, width]``.
          condition: ``[batch, width]``, the time embedding.
          angles: ``[tokens, pairs]``, rotary angles in the order of the tokens.
          attend: attention of q, k, v ``[batch, tokens, heads, dim]``.

        Returns:
          ``[batch, tokens, width]``.
        """
        width = x.shape[-1]
        modulation = nn.Dense(6 * width, name="modulation")(nn.silu(condition))[:, None]
        shift, scale, gate, shift_ff, scale_ff, gate_ff = jnp.split(modulation, 6, axis=-1)

        normal = functools.partial(nn.LayerNorm, use_scale=False, use_bias=False)
        h = normal(name="before_attention")(x) * (1 + scale) + shift
        q, k, v = (nn.Dense(width, name=name)(h) for name in ("query", "key", "value"))
        q, k = nn.RMSNorm(name="query_norm")(q), nn.RMSNorm(name="key_norm")(k)
        q, k, v = (y.reshape(*y.shape[:2], self.heads, -1) for y in (q, k, v))
        mixed = attend(rotate(q, angles), rotate(k, angles), v).reshape(x.shape)
        x = x + (1 + gate) * nn.Dense(width, name="output")(mixed)

        h = normal(name="before_feed_forward")(x) * (1 + scale_ff) + shift_ff
        h = nn.gelu(nn.Dense(int(2.7 * width), name="expand")(h))
        return x + (1 + gate_ff) * nn.Dense(width, name="contract")(h)


class Dit(nn.Module):
    """The transformer: latents in, velocity out.

    Attributes:
      grid: video tokens over time, rows and columns.
      width: features of a token.
      heads: attention heads; they divide the width.
      layers: number of layers.
    """

    grid: tuple[int, int, int]
    width: int = 60
    heads: int = 5
    layers: int = 2

    @nn.compact
    def __call__(
        self,
        latents: Float[Array, "batch tokens channels"],
        time: Float[Array, ""],
        text: Float[Array, "batch words features"] | None,
        attend: Callable[[int, Array, Array, Array], Array],
        arrange: Callable[[Array], Array] = lambda tokens: tokens,
        restore: Callable[[Array], Array] = lambda tokens: tokens,
    ) -> Float[Array, "batch tokens channels"]:
        """Predicts the velocity of every latent.

        Args:
          latents: ``[batch, tokens, channels]``, tokens in (time, row, column) order.
          time: of the diffusion, 0 to 1.
          text: ``[batch, words, features]`` or None.
          attend: attention of a layer, by its number, in the order that ``arrange`` makes.
          arrange: puts ``[batch, tokens + words, ...]`` into the order in which the layers run.
          restore: undoes ``arrange``.

        Returns:
          ``[batch, tokens, channels]``.
        """
        x = nn.Dense(self.width, name="embed")(latents)
        angles = rotation_angles(self.grid, self.width // self.heads // 2)
        if text is not None:
            x = jnp.concatenate([x, nn.Dense(self.width, name="embed_text")(text)], axis=1)
            angles = jnp.pad(angles, ((0, text.shape[1]), (0, 0)))
        frequencies = 1000.0 ** -jnp.linspace(0, 1, TIME_FEATURES // 2)
        phase = 1000 * time * frequencies
        condition = jnp.concatenate([jnp.cos(phase), jnp.sin(phase)])[None]
        condition = nn.Dense(self.width, name="embed_time")(condition)

        x, angles = arrange(x), arrange(angles[None])[0]
        for number in range(self.layers):
            layer = Layer(self.heads, name=f"layer_{number}")
            x = layer(x, condition, angles, functools.partial(attend, number))
        x = restore(x)[:, : latents.shape[1]]
        return nn.Dense(latents.shape[-1], name="velocity")(nn.LayerNorm(name="last")(x))


@functools.partial(jax.jit, static_argnames=("model", "mesh"))
def velocity(
    model: Dit,
    parameters: dict,
    latents: Float[Array, "batch tokens channels"],
    time: Float[Array, ""] | np.float32,
    text: Float[Array, "batch words features"] | None,
    masks: tuple[BlockMask, ...],
    plans: tuple[DevicePlan, ...] = (),
    mesh: Mesh | None = None,
) -> Float[Array, "batch tokens channels"]:
    """Runs the model once, on one device or on a mesh.

    Args:
      model: the transformer.
      parameters: of the model.
      latents: as for the model.
      time: as for the model.
      text: as for the model.
      masks: one for every layer, in original order.
      plans: one for every layer, all with one home; none for a single device.
      mesh: for the plans.

    Returns:
      The velocity, in original order, on every device.
    """
    if mesh is None:

        def attend_here(number: int, q: Array, k: Array, v: Array) -> Array:
            return block_sparse_attention(q, k, v, masks[number])

        return model.apply(parameters, latents, time, text, attend_here)

    block, length = masks[0].q_block, masks[0].q_len
    everywhere = NamedSharding(mesh, P())
    by_sequence = NamedSharding(mesh, P(None, ("ring", "ulysses")))

    def attend(number: int, q: Array, k: Array, v: Array) -> Array:
        return sharded_attention(q, k, v, masks[number], plans[number], mesh=mesh)

    def arrange(tokens: Array) -> Array:
        home = to_home(tokens, plans[0], block)
        return jax.lax.with_sharding_constraint(home, by_sequence)

    def restore(tokens: Array) -> Array:
        tokens = jax.lax.with_sharding_constraint(tokens, everywhere)
        return from_home(tokens, plans[0], block, length)

    return model.apply(parameters, latents, time, text, attend, arrange, restore)


def planned_steps(
    policy: ReplanPolicy, masks: Sequence[tuple[BlockMask, ...]]
) -> tuple[list[tuple[tuple[BlockMask, ...], tuple[DevicePlan, ...]]], int]:
    """Plans every step: it runs on what the policy made of the step before.

    Args:
      policy: decides, for all layers of the model.
      masks: of every layer, step by step.

    Returns:
      Steps for ``denoise``, with room on the wire for any plan, so that none recompiles; and the
      number of plans adopted in all layers.
    """
    first = policy.initial
    room = (first.q_home.size // first.ring, first.kv_home.size // first.ring)
    state, adopted, steps = policy.init(), 0, []
    for of_step in masks:
        plans = tuple(device_plan(one, capacities=room) for one in state.plans)
        steps.append((of_step, plans))
        seen = np.stack([np.asarray(mask.blocks) for mask in of_step])
        state, _, replanned = policy.update(state, seen)
        adopted += int(np.sum(replanned))
    return steps, adopted


def denoise(
    model: Dit,
    parameters: dict,
    noise: Float[Array, "batch tokens channels"],
    text: Float[Array, "batch words features"] | None,
    steps: Sequence[tuple[tuple[BlockMask, ...], tuple[DevicePlan, ...]]],
    *,
    mesh: Mesh | None = None,
) -> Float[Array, "batch tokens channels"]:
    """Goes from noise to a sample by Euler steps along the velocity.

    Args:
      model: the transformer.
      parameters: of the model.
      noise: ``[batch, tokens, channels]``.
      text: as for the model.
      steps: masks and plans of every layer, step by step; no plans on a single device.
      mesh: for the plans.

    Returns:
      The sample.
    """
    sample = noise if mesh is None else jax.device_put(noise, NamedSharding(mesh, P()))
    for number, (masks, plans) in enumerate(steps):
        time = np.float32(1 - number / len(steps))
        drift = velocity(model, parameters, sample, time, text, masks, plans, mesh)
        sample = sample - drift / len(steps)
    return sample


def rest_seconds(
    *, tokens: int, heads: int, dim: int, dtype: str = "float32", rounds: int = 9
) -> float:
    """Times a layer of the transformer without its attention.

    Args:
      tokens: of one device.
      heads: of the layer.
      dim: head size.
      dtype: of activations and parameters.
      rounds: of which the median counts.

    Returns:
      Seconds of everything but attention, timed alone.
    """
    layer = Layer(heads)
    x = jax.random.normal(jax.random.key(0), (1, tokens, heads * dim), dtype)
    given = x, x[:, 0], jnp.zeros((tokens, dim // 2), dtype)
    parameters = jax.jit(lambda key: layer.init(key, *given, lambda q, k, v: v))(jax.random.key(1))
    parameters = jax.tree.map(lambda one: one.astype(dtype), parameters)
    # queries and keys are made and turned, as attention wants them, and enter as a sum
    run = jax.jit(lambda parameters: layer.apply(parameters, *given, lambda q, k, v: q + k + v))
    return float(time_ratio(*[lambda: run(parameters)] * 2, rounds=rounds).median[0])
