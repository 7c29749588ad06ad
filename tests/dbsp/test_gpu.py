"""The layer on a real GPU, where its blocks are computed by the Hopper kernels."""

import jax
import numpy as np
import pytest

from jaxlab.dbsp import device_plan, sharded_attention
from tests.dbsp.layer_cases import Case, mesh_of


@pytest.mark.gpu
@pytest.mark.skipif(jax.default_backend() != "gpu", reason="jax sees no GPU")
@pytest.mark.parametrize("causal", [False, True])
def test_layer_of_kernels_on_a_gpu_equals_float64(causal: bool) -> None:
    case = Case(
        460, 390, 64, 64, 4, 2, dim=64, value_dim=40, batch=2, mask_batch=2, causal=causal,
        dtype="bfloat16",
    )  # fmt: skip
    planned = case.plan(1, 1, seed=4)
    assert not np.array_equal(planned.q_order, np.sort(planned.q_order))
    plan = device_plan(planned)

    @jax.jit
    def everything(q, k, v, d_out, mask):
        def attend(q, k, v):
            return sharded_attention(
                q, k, v, mask, plan, mesh=mesh_of(1, 1), implementation="pallas"
            )

        out, pullback = jax.vjp(attend, q, k, v)
        return out, *pullback(d_out)

    for name, found, expected in zip(
        ("out", "dq", "dk", "dv"), everything(*case.arrays, case.mask), case.expected, strict=True
    ):
        error = np.abs(np.asarray(found, np.float64) - expected).max() / np.abs(expected).max()
        assert error < 1e-2, name
