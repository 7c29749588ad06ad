"""The exactness check itself: an error put into the attention comes out with its size."""

import pytest

from experiments.workloads import attention_exactness
from experiments.workloads.video_window import Window

SMALL = Window(grid=(8, 9, 16), patch=(2, 8, 8), steps=2)


def test_exactness_sees_an_error_of_ours(monkeypatch):
    right = attention_exactness._values_and_gradients

    def wrong(*arguments, implementation):
        (out, lse), (dq, dk, dv) = right(*arguments, implementation="reference")
        if implementation is None:
            out, dk = 1.01 * out, 1.02 * dk
        return (out, lse), (dq, dk, dv)

    monkeypatch.setattr(attention_exactness, "_values_and_gradients", wrong)
    found = attention_exactness.exactness(SMALL, tokens=500, dim=32, seed=0)
    assert found["forward"] == pytest.approx(0.01, rel=1e-3)
    assert found["backward"] == pytest.approx(0.02, rel=1e-3)
    assert 0 < found["density"] <= 0.6
