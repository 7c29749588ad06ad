"""block_sparse_attention against float64 numpy, and what must hold beyond the numbers."""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.blocksparse import BlockMask, block_sparse_attention
from tests.blocksparse.attention_cases import CASES, close, everything, known, make, shuffled
from tests.compile_counter import count_compilations
from tests.oracles import attention as oracle

IMPLEMENTATIONS = ("reference", "xla")
KERNELS = pytest.param("pallas", marks=pytest.mark.slow)
BY_DEFAULT = {"reference": ("ragged", "shuffled", "one partial block, negative scale", "empty")}


def test_oracle_gradients_are_differences_of_its_values() -> None:
    case = make(1, 5, 6, 2, 1, 3, 2, 2, 3, density=0.7)
    inputs = [x.astype(np.float64) for x in (case.q, case.k, case.v)]

    def value(which: int, moved: np.ndarray) -> float:
        changed = [moved if i == which else x for i, x in enumerate(inputs)]
        out, lse = oracle.attention(*changed, case.allowed, 0.7)
        return (out * case.d_out).sum() + (np.where(lse == -np.inf, 0, lse) * case.d_lse).sum()

    found = oracle.gradients(*inputs, case.allowed, 0.7, case.d_out, case.d_lse)
    for which, gradient in enumerate(found):
        for index in np.ndindex(gradient.shape):
            step = np.zeros_like(inputs[which])
            step[index] = 1e-5
            up, down = value(which, inputs[which] + step), value(which, inputs[which] - step)
            assert abs((up - down) / 2e-5 - gradient[index]) < 1e-8


@pytest.mark.parametrize(
    ("name", "implementation"),
    [
        pytest.param(
            name,
            implementation,
            marks=() if name in BY_DEFAULT.get(implementation, CASES) else pytest.mark.slow,
        )
        for name in CASES
        for implementation in IMPLEMENTATIONS
    ],
)
def test_matches_float64(name: str, implementation: str) -> None:
    case, (expected_out, expected_lse), expected_gradients = known(name)
    (out, lse, trips), found = everything(case, implementation)
    close(out, expected_out)
    close(lse, expected_lse)
    for actual, expected in zip(found, expected_gradients, strict=True):
        close(actual, expected, 1e-4 if name == "long" else 2e-5)
    live = np.asarray(case.mask.live_blocks().sum(-1))
    if implementation == "reference":
        assert (np.asarray(trips) == case.mask.blocks.shape[-1]).all()
    else:
        assert (np.asarray(trips) >= live).all()


def test_one_long_row_does_not_lengthen_the_others() -> None:
    blocks = np.random.default_rng(0).random((3, 128, 128)) < 0.03
    blocks[1, 5] = True
    mask = BlockMask(blocks, 64, 64, 8192, 8192)
    q, k, v = np.zeros((3, 1, 8192, 3, 1), np.float32)
    _, trips = block_sparse_attention(q, k, v, mask, return_trips=True, implementation="xla")
    trips = np.asarray(trips)[0]
    assert trips[1, 5] == 128
    assert trips.sum() < 1.35 * blocks.sum() + 16 * 128


def test_an_empty_mask_makes_no_trip() -> None:
    case = make(density=0.0)
    (_, _, trips), _ = everything(case, "xla")
    assert trips.shape == (2, 6, 3)
    assert not np.asarray(trips).any()


def test_blocks_left_out_are_never_read() -> None:
    case = make(density=0.5)
    case.mask.blocks[:, 1] = False  # no query of this block attends to anything
    case.mask.blocks[:, :, 4:6] = False  # no query attends to these blocks of keys
    case.q[:, 16:32] = np.nan
    case.k[:, 32:48] = case.v[:, 32:48] = np.inf
    (out, lse, _), found = everything(case, "xla")
    clean = dataclasses.replace(
        case, **{name: np.nan_to_num(getattr(case, name), posinf=0) for name in ("q", "k", "v")}
    )
    close(out, clean.expected()[0])
    close(lse, clean.expected()[1])
    for actual, expected in zip(found, clean.expected_gradients(), strict=True):
        close(actual, expected, 2e-5)


@pytest.mark.parametrize("implementation", [*IMPLEMENTATIONS, KERNELS])
def test_padding_and_queries_without_keys_may_hold_anything(implementation: str) -> None:
    case = shuffled()
    expected, expected_gradients = case.expected(), case.expected_gradients()
    padding, kv_padding = (
        np.asarray(x) < 0 for x in (case.mask.q_positions, case.mask.kv_positions)
    )
    alone = expected[1] == -np.inf
    assert alone[:, ~padding].any()
    case.q[:, padding] = np.nan
    case.k[:, kv_padding] = case.v[:, kv_padding] = np.inf
    case.d_out[alone] = case.d_lse[alone] = np.nan
    (out, lse, _), found = everything(case, implementation)
    close(out, expected[0])
    close(lse, expected[1])
    for actual, wanted in zip(found, expected_gradients, strict=True):
        close(actual, wanted, 2e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_cotangents_of_empty_rows_do_not_spread(implementation: str) -> None:
    case = make(density=0.5)
    case.mask.blocks[:, 1] = False
    expected = case.expected_gradients()
    case.d_out[:, 16:32] = case.d_lse[:, 16:32] = np.nan
    (out, lse, _), found = everything(case, implementation)
    assert not np.asarray(out)[:, 16:32].any()
    assert (np.asarray(lse)[:, 16:32] == -np.inf).all()
    for actual, wanted in zip(found, expected, strict=True):
        close(actual, wanted, 2e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("size", [32.0, 2.0**14, 2.0**50])
def test_extreme_logits_stay_finite(size: float, implementation: str) -> None:
    case = make(density=0.5)
    random = np.random.default_rng(1)
    case.q = np.round(random.normal(size=case.q.shape) * 4).astype("f4") * np.float32(size)
    case.k = np.round(random.normal(size=case.k.shape) * 4).astype("f4")
    assert case.factor == 0.5
    (out, lse, _), found = everything(case, implementation)
    close(out, case.expected()[0])  # the products are exact, so the largest score is
    np.testing.assert_allclose(np.asarray(lse, np.float64), case.expected()[1], rtol=1e-6)
    for gradient in found:
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("dtype", "bound", "gradient_bound"),
    [
        ("float32", 1e-6, 4e-6),
        pytest.param("float16", 2e-3, 8e-3, marks=pytest.mark.slow),
        ("bfloat16", 1.6e-2, 6e-2),
    ],
)
def test_error_of_each_dtype(
    dtype: str, bound: float, gradient_bound: float, implementation: str
) -> None:
    case = make()
    case.q, case.k, case.v, case.d_out = (
        jnp.asarray(x, dtype) for x in (case.q, case.k, case.v, case.d_out)
    )
    (out, lse, _), found = everything(case, implementation)
    assert out.dtype == dtype
    assert lse.dtype == jnp.float32
    expected_out, expected_lse = case.expected()
    assert np.abs(np.asarray(out, np.float64) - expected_out).max() < bound
    finite = expected_lse > -np.inf
    assert np.abs(np.asarray(lse, np.float64)[finite] - expected_lse[finite]).max() < 2e-6
    for actual, expected in zip(found, case.expected_gradients(), strict=True):
        assert actual.dtype == dtype
        assert np.abs(np.asarray(actual, np.float64) - expected).max() < gradient_bound


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_float64_inputs_are_computed_in_float64(implementation: str) -> None:
    case = make()
    case.q, case.k, case.v, case.d_out, case.d_lse = (
        x.astype(np.float64) for x in (case.q, case.k, case.v, case.d_out, case.d_lse)
    )
    with jax.enable_x64(True):
        (out, lse, _), found = everything(case, implementation)
        assert out.dtype == lse.dtype == jnp.float64
        close(out, case.expected()[0], 1e-13)
        close(lse, case.expected()[1], 1e-13)
        for actual, expected in zip(found, case.expected_gradients(), strict=True):
            close(actual, expected, 1e-12)


def test_a_permuted_mask_attends_to_the_same_pairs() -> None:
    case = make(1, 61, 61, 3, 3, causal=True, density=0.8)
    q_order, kv_order = np.array([2, 0, 3, 1]), np.array([5, 1, 7, 0, 2, 6, 4, 3])
    padded = [np.pad(x, ((0, 0), (0, -61 % 16), (0, 0), (0, 0))) for x in (case.q, case.k, case.v)]
    q, k, v = (
        x.reshape(1, -1, block, *x.shape[2:])[:, order].reshape(x.shape)
        for x, block, order in zip(padded, (16, 8, 8), (q_order, kv_order, kv_order), strict=True)
    )
    out = np.asarray(block_sparse_attention(q, k, v, case.mask.permuted(q_order, kv_order)))
    back = out.reshape(1, 4, 16, *out.shape[2:])[:, np.argsort(q_order)].reshape(out.shape)
    close(back[:, :61], case.expected()[0])
    assert not back[:, 61:].any()


def test_chooses_xla_here_and_runs_kernels_when_asked() -> None:
    case = make(1, 40, 33, 2, 1, 8, 8, q_block=16, kv_block=16, density=0.6, causal=True)
    attend = functools.partial(block_sparse_attention, case.q, case.k, case.v, case.mask)
    trips = {}
    for implementation in (None, "xla", "pallas"):
        out, trips[implementation] = attend(return_trips=True, implementation=implementation)
        close(out, case.expected()[0])
    np.testing.assert_array_equal(trips[None], trips["xla"])
    assert (trips["pallas"] != trips["xla"]).any()
    case = make()
    with pytest.raises(ValueError, match=r"'pallas' cannot run on 'cpu': .* multiple of 16"):
        block_sparse_attention(case.q, case.k, case.v, case.mask, implementation="pallas")


GOOD = make()
F4 = np.float32
BAD: dict[str, tuple[dict, type[Exception], str]] = {
    "int q": (
        {"q": GOOD.q.astype(int)},
        TypeError,
        "q must be floating point of 16 to 64 bits, got int64",
    ),
    "float8 q": (
        {name: getattr(GOOD, name).astype(jnp.float8_e4m3fn) for name in "qkv"},
        TypeError,
        "q must be floating point of 16 to 64 bits, got float8_e4m3fn",
    ),
    "list k": ({"k": GOOD.k.tolist()}, TypeError, "k must be an array"),
    "three dimensions": ({"v": GOOD.v[0]}, ValueError, r"v has shape \(70, 2, 5\), expected four"),
    "nothing": ({"q": GOOD.q[:0]}, ValueError, "nonempty"),
    "mixed dtypes": ({"k": GOOD.k.astype("f2")}, TypeError, "float32, float16 and float32"),
    "batch": ({"q": GOOD.q[:1]}, ValueError, "differ in batch or dim"),
    "dim": ({"q": GOOD.q[..., :3]}, ValueError, "differ in batch or dim"),
    "key and value": ({"v": GOOD.v[:, :-1]}, ValueError, "k .* and v .* may differ only in dim"),
    "heads": (
        {"k": np.zeros((2, 70, 4, 4), F4), "v": np.zeros((2, 70, 4, 5), F4)},
        ValueError,
        "6 heads of q are no multiple of the 4 heads",
    ),
    "q length": ({"q": GOOD.q[:, 1:]}, ValueError, "45 queries and 70 keys, but q has 44"),
    "mask heads": ({"mask": make(heads=2).mask}, ValueError, "mask has 2 heads, but q has 6"),
    "mask batch": ({"mask": make(mask_batch=(3,)).mask}, ValueError, r"mask has batch \(3,\)"),
    "mask kind": ({"mask": GOOD.mask.blocks}, TypeError, "mask must be a BlockMask, got ndarray"),
    "mask leaves": (
        {"mask": jax.tree.map(lambda x: x[..., 1:], GOOD.mask)},
        ValueError,
        "blocks has shape",
    ),
    "scale kind": ({"scale": "1"}, TypeError, "scale must be a number"),
    "scale": ({"scale": float("nan")}, ValueError, "scale must be finite, got nan"),
    "implementation": ({"implementation": "triton"}, ValueError, "got 'triton'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str) -> None:
    changed, error, message = BAD[name]
    inputs = {"q": GOOD.q, "k": GOOD.k, "v": GOOD.v, "mask": GOOD.mask} | changed
    with count_compilations() as compiled, pytest.raises(error, match=message):
        inspect.unwrap(block_sparse_attention)(**inputs)
    assert compiled.count == 0


def test_a_traced_scale_is_refused_with_the_remedy() -> None:
    attend = inspect.unwrap(block_sparse_attention)
    with pytest.raises(TypeError, match=r"multiply q by a traced scale and pass scale=1\.0"):
        jax.jit(lambda scale: attend(GOOD.q, GOOD.k, GOOD.v, GOOD.mask, scale=scale))(0.5)


def test_second_derivatives_are_refused_with_the_remedy() -> None:
    def first(q: jax.Array) -> jax.Array:
        return jax.grad(lambda q: block_sparse_attention(q, GOOD.k, GOOD.v, GOOD.mask).sum())(q)

    with pytest.raises(NotImplementedError, match=r"only first derivatives.*`mask\.to_tokens\(\)`"):
        jax.make_jaxpr(jax.grad(lambda q: first(q).sum()))(jnp.asarray(GOOD.q))
