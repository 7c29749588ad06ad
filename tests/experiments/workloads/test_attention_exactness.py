"""The exactness check itself: what is wrong with the attention comes out, with its size."""

import functools

import jax
import pytest

from experiments.workloads import attention_exactness
from experiments.workloads.video_window import Window
from jaxlab.blocksparse import block_sparse_attention

SMALL = Window(grid=(8, 9, 16), patch=(2, 8, 8), steps=2)
reference = functools.partial(block_sparse_attention, implementation="reference")


def a_percent_too_much(q, k, v, **options):
    out, lse = reference(q, k, v, **options)
    return 1.01 * out, lse


def another_scale(q, k, v, **options):
    return reference(q, k, v, scale=q.shape[-1] ** -0.25, **options)


def no_gradient_through_lse(q, k, v, **options):
    out, lse = reference(q, k, v, **options)
    return out, jax.lax.stop_gradient(lse)


@pytest.mark.parametrize(
    ("attention", "forward", "backward"),
    [
        (a_percent_too_much, (0.0099, 0.0101), (1e-3, 0.011)),
        (another_scale, (0.1, 10), (0.1, 10)),
        (no_gradient_through_lse, (0, 1e-5), (0.1, 10)),
    ],
)
def test_exactness_sees_what_is_wrong(monkeypatch, attention, forward, backward):
    monkeypatch.setattr(attention_exactness, "block_sparse_attention", attention)
    ours = attention_exactness._ours.__wrapped__
    monkeypatch.setattr(attention_exactness, "_ours", jax.jit(lambda *inputs: ours(*inputs)))
    found = attention_exactness.exactness(SMALL, tokens=300, dim=32, seed=0)
    assert forward[0] <= found["forward float32"] <= forward[1]
    assert backward[0] <= found["backward float32"] <= backward[1]
    assert 0 < found["density"] <= 0.6
