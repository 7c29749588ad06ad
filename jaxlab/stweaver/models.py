"""The shapes of three published language models: all that a memory trace needs of them."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Model:
    """A decoder-only transformer, by shapes.

    Attributes:
      name: its name.
      layers: number of blocks.
      hidden: width of the residual stream.
      heads: query heads.
      kv_heads: key and value heads.
      ffn: width of the feed-forward network; of the shared expert in a mixture of experts.
      vocab: rows of the embedding.
      sequence: tokens of a sample.
      gated: two input projections (SwiGLU, rotary positions, RMS norm), or one (GELU, learned
        positions, layer norm with bias, dropout).
      tied: whether the output projection shares the embedding.
      experts: number of routed experts; 0 for a dense model.
      top_k: experts a token.
      expert_ffn: width of a routed expert.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    sequence: int
    gated: bool
    tied: bool
    experts: int = 0
    top_k: int = 0
    expert_ffn: int = 0

    @property
    def parameters(self) -> int:
        """Number of parameters, without sharding."""
        blocks = sum(sum(block_weights(self, 1, 1).values()) for _ in range(self.layers))
        ends = sum(end_weights(self, 1, first=True, last=True).values())
        return blocks + ends


GPT2_345M = Model("GPT-2-345M", 24, 1024, 16, 16, 4096, 50304, 1024, gated=False, tied=True)
LLAMA2_7B = Model("Llama-2-7B", 32, 4096, 32, 32, 11008, 32000, 4096, gated=True, tied=False)
QWEN_MOE = Model(
    "Qwen1.5-MoE-A2.7B",
    24,
    2048,
    16,
    16,
    5632,
    151936,
    4096,
    gated=True,
    tied=False,
    experts=60,
    top_k=4,
    expert_ffn=1408,
)


def block_weights(model: Model, tensor: int, expert: int) -> dict[str, int]:
    """Elements of each weight of one block on one rank.

    Args:
      model: the model.
      tensor: ranks that share a matrix.
      expert: ranks that share the experts.

    Returns:
      Elements by name; names of routed experts start with "expert".
    """
    width, projections = model.hidden, 2 if model.gated else 1
    head = width // model.heads
    qkv = width * head * (model.heads + 2 * model.kv_heads) // tensor
    norm = width if model.gated else 2 * width
    weights = {"norm1": norm, "qkv": qkv, "proj": width * width // tensor, "norm2": norm}
    if not model.gated or model.experts:  # Qwen1.5 has biases in the query, key, value projection
        weights["qkv_bias"] = qkv // width
    if not model.gated:
        weights |= {"proj_bias": width, "fc1_bias": model.ffn // tensor, "fc2_bias": width}
    weights["fc1"] = width * model.ffn * projections // tensor
    weights["fc2"] = width * model.ffn // tensor
    if model.experts:
        weights |= {"router": width * model.experts, "shared_gate": width}
        for number in range(model.experts // expert):
            weights[f"expert{number}.fc1"] = width * model.expert_ffn * projections
            weights[f"expert{number}.fc2"] = width * model.expert_ffn
    return weights


def end_weights(
    model: Model, tensor: int, *, first: bool = False, last: bool = False
) -> dict[str, int]:
    """Elements of the weights before the first and behind the last block.

    Args:
      model: the model.
      tensor: ranks that share a matrix.
      first: the rank holds the first block.
      last: the rank holds the last block.

    Returns:
      Elements by name. A tied output projection on another rank than the embedding is a copy.
    """
    table = model.vocab * model.hidden // tensor
    weights = {}
    if first:
        weights["embedding"] = table
        if not model.gated:
            weights["positions"] = model.sequence * model.hidden
    if last:
        weights["final_norm"] = model.hidden if model.gated else 2 * model.hidden
        if not (model.tied and first):
            weights["output"] = table
    return weights
