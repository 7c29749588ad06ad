"""Softmax attention over a token mask in float64 numpy, one query at a time, with its gradients."""

import numpy as np


def token_mask(
    blocks: np.ndarray,
    q_block: int,
    kv_block: int,
    q_len: int,
    kv_len: int,
    causal: bool = False,
    q_positions: np.ndarray | None = None,
    kv_positions: np.ndarray | None = None,
) -> np.ndarray:
    """Which pairs attend, written out pair by pair: bool ``[*batch, heads, q_len, kv_len]``."""
    q_at = range(q_len) if q_positions is None else [int(x) for x in q_positions]
    k_at = range(kv_len) if kv_positions is None else [int(x) for x in kv_positions]
    allowed = np.zeros((*blocks.shape[:-2], q_len, kv_len), bool)
    for i in range(q_len):
        for j in range(kv_len):
            if q_at[i] < 0 or k_at[j] < 0 or (causal and k_at[j] > q_at[i]):
                continue
            allowed[..., i, j] = blocks[..., i // q_block, j // kv_block]
    return allowed


def attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, allowed: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """``out [batch, q_len, heads, value_dim]`` and ``lse [batch, q_len, heads]``.

    Args:
      q: ``[batch, q_len, heads, dim]``.
      k: ``[batch, kv_len, kv_heads, dim]``.
      v: ``[batch, kv_len, kv_heads, value_dim]``.
      allowed: bool ``[batch or 1, heads, q_len, kv_len]`` or without batch.
      scale: factor on the scores.
    """
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    batch, q_len, heads, _ = q.shape
    allowed = np.broadcast_to(allowed, (batch, heads, q_len, k.shape[1]))
    out = np.zeros((batch, q_len, heads, v.shape[-1]))
    lse = np.full((batch, q_len, heads), -np.inf)
    for b, i, h in np.ndindex(batch, q_len, heads):
        keys = np.flatnonzero(allowed[b, h, i])
        if keys.size:
            shared = h * k.shape[2] // heads
            scores = scale * (k[b, keys, shared] @ q[b, i, h])
            weights = np.exp(scores - scores.max())
            out[b, i, h] = weights @ v[b, keys, shared] / weights.sum()
            lse[b, i, h] = scores.max() + np.log(weights.sum())
    return out, lse


def gradients(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    allowed: np.ndarray,
    scale: float,
    d_out: np.ndarray,
    d_lse: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of ``sum(out * d_out) + sum(lse * d_lse)``, through the Jacobian of softmax."""
    q, k, v, d_out, d_lse = (np.asarray(x, np.float64) for x in (q, k, v, d_out, d_lse))
    batch, q_len, heads, _ = q.shape
    allowed = np.broadcast_to(allowed, (batch, heads, q_len, k.shape[1]))
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for b, i, h in np.ndindex(batch, q_len, heads):
        keys = np.flatnonzero(allowed[b, h, i])
        if keys.size:
            shared = h * k.shape[2] // heads
            scores = scale * (k[b, keys, shared] @ q[b, i, h])
            probs = np.exp(scores - scores.max())
            probs /= probs.sum()
            jacobian = np.diag(probs) - np.outer(probs, probs)
            d_scores = jacobian @ (v[b, keys, shared] @ d_out[b, i, h]) + probs * d_lse[b, i, h]
            dq[b, i, h] = scale * (d_scores @ k[b, keys, shared])
            dk[b, keys, shared] += scale * np.outer(d_scores, q[b, i, h])
            dv[b, keys, shared] += np.outer(probs, d_out[b, i, h])
    return dq, dk, dv
