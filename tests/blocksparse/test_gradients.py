"""block_sparse_gradients: pieces of the keys, each alone, add up to the gradients of the whole."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.blocksparse import block_sparse_gradients
from tests.blocksparse.attention_cases import Case, close, make
from tests.compile_counter import count_compilations


def whole(causal: bool = False) -> Case:
    """Grouped heads, ragged lengths, a block of queries without keys; no cotangent of lse."""
    options = {"q_positions": np.arange(45), "kv_positions": np.arange(61)} if causal else {}
    case = make(1, 45, 61, 4, 2, 16, 16, kv_block=16, density=0.6, causal=causal, **options)
    case.mask.blocks[:, 1] = False
    case.d_lse = np.zeros_like(case.d_lse)
    return case


@pytest.mark.parametrize("causal", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize(
    "implementation", ["reference", "xla", pytest.param("pallas", marks=pytest.mark.slow)]
)
def test_pieces_of_the_keys_add_up(implementation: str, causal: bool) -> None:
    case = whole(causal)
    out, lse = (x.astype(np.float32) for x in case.expected())
    dq, dk, dv = case.expected_gradients()
    cut = 32
    found = []
    for piece, blocks in ((slice(0, cut), slice(0, 2)), (slice(cut, None), slice(2, None))):
        k, v = case.k[:, piece], case.v[:, piece]
        mask = dataclasses.replace(
            case.mask,
            blocks=case.mask.blocks[..., blocks],
            kv_len=k.shape[1],
            kv_positions=np.arange(61)[piece] if causal else None,
        )
        found.append(
            block_sparse_gradients(
                case.q, k, v, mask, out, lse, case.d_out, implementation=implementation
            )
        )
    close(found[0][0] + found[1][0], dq, 2e-5)
    close(np.concatenate([found[0][1], found[1][1]], 1), dk, 2e-5)
    close(np.concatenate([found[0][2], found[1][2]], 1), dv, 2e-5)
    assert np.abs(found[0][0]).max() > 0.1
    assert np.abs(found[1][0]).max() > 0.1


GOOD = make(2, 45, 45, 4, 2, 4, 4)
OUT, LSE = (x.astype(np.float32) for x in GOOD.expected())
BAD: dict[str, tuple[dict, type[Exception], str]] = {
    "implementation": ({"implementation": "nonsense"}, ValueError, "got 'nonsense'"),
    "q": ({"q": GOOD.q.astype(int)}, TypeError, "q must be floating point"),
    "scale": ({"scale": np.inf}, ValueError, "scale must be finite"),
    "mask": ({"mask": None}, TypeError, "mask must be a BlockMask"),
    "batch of lse": ({"lse": LSE[:1]}, ValueError, r"lse has shape \(1, 45, 4\), expected \(2, 45"),
    "head of lse": ({"lse": LSE[..., :1]}, ValueError, r"lse has shape \(2, 45, 1\)"),
    "head of out": ({"out": OUT[:, :, :1]}, ValueError, r"out has shape \(2, 45, 1, 4\)"),
    "head of d_out": ({"d_out": OUT[:, :, :1]}, ValueError, r"d_out has shape \(2, 45, 1, 4\)"),
    "axes of lse": (
        {"lse": LSE.swapaxes(1, 2)},
        ValueError,
        r"lse has shape \(2, 4, 45\).*swap its axes 1 and 2: `lse\.swapaxes\(1, 2\)`",
    ),
    "int lse": ({"lse": np.zeros((2, 45, 4), int)}, TypeError, "lse must be floating point"),
    "short lse": (
        {"lse": LSE.astype("f2")},
        TypeError,
        "lse must be float32 or wider",
    ),
    "number": ({"d_out": 1.0}, TypeError, "d_out must be an array, got <class 'float'>"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str) -> None:
    changed, error, message = BAD[name]
    inputs = {name: getattr(GOOD, name) for name in ("q", "k", "v", "mask", "d_out")}
    inputs |= {"out": OUT, "lse": LSE} | changed
    with (
        count_compilations() as compiled,
        pytest.raises(error, match=message) as raised,
    ):
        inspect.unwrap(block_sparse_gradients)(**inputs)
    assert "block_sparse_attention" not in str(raised.value)
    assert compiled.count == 0


def test_traced_like_eager() -> None:
    inputs = (GOOD.q, GOOD.k, GOOD.v, GOOD.mask, OUT, LSE, GOOD.d_out)
    eager = block_sparse_gradients(*inputs)
    traced = jax.jit(block_sparse_gradients)(*inputs)
    for one, other in zip(eager, traced, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)
    assert all(isinstance(x, jnp.ndarray) for x in eager)
