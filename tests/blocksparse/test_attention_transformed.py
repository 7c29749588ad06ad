"""block_sparse_attention under vmap, shard_map, checkpoint, scan; compiled once for all masks."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxlab.blocksparse import BlockMask, block_sparse_attention
from tests.blocksparse.attention_cases import Case, close, make, shuffled, tiny
from tests.compile_counter import count_compilations


def stack(*cases: Case) -> tuple:
    return jax.tree.map(lambda *x: jnp.stack(x), *((c.q, c.k, c.v, c.mask) for c in cases))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (tiny(density=0.3), tiny(density=0.9, seed=1)),
        pytest.param(
            tiny(mask_batch=(2,), density=0.3),
            tiny(mask_batch=(2,), density=0.9, seed=1),
            marks=pytest.mark.slow,
        ),
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
    case = tiny(mask_batch=(2,))
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


def ring(mesh: jax.sharding.Mesh, implementation: str, check: bool) -> Callable:
    """What a sequence-parallel layer does: keys go round, partial results are merged by their lse.

    Every device has blocks of its own for the heads and queries it holds, traced, and the original
    positions of its tokens.
    """
    steps = mesh.shape["ring"]
    hops = [(i, (i - 1) % steps) for i in range(steps)]

    def local(q, k, v, blocks, q_at, kv_at):
        columns = k.shape[1] // 16

        def step(carry, number):
            out, lse, trips, k, v, kv_at = carry
            first = (lax.axis_index("ring") + number) % steps * columns
            here = lax.dynamic_slice_in_dim(blocks, first, columns, axis=-1)
            mask = BlockMask(here, 16, 16, q.shape[1], k.shape[1], True, q_at, kv_at)
            part, part_lse, part_trips = block_sparse_attention(
                q, k, v, mask, return_lse=True, return_trips=True, implementation=implementation
            )
            largest = jnp.maximum(lse, part_lse)
            shift = lax.stop_gradient(jnp.where(largest == -jnp.inf, 0, largest))
            old, new = jnp.exp(lse - shift), jnp.exp(part_lse - shift)
            total = jnp.where(old + new == 0, 1, old + new)
            out = (old[..., None] * out + new[..., None] * part) / total[..., None]
            lse = jnp.where(old + new == 0, -jnp.inf, shift + jnp.log(total))
            k, v, kv_at = (lax.ppermute(x, "ring", hops) for x in (k, v, kv_at))
            return (out, lse, trips + part_trips.sum(), k, v, kv_at), None

        nothing = jnp.zeros_like(v, shape=(*q.shape[:3], v.shape[-1]))
        start = (nothing, nothing[..., 0] - jnp.inf, 0 * blocks.sum(), k, v, kv_at)
        (out, lse, trips, *_), _ = lax.scan(step, start, jnp.arange(steps))
        return out, lse, trips[None, None]

    tokens, positions = P(None, "ring", "head"), P("ring")
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(*[tokens] * 3, P("head", "ring"), positions, positions),
        out_specs=(tokens, tokens, P("ring", "head")),
        check_vma=check,
    )


@pytest.mark.oldest
@pytest.mark.parametrize(
    ("implementation", "check"),
    [("xla", True), pytest.param("pallas", False, marks=pytest.mark.slow)],
)
def test_a_ring_of_devices_with_masks_of_their_own(implementation: str, check: bool) -> None:
    random = np.random.default_rng(5)
    q_at, kv_at = random.permutation(128), random.permutation(128)
    q_at[random.choice(128, 7, replace=False)] = -1
    kv_at[random.choice(128, 9, replace=False)] = -1
    case = make(
        1, 128, 128, 4, 2, 8, 6, 16, 16, 0.5, causal=True, q_positions=q_at, kv_positions=kv_at
    )
    case.mask.blocks[:2, 4:6] = False  # one device has nothing to do, its ring goes on
    mesh = jax.make_mesh((4, 2), ("ring", "head"), axis_types=(AxisType.Auto,) * 2)
    attend = ring(mesh, implementation, check)

    @jax.jit
    def everything(q, k, v, blocks, q_at, kv_at):
        def outputs(*tokens):
            out, lse, trips = attend(*tokens, blocks, q_at, kv_at)
            return (out, lse), trips

        results, pullback, trips = jax.vjp(outputs, q, k, v, has_aux=True)
        return results, pullback((case.d_out, case.d_lse)), trips

    inputs = (case.q, case.k, case.v, case.mask.blocks, q_at, kv_at)
    (out, lse), gradients, trips = everything(*inputs)
    close(out, case.expected()[0])
    close(lse, case.expected()[1])
    for actual, expected in zip(gradients, case.expected_gradients(), strict=True):
        close(actual, expected, 2e-5)
    trips = np.asarray(trips)
    assert trips[2, 0] == 0
    assert len(set(trips.ravel())) > 4
    with count_compilations() as compiled:
        everything(*inputs[:3], random.random((4, 8, 8)) < 0.2, *inputs[4:])
    assert compiled.count == 0


@pytest.mark.oldest
def test_keys_shared_by_the_devices_get_the_sum_of_their_gradients() -> None:
    case = tiny(batch=4, kv_heads=2)
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

    case = tiny()
    gradient = jax.jit(jax.grad(loss))
    attend = functools.partial(block_sparse_attention, return_lse=True)  # outside jit
    with count_compilations() as compiled:
        attend(case.q, case.k, case.v, case.mask)
        gradient(case.q, case.mask)
        first = compiled.count
        for density in (0.0, 0.2, 1.0):
            case.mask = tiny(density=density, seed=9).mask
            attend(case.q, case.k, case.v, case.mask)
            gradient(case.q, case.mask)
        assert 0 < first == compiled.count


@pytest.mark.slow
def test_layers_under_checkpoint_and_scan() -> None:
    case = tiny(kv_len=11, kv_heads=2, value_dim=4)

    def loss(q: jax.Array, attend: Callable) -> jax.Array:
        def layer(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return x + jax.checkpoint(attend)(x, case.k, case.v), None

        return (lax.scan(layer, q, length=2)[0] ** 2).sum()

    def dense(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * case.factor
        scores = jnp.where(case.allowed, scores, -1e30)
        some = case.allowed.any(-1, keepdims=True)
        return jnp.einsum("bhqk,bkhd->bqhd", jnp.where(some, jax.nn.softmax(scores), 0), v)

    def sparse(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return block_sparse_attention(q, k, v, case.mask)

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    close(gradient(case.q, sparse), np.asarray(gradient(case.q, dense)), 1e-4)


def test_gradients_of_shared_keys_are_held_once_for_all_their_heads() -> None:
    """16 query heads read one key head: no buffer holds key gradients of every query head."""

    def loss(q: jax.Array, k: jax.Array, v: jax.Array, mask: BlockMask) -> jax.Array:
        return block_sparse_attention(q, k, v, mask).sum()

    blocks = jax.ShapeDtypeStruct((16, 1, 256), bool)
    q, k = (jax.ShapeDtypeStruct((1, n, h, 128), jnp.float32) for n, h in ((64, 16), (16384, 1)))
    mask = BlockMask(blocks, 64, 64, 64, 16384)
    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, k, k, mask).compile()
    every_head = 2 * 16 * 16384 * 128 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < every_head / 2
