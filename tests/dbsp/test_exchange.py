"""Block exchange: every block reaches its shard, own blocks stay off the wire, and it can undo."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from jaxlab.dbsp import Plan
from jaxlab.dbsp.exchange import bucket, exchange, route
from tests.dbsp.layer_cases import mesh_of

SIZES = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**31))


def drawn(groups: int, ring: int, slots: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A random home and orders between untouched and fully shuffled."""
    rng = np.random.default_rng(seed)
    home = rng.permutation(ring * slots)
    order = np.tile(home, (groups, 1))
    for row in order:
        some = rng.permutation(row.size)[: rng.integers(row.size + 1)]
        row[some] = row[rng.permutation(some)]
    return home, order


def carried(home: np.ndarray, leave: np.ndarray, land: np.ndarray, ring: int) -> np.ndarray:
    """Plays the rounds of one group block by block, with named blocks."""
    before = home.reshape(ring, -1)
    after = before.copy()
    for shard in range(ring):
        for turn in range(1, ring):
            target = (shard + turn) % ring
            for out, into in zip(leave[shard, turn - 1], land[target, turn - 1], strict=True):
                assert (out < before.shape[1]) == (into < before.shape[1])
                if out < before.shape[1]:
                    after[target, into] = before[shard, out]
    return after


@given(SIZES)
def test_every_block_reaches_its_shard_and_the_others_keep_their_slots(sizes) -> None:
    groups, ring, slots, seed = sizes
    home, order = drawn(groups, ring, slots, seed)
    path, placed = route(home, order, ring)
    plan = Plan(groups, ring, np.arange(groups), order, order, q_home=home)
    for group in range(groups):
        after = carried(home, path.leave[group], path.land[group], ring)
        np.testing.assert_array_equal(after, placed[group])
        wanted = order[group].reshape(ring, slots)
        np.testing.assert_array_equal(np.sort(after, axis=1), np.sort(wanted, axis=1))
        before = home.reshape(ring, slots)
        stays = np.array(
            [[block in wanted[shard] for block in before[shard]] for shard in range(ring)]
        )
        np.testing.assert_array_equal(after[stays], before[stays])
        sent = np.zeros((ring, ring), int)
        for shard in range(ring):
            for turn in range(1, ring):
                count = (path.leave[group, shard, turn - 1] < slots).sum()
                sent[shard, (shard + turn) % ring] = count
        np.testing.assert_array_equal(sent, plan.q_exchange[group] * (1 - np.eye(ring, dtype=int)))
    largest = (plan.q_exchange * (1 - np.eye(ring, dtype=int))).max()
    assert largest <= path.capacity <= max(largest, min(slots, 1.5 * largest))


def test_an_order_that_is_home_has_no_capacity() -> None:
    home = np.random.default_rng(0).permutation(12)
    path, placed = route(home, home[None], 4)
    assert path.leave.shape == (1, 4, 3, 0)
    np.testing.assert_array_equal(placed[0], home.reshape(4, 3))


def test_a_reserved_capacity_must_hold_the_largest_count() -> None:
    home, order = np.arange(6), np.array([[3, 4, 5, 0, 1, 2]])
    assert route(home, order, 2, 5)[0].capacity == 5
    with pytest.raises(ValueError, match="capacity 2 is too small, a shard sends 3"):
        route(home, order, 2, 2)


def test_buckets_hold_and_waste_at_most_half() -> None:
    sizes = [bucket(count) for count in range(200)]
    assert sorted(set(sizes))[:10] == [0, 1, 2, 3, 4, 6, 8, 12, 16, 24]
    assert all(count <= size <= 1.5 * count for count, size in enumerate(sizes))
    assert sizes == sorted(sizes)


def on_mesh(path, ring: int, block: int, back: bool):
    spec = P(None, "ring")
    return jax.jit(
        jax.shard_map(
            functools.partial(exchange, block=block, back=back),
            mesh=mesh_of(1, ring),
            in_specs=(spec, P("ulysses", "ring")),
            out_specs=spec,
            check_vma=False,
        )
    )


@pytest.mark.oldest
@pytest.mark.parametrize("capacity", [None, 5])
@pytest.mark.parametrize("ring", [2, 3, 8])
def test_devices_exchange_and_undo(ring: int, capacity: int | None) -> None:
    home, order = drawn(1, ring, 4, seed=ring + 2)
    path, placed = route(home, order, ring, capacity)
    block = 3
    named = jnp.asarray(np.repeat(home, block) * block + np.tile(np.arange(block), home.size))
    tokens = jnp.stack([named, -named])[:, :, None, None].astype(jnp.float32)  # [2, seq, 1, 1]
    there, back = (on_mesh(path, ring, block, undo) for undo in (False, True))
    moved = there(tokens, path)
    expected = placed.reshape(-1)[:, None] * block + np.arange(block)
    np.testing.assert_array_equal(moved[0, :, 0, 0], expected.reshape(-1))
    np.testing.assert_array_equal(moved[1], -moved[0])
    np.testing.assert_array_equal(back(moved, path), tokens)
    _, pullback = jax.vjp(lambda x: there(x, path), tokens)
    np.testing.assert_array_equal(pullback(moved)[0], tokens)
