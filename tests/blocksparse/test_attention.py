"""block_sparse_attention against float64 numpy, and what must hold beyond the numbers."""

import dataclasses
import functools
import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxlab.blocksparse import BlockMask, block_sparse_attention
from tests.compile_counter import count_compilations
from tests.oracles import attention as oracle

IMPLEMENTATIONS = ("reference", "xla")


@dataclasses.dataclass
class Case:
    """Inputs, cotangents and what the oracle makes of them."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    mask: BlockMask
    scale: float | None = None

    def __post_init__(self) -> None:
        random = np.random.default_rng(7)
        batch, q_len, heads, dim = self.q.shape
        self.d_out = random.normal(size=(batch, q_len, heads, self.v.shape[-1])).astype("f4")
        self.d_lse = random.normal(size=(batch, q_len, heads)).astype("f4")
        self.factor = dim**-0.5 if self.scale is None else self.scale

    @functools.cached_property
    def allowed(self) -> np.ndarray:
        m = self.mask
        sizes = (m.q_block, m.kv_block, m.q_len, m.kv_len)
        return oracle.token_mask(
            np.asarray(m.blocks), *sizes, m.causal, m.q_positions, m.kv_positions
        )

    def expected(self) -> tuple[np.ndarray, np.ndarray]:
        return oracle.attention(self.q, self.k, self.v, self.allowed, self.factor)

    def expected_gradients(self) -> tuple[np.ndarray, ...]:
        inputs = (self.q, self.k, self.v, self.allowed, self.factor)
        return oracle.gradients(*inputs, self.d_out, self.d_lse)


def make(
    batch: int = 2,
    q_len: int = 45,
    kv_len: int = 70,
    heads: int = 6,
    kv_heads: int = 2,
    dim: int = 8,
    value_dim: int = 5,
    q_block: int = 16,
    kv_block: int = 8,
    density: float = 0.4,
    mask_batch: tuple[int, ...] = (),
    seed: int = 0,
    **mask: object,
) -> Case:
    random = np.random.default_rng(seed)
    q = random.normal(size=(batch, q_len, heads, dim)).astype("f4")
    k = random.normal(size=(batch, kv_len, kv_heads, dim)).astype("f4")
    v = random.normal(size=(batch, kv_len, kv_heads, value_dim)).astype("f4")
    shape = (*mask_batch, heads, -(-q_len // q_block), -(-kv_len // kv_block))
    blocks = random.random(shape) < density
    return Case(q, k, v, BlockMask(blocks, q_block, kv_block, q_len, kv_len, **mask))


def shuffled(causal: bool = True) -> Case:
    """Tokens out of order, some of them padding."""
    random = np.random.default_rng(3)
    q_positions, kv_positions = random.permutation(45), random.permutation(45)
    q_positions[[3, 17, 18]] = -1
    kv_positions[24:32] = -1
    return make(
        kv_len=45, causal=causal, q_positions=q_positions, kv_positions=kv_positions, density=0.6
    )


def long() -> Case:
    """More blocks than one trip takes and more rows than one group, the last group not full."""
    return make(1, 630, 570, 2, 1, 4, 4, 128, 32, density=0.9)


def negative_scale() -> Case:
    return dataclasses.replace(make(1, 9, 11, 1, 1, 3, 3, 4, 4, seed=5), scale=-1.3)


CASES: dict[str, Callable[[], Case]] = {
    "ragged": make,
    "batched mask": functools.partial(make, mask_batch=(2,), density=0.2),
    "broadcast mask, causal": functools.partial(make, kv_len=45, mask_batch=(1,), causal=True),
    "shuffled": shuffled,
    "one partial block": functools.partial(make, 1, 3, 5, 1, 1, density=1.0),
    "empty": functools.partial(make, density=0.0),
    "long": long,
    "negative scale": negative_scale,
}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _everything(implementation: str | None, scale: float | None, *inputs: object) -> tuple:
    *tokens, mask, d_out, d_lse = inputs
    options = {"scale": scale, "return_lse": True, "implementation": implementation}

    def attend(*tokens: jax.Array) -> tuple:
        out, lse, trips = block_sparse_attention(*tokens, mask, return_trips=True, **options)
        return (out, lse), trips

    (out, lse), pullback, trips = jax.vjp(attend, *tokens, has_aux=True)
    return (out, lse, trips), pullback((d_out, d_lse))


def everything(case: Case, implementation: str | None) -> tuple[tuple, tuple]:
    """``(out, lse, trips), (dq, dk, dv)``, compiled once for all cases of a shape."""
    inputs = (case.q, case.k, case.v, case.mask, case.d_out, case.d_lse)
    return _everything(implementation, case.scale, *inputs)


def close(actual: object, expected: object, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(
        np.asarray(actual, np.float64), expected, rtol=tolerance, atol=tolerance
    )


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


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", CASES)
def test_matches_float64(name: str, implementation: str) -> None:
    case = CASES[name]()
    (out, lse, trips), found = everything(case, implementation)
    expected_out, expected_lse = case.expected()
    close(out, expected_out)
    close(lse, expected_lse)
    for actual, expected in zip(found, case.expected_gradients(), strict=True):
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
    case = make(1, 64, 96, 2, 2, q_block=16, kv_block=16, density=0.5)
    case.mask.blocks[:, 1] = False  # no query of this block attends to anything
    case.mask.blocks[:, :, 2] = False  # no query attends to this block of keys
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


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("causal", [True, False])
def test_padding_tokens_may_hold_anything(causal: bool, implementation: str) -> None:
    case = shuffled(causal)
    expected, expected_gradients = case.expected(), case.expected_gradients()
    padding, kv_padding = (
        np.asarray(x) < 0 for x in (case.mask.q_positions, case.mask.kv_positions)
    )
    case.q[:, padding] = np.nan
    case.k[:, kv_padding] = case.v[:, kv_padding] = np.inf
    case.d_out[:, padding] = case.d_lse[:, padding] = np.nan
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
    case.d_lse[:, 16:32] = np.nan
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
    case = dataclasses.replace(case, scale=1.0)
    (out, lse, _), found = everything(case, implementation)
    close(out, case.expected()[0])  # the products are exact, so the largest score is
    np.testing.assert_allclose(np.asarray(lse, np.float64), case.expected()[1], rtol=1e-6)
    for gradient in found:
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("dtype", "bound", "gradient_bound"),
    [("float32", 1e-6, 4e-6), ("float16", 2e-3, 8e-3), ("bfloat16", 1.6e-2, 6e-2)],
)
def test_error_of_each_dtype(
    dtype: str, bound: float, gradient_bound: float, implementation: str
) -> None:
    case = make(1, 100, 90, 4, 2, 16, 16)
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


def test_halves_merge_by_their_lse() -> None:
    """What a ring does: attend to two halves of the keys, merge, differentiate the merge."""
    case = make(1, 48, 64, 2, 2, 8, 8, q_block=16, kv_block=16, density=0.7)
    case.mask.blocks[0, 1, :2] = False
    case.mask.blocks[0, 2] = False

    def half(q: jax.Array, k: jax.Array, v: jax.Array, part: int) -> tuple:
        blocks = case.mask.blocks[..., 2 * part : 2 * part + 2]
        mask = BlockMask(blocks, 16, 16, 48, 32)
        keys = slice(32 * part, 32 * part + 32)
        return block_sparse_attention(q, k[:, keys], v[:, keys], mask, return_lse=True)

    def merged(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        (out_a, lse_a), (out_b, lse_b) = half(q, k, v, 0), half(q, k, v, 1)
        largest = jnp.maximum(lse_a, lse_b)
        shift = jax.lax.stop_gradient(jnp.where(largest == -jnp.inf, 0, largest))
        a, b = jnp.exp(lse_a - shift)[..., None], jnp.exp(lse_b - shift)[..., None]
        return (a * out_a + b * out_b) / jnp.where(a + b == 0, 1, a + b)

    out, pullback = jax.vjp(merged, case.q, case.k, case.v)
    close(out, case.expected()[0])
    case.d_lse[:] = 0
    found = pullback(jnp.asarray(case.d_out))
    for actual, expected in zip(found, case.expected_gradients(), strict=True):
        close(actual, expected, 2e-5)


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


def stack(*cases: Case) -> tuple:
    return jax.tree.map(lambda *x: jnp.stack(x), *((c.q, c.k, c.v, c.mask) for c in cases))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (make(density=0.1), make(density=0.9, seed=1)),
        (make(mask_batch=(2,), density=0.1), make(mask_batch=(2,), density=0.9, seed=1)),
        (shuffled(), dataclasses.replace(shuffled(), mask=jax.tree.map(np.flip, shuffled().mask))),
    ],
    ids=["shared over the batch", "per batch", "positions"],
)
def test_vmap_over_everything(first: Case, second: Case) -> None:
    q, k, v, mask = stack(first, second)
    d_out = jnp.stack([first.d_out, second.d_out])

    def gradient(q: jax.Array, k: jax.Array, v: jax.Array, mask: BlockMask, d: jax.Array) -> tuple:
        out, pullback = jax.vjp(lambda *x: block_sparse_attention(*x, mask), q, k, v)
        return out, pullback(d)

    out, found = jax.jit(jax.vmap(gradient))(q, k, v, mask, d_out)
    for i, case in enumerate((first, second)):
        case.d_lse = np.zeros_like(case.d_lse)
        close(out[i], case.expected()[0])
        for actual, expected in zip(found, case.expected_gradients(), strict=True):
            close(actual[i], expected, 2e-5)


def test_nested_vmap_over_queries_alone() -> None:
    case = make(mask_batch=(2,))
    queries = jnp.asarray(case.q) * jnp.arange(1.0, 7).reshape(2, 3, 1, 1, 1, 1)

    def attend(q: jax.Array) -> jax.Array:
        return block_sparse_attention(q, case.k, case.v, case.mask)

    out = jax.vmap(jax.vmap(attend))(queries)
    for i, j in np.ndindex(2, 3):
        case.q = np.asarray(queries[i, j])
        close(out[i, j], case.expected()[0])


def test_vmap_does_not_run_every_element_for_the_longest() -> None:
    """129 light rows and one full one: the light elements share a group without the full one."""
    blocks = np.zeros((2, 1, 64, 128), bool)
    blocks[0] = True
    blocks[1, :, :, 3] = True
    q, k, v = np.zeros((1, 4096, 1, 1), "f4"), *np.zeros((2, 1, 8192, 1, 1), "f4")

    def trips(blocks: jax.Array) -> jax.Array:
        mask = BlockMask(blocks, 64, 64, 4096, 8192)
        return block_sparse_attention(q, k, v, mask, return_trips=True)[1]

    found = np.asarray(jax.vmap(trips)(blocks))
    assert (found[0] == 128).all()
    assert (found[1] <= 2).all()


@pytest.mark.oldest
def test_devices_of_a_mesh_make_their_own_trips() -> None:
    case = make(1, 45, 70, 8, 8, density=0.5)
    case.mask.blocks[:4] = False
    mesh = jax.make_mesh((4,), ("head",), axis_types=(AxisType.Auto,))

    def local(q: jax.Array, k: jax.Array, v: jax.Array, blocks: jax.Array) -> tuple:
        mask = BlockMask(blocks, 16, 8, 45, 70)
        return block_sparse_attention(q, k, v, mask, return_lse=True, return_trips=True)

    by_head = P(None, None, "head")
    sharded = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(by_head, by_head, by_head, P("head")),
        out_specs=(by_head, by_head, P(None, "head")),
    )

    def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple:
        out, lse, trips = sharded(q, k, v, jnp.asarray(case.mask.blocks))
        lse = jnp.where(lse == -jnp.inf, 0, lse)
        return (out * case.d_out).sum() + (lse * case.d_lse).sum(), (out, trips)

    found, (out, trips) = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(case.q, case.k, case.v)
    close(out, case.expected()[0])
    for actual, expected in zip(found, case.expected_gradients(), strict=True):
        close(actual, expected, 2e-5)
    assert not np.asarray(trips)[:, :4].any()
    assert np.asarray(trips)[:, 4:].any()


@pytest.mark.oldest
def test_keys_shared_by_the_devices_get_the_sum_of_their_gradients() -> None:
    case = make(4, 20, 30, 2, 2, density=0.6)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    k, v = case.k[:1], case.v[:1]

    def local(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return block_sparse_attention(q, k, v, case.mask)

    sharded = jax.shard_map(local, mesh=mesh, in_specs=(P("data"), P(), P()), out_specs=P("data"))
    found = jax.jit(jax.grad(lambda k, v: (sharded(case.q, k, v) * case.d_out).sum(), (0, 1)))(k, v)
    case.k, case.v = (np.repeat(x, 4, axis=0) for x in (k, v))
    case.d_lse[:] = 0
    for actual, expected in zip(found, case.expected_gradients()[1:], strict=True):
        close(actual, expected.sum(0, keepdims=True), 2e-5)


def test_new_blocks_do_not_compile() -> None:
    def loss(q: jax.Array, mask: BlockMask) -> jax.Array:
        return block_sparse_attention(q, case.k, case.v, mask).sum()

    case = make()
    gradient = jax.jit(jax.grad(loss))
    attend = functools.partial(block_sparse_attention, return_lse=True)  # outside jit
    with count_compilations() as compiled:
        attend(case.q, case.k, case.v, case.mask)
        gradient(case.q, case.mask)
        first = compiled.count
        for density in (0.0, 0.2, 1.0):
            case.mask = make(density=density, seed=9).mask
            attend(case.q, case.k, case.v, case.mask)
            gradient(case.q, case.mask)
        assert 0 < first == compiled.count


def test_chooses_xla_here_and_runs_kernels_when_asked() -> None:
    case = make(1, 40, 33, 2, 1, 8, 8, q_block=16, kv_block=16, density=0.6, causal=True)
    trips = {}
    for implementation in (None, "xla", "pallas"):
        (out, lse, trips[implementation]), _ = everything(case, implementation)
        close(out, case.expected()[0])
        close(lse, case.expected()[1])
    np.testing.assert_array_equal(trips[None], trips["xla"])
    assert (trips["pallas"] != trips["xla"]).any()
    case = make()
    with pytest.raises(ValueError, match=r"'pallas' cannot run on 'cpu': .* multiple of 16"):
        block_sparse_attention(case.q, case.k, case.v, case.mask, implementation="pallas")


GOOD = make()
F4 = np.float32
BAD: dict[str, tuple[dict, type[Exception], str]] = {
    "int q": ({"q": GOOD.q.astype(int)}, TypeError, "q must be floating point, got int64"),
    "list k": ({"k": GOOD.k.tolist()}, TypeError, "k must be an array"),
    "three dimensions": ({"v": GOOD.v[0]}, ValueError, r"v has shape \(70, 2, 5\), expected four"),
    "nothing": ({"q": GOOD.q[:0]}, ValueError, "nonempty"),
    "mixed dtypes": ({"k": GOOD.k.astype("f2")}, TypeError, "float32, float16 and float32"),
    "batch": ({"q": GOOD.q[:1]}, ValueError, "differ in batch or dim"),
    "dim": ({"q": GOOD.q[..., :3]}, ValueError, "differ in batch or dim"),
    "key and value": ({"v": GOOD.v[:, :-1]}, ValueError, "k .* and v .* may differ only in dim"),
    "heads": (
        {"k": np.zeros((2, 70, 4, 8), F4), "v": np.zeros((2, 70, 4, 5), F4)},
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
