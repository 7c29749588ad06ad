"""Five small models and one step of training each: what a memory planner is asked to plan.

Shapes are real, weights are not needed: a tracer or compiler takes ``ShapeDtypeStruct``.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax


@dataclasses.dataclass(frozen=True)
class TrainingStep:
    """A training step and the shapes of its arguments.

    Attributes:
      fn: ``(parameters, optimizer state, batch) -> (parameters, optimizer state, loss)``.
      args: ``ShapeDtypeStruct`` trees; the first two are meant to be donated.
    """

    fn: Callable[..., Any]
    args: tuple[Any, Any, Any]

    def concrete(self, seed: int = 0) -> tuple[Any, Any, Any]:
        """Arguments of these shapes: small random parameters, random batches.

        Args:
          seed: of the numbers.

        Returns:
          Trees of arrays.
        """
        leaves, tree = jax.tree_util.tree_flatten(self.args)
        keys = jax.random.split(jax.random.key(seed), len(leaves))
        return jax.tree_util.tree_unflatten(tree, list(map(_fill, keys, leaves)))


def _fill(key: jax.Array, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    if jnp.issubdtype(leaf.dtype, jnp.integer):
        return jax.random.randint(key, leaf.shape, 0, 2).astype(leaf.dtype)
    return jnp.abs(jax.random.normal(key, leaf.shape, leaf.dtype)) * 0.05  # Adam's squares are >= 0


class TransformerBlock(nn.Module):
    """Causal self-attention and a two-layer perceptron, before each a layer norm."""

    width: int
    heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[batch, tokens, width]`` to the same."""
        mask = nn.make_causal_mask(x[..., 0])
        normed = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(self.heads)(normed, normed, mask=mask)
        h = nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x)))
        return x + nn.Dense(self.width)(h)


class Transformer(nn.Module):
    """A decoder over tokens; the loss is that of the next token."""

    remat: bool
    vocabulary: int = 512
    width: int = 64
    layers: int = 4

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """``[batch, tokens]`` to the mean loss."""
        block = nn.remat(TransformerBlock) if self.remat else TransformerBlock
        x = nn.Embed(self.vocabulary, self.width)(tokens)
        for _ in range(self.layers):
            x = block(self.width, 4)(x)
        logits = nn.Dense(self.vocabulary)(nn.LayerNorm()(x))[:, :-1]
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut."""

    channels: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[batch, rows, columns, channels]`` to the same, thinned by the stride."""
        strides = (self.stride, self.stride)
        h = nn.relu(nn.GroupNorm(8)(nn.Conv(self.channels, (3, 3), strides)(x)))
        h = nn.GroupNorm(8)(nn.Conv(self.channels, (3, 3))(h))
        if x.shape != h.shape:
            x = nn.Conv(self.channels, (1, 1), strides)(x)
        return nn.relu(x + h)


class ResNet(nn.Module):
    """A residual classifier of small images."""

    remat: bool

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """``[batch, rows, columns, 3]`` to the mean loss of class 1."""
        block = nn.remat(ResidualBlock) if self.remat else ResidualBlock
        x = nn.Conv(16, (3, 3))(images)
        for channels, stride in ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1)):
            x = block(channels, stride)(x)
        logits = nn.Dense(100)(x.mean((1, 2)))
        labels = jnp.ones(images.shape[0], jnp.int32)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


class UNet(nn.Module):
    """An image-to-image network whose skip connections live long."""

    remat: bool

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """``[batch, rows, columns, 3]`` to the mean squared error of giving the image back."""
        block = nn.remat(ResidualBlock) if self.remat else ResidualBlock
        x = nn.Conv(16, (3, 3))(images)
        skips = []
        for channels in (16, 32, 64):
            x = block(channels, 1)(x)
            skips.append(x)
            x = nn.avg_pool(x, (2, 2), (2, 2))
        x = block(64, 1)(x)
        for skip in reversed(skips):
            x = jax.image.resize(x, (*skip.shape[:3], x.shape[-1]), "nearest")
            x = block(skip.shape[-1], 1)(jnp.concatenate([x, skip], -1))
        return ((nn.Conv(3, (3, 3))(x) - images) ** 2).mean()


class MixtureLayer(nn.Module):
    """Every token through the best of its experts, each expert with a fixed capacity."""

    experts: int
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[tokens, width]`` to the same; tokens beyond an expert's capacity pass unchanged."""
        capacity = 2 * x.shape[0] // self.experts
        gates = nn.softmax(nn.Dense(self.experts)(x))
        y = jnp.zeros_like(x)
        for expert in range(self.experts):
            weight, chosen = jax.lax.top_k(gates[:, expert], capacity)
            h = nn.gelu(nn.Dense(4 * self.width)(x[chosen]))
            y = y.at[chosen].add(nn.Dense(self.width)(h) * weight[:, None])
        return x + y


class Mixture(nn.Module):
    """Token-wise layers of experts."""

    remat: bool
    width: int = 64

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """``[batch, tokens]`` to the mean loss of giving every token back."""
        layer = nn.remat(MixtureLayer) if self.remat else MixtureLayer
        x = nn.Embed(256, self.width)(tokens).reshape(-1, self.width)
        for _ in range(3):
            x = layer(6, self.width)(x)
        logits = nn.Dense(256)(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens.reshape(-1)).mean()


class Recurrent(nn.Module):
    """An LSTM over tokens: the program is a scan."""

    remat: bool
    width: int = 96

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """``[batch, tokens]`` to the mean loss of the next token."""
        cell = nn.remat(nn.OptimizedLSTMCell) if self.remat else nn.OptimizedLSTMCell
        x = nn.Embed(256, self.width)(tokens)
        for _ in range(2):
            x = nn.RNN(cell(self.width))(x)
        logits = nn.Dense(256)(x)[:, :-1]
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()


_MODELS: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "transformer": (Transformer, (64,)),
    "resnet": (ResNet, (32, 32, 3)),
    "unet": (UNet, (32, 32, 3)),
    "mixture": (Mixture, (48,)),
    "lstm": (Recurrent, (40,)),
}
MODELS = tuple(_MODELS)


def training_step(model: str, batch: int, *, remat: bool = False) -> TrainingStep:
    """One step of Adam on a named model.

    Args:
      model: one of ``MODELS``.
      batch: examples a step.
      remat: whether every block is wrapped in ``jax.checkpoint``.

    Returns:
      The step and its shapes.

    Raises:
      ValueError: an unknown model.
    """
    if model not in _MODELS:
        raise ValueError(f"model={model!r} is not one of {MODELS}.")
    kind, example = _MODELS[model]
    module, optimizer = kind(remat=remat), optax.adam(1e-3)
    dtype = jnp.float32 if len(example) == 3 else jnp.int32
    data = jax.ShapeDtypeStruct((batch, *example), dtype)
    parameters = jax.eval_shape(module.init, jax.random.key(0), data)
    state = jax.eval_shape(optimizer.init, parameters)

    def step(parameters: Any, state: Any, data: jax.Array) -> tuple[Any, Any, jax.Array]:
        loss, gradients = jax.value_and_grad(module.apply)(parameters, data)
        updates, state = optimizer.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), state, loss

    return TrainingStep(step, (parameters, state, data))
