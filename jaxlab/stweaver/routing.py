"""How many tokens reach each expert: seeded top-k routing of random logits."""

import typing

import numpy as np
from jaxtyping import Float64, Int64

from jaxlab.stweaver.kernel import kernel

_SKEW = 0.3  # deviation of an expert's mean logit over experts: the router's lasting preference
_DRIFT = 0.2  # deviation of the same from one microbatch to the next: what its text is about
_DRAWS = 2  # random numbers a choice; repeated experts cost more, then the rest draws anew


def expert_tokens(
    tokens: int, experts: int, top_k: int, *, layer: int, microbatch: int, seed: int
) -> Int64[np.ndarray, " experts"]:
    """Tokens that choose each expert.

    A token takes the ``top_k`` largest of ``mean + Gumbel noise``, which is the same as drawing
    experts one after the other, without repetition, with probability ``softmax(mean)``.

    Args:
      tokens: number of tokens.
      experts: number of experts.
      top_k: experts a token.
      layer: the router; its preference depends on nothing else.
      microbatch: counts on over iterations.
      seed: of the text: drift and noise.

    Returns:
      int64 ``[experts]``, in sum ``tokens * top_k``.
    """
    lasting = np.random.default_rng([layer]).normal(0, _SKEW, experts)
    random = np.random.default_rng([seed, layer, microbatch])
    logits = lasting + random.normal(0, _DRIFT, experts)
    chance = np.exp(logits - logits.max())
    edges = np.cumsum(chance / chance.sum())
    edges[-1] = 1.0
    counts = np.zeros(experts, np.int64)
    left = tokens
    while left:
        left -= _draw(edges, random.random(_DRAWS * top_k * left), left, top_k, counts)
    return counts


@kernel
@typing.no_type_check
def _draw(
    edges: Float64[np.ndarray, " experts"],
    uniform: Float64[np.ndarray, " draws"],
    tokens: int,
    top_k: int,
    counts: Int64[np.ndarray, " experts"],
) -> int:
    """Routes tokens while the random numbers last; how many it has routed."""
    chosen = np.empty(top_k, np.int64)
    used = 0
    for token in range(tokens):
        taken = 0
        while taken < top_k:
            if used == uniform.size:
                return token
            expert = np.searchsorted(edges, uniform[used], side="right")
            used += 1
            fresh = True
            for earlier in range(taken):
                fresh = fresh and chosen[earlier] != expert
            if fresh:
                chosen[taken] = expert
                taken += 1
        for choice in chosen:
            counts[choice] += 1
    return tokens
