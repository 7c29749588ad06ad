"""BlockMask: its meaning pair by pair, its lists, its constructors, its errors."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxlab.blocksparse import BlockMask, compress
from tests.oracles.attention import token_mask

Sizes = tuple[tuple[int, ...], int, int, int, int, int]

FEW = st.sampled_from(
    [
        ((), 2, 7, 13, 3, 5),
        ((1,), 3, 13, 8, 5, 4),
        ((2, 3), 1, 4, 9, 5, 2),
        ((), 1, 1, 1, 4, 1),
    ]
)
"""Batch, heads, lengths and blocks: what runs outside jit is compiled anew for every shape."""

ANY = st.tuples(
    st.sampled_from([(), (1,), (2,), (2, 3)]),
    st.integers(1, 3),
    *[st.integers(1, 13)] * 2,
    *[st.integers(1, 5)] * 2,
)


@st.composite
def masks(draw: st.DrawFn, sizes: st.SearchStrategy[Sizes] = FEW) -> BlockMask:
    batch, heads, q_len, kv_len, q_block, kv_block = draw(sizes)
    shape = (*batch, heads, -(-q_len // q_block), -(-kv_len // kv_block))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    blocks = random.random(shape) < draw(st.sampled_from([0.0, 0.3, 0.7, 1.0]))
    positions = [
        random.integers(-2, 20, length) if draw(st.booleans()) else None
        for length in (q_len, kv_len)
    ]
    return BlockMask(blocks, q_block, kv_block, q_len, kv_len, draw(st.booleans()), *positions)


def meaning(mask: BlockMask) -> np.ndarray:
    return token_mask(
        np.asarray(mask.blocks),
        mask.q_block,
        mask.kv_block,
        mask.q_len,
        mask.kv_len,
        mask.causal,
        mask.q_positions,
        mask.kv_positions,
    )


@given(masks(ANY))
def test_means_what_it_says_pair_by_pair(mask: BlockMask) -> None:
    np.testing.assert_array_equal(mask.to_tokens(), meaning(mask))


@given(masks())
def test_live_blocks_drop_nothing_that_attends(mask: BlockMask) -> None:
    pairs = meaning(mask)
    live = np.asarray(mask.live_blocks())
    assert not (live & ~mask.blocks).any()
    for index in np.ndindex(live.shape):
        *lead, i, j = index
        rows = slice(i * mask.q_block, (i + 1) * mask.q_block)
        columns = slice(j * mask.kv_block, (j + 1) * mask.kv_block)
        assert live[index] == pairs[(*lead, rows, columns)].any()


@given(masks())
def test_lists_hold_the_live_blocks_in_order(mask: BlockMask) -> None:
    live = np.asarray(mask.live_blocks())
    for lists, blocks in (
        (mask.kv_lists(), live),
        (mask.q_lists(), np.swapaxes(live, -1, -2)),
    ):
        assert lists.indices.shape == blocks.shape
        assert lists.indices.dtype == lists.counts.dtype == jnp.int32
        indices, counts = np.asarray(lists.indices), np.asarray(lists.counts)
        assert ((indices >= 0) & (indices < blocks.shape[-1])).all()
        for row in np.ndindex(blocks.shape[:-1]):
            wanted = np.flatnonzero(blocks[row])
            assert counts[row] == wanted.size
            np.testing.assert_array_equal(indices[row][: wanted.size], wanted)


@given(masks(), st.randoms(use_true_random=False))
def test_permuted_attends_to_the_same_pairs(mask: BlockMask, random: object) -> None:
    q_blocks, kv_blocks = mask.blocks.shape[-2:]
    q_order, kv_order = list(range(q_blocks)), list(range(kv_blocks))
    random.shuffle(q_order)
    random.shuffle(kv_order)
    permuted = mask.permuted(np.array(q_order), np.array(kv_order))
    old_q = _old_places(q_order, mask.q_block)
    old_kv = _old_places(kv_order, mask.kv_block)
    assert (permuted.q_len, permuted.kv_len) == (old_q.size, old_kv.size)
    wanted = np.zeros((*mask.blocks.shape[:-2], old_q.max() + 1, old_kv.max() + 1), bool)
    wanted[..., : mask.q_len, : mask.kv_len] = meaning(mask)
    np.testing.assert_array_equal(meaning(permuted), wanted[..., old_q[:, None], old_kv[None, :]])
    np.testing.assert_array_equal(permuted.to_tokens(), meaning(permuted))


def _old_places(order: list[int], block: int) -> np.ndarray:
    return np.concatenate([np.arange(i * block, (i + 1) * block) for i in order])


def test_lists_and_permutation_work_under_jit() -> None:
    blocks = np.arange(24).reshape(2, 3, 4) % 3 > 0
    mask = BlockMask(blocks, 2, 3, 5, 11, causal=True)
    order = np.array([2, 0, 1])

    @jax.jit
    def traced(mask: BlockMask, order: jax.Array) -> tuple:
        return mask.kv_lists(), mask.permuted(order, jnp.arange(4)).to_tokens()

    lists, tokens = traced(mask, order)
    np.testing.assert_array_equal(lists.counts, mask.kv_lists().counts)
    np.testing.assert_array_equal(tokens, mask.permuted(order, np.arange(4)).to_tokens())


def test_compress_lists_any_boolean_rows() -> None:
    lists = compress(jnp.array([[[True, False, True], [False, False, False]]]))
    np.testing.assert_array_equal(lists.counts, [[2, 0]])
    np.testing.assert_array_equal(lists.indices[0, 0, :2], [0, 2])


@pytest.mark.parametrize("blocks", [np.array([[[2, 0, 0]]]), [[[True]]]])
def test_compress_refuses_what_is_not_boolean(blocks) -> None:
    with pytest.raises(
        TypeError, match=r"compress: blocks must be a boolean array, got .*blocks > 0"
    ):
        inspect.unwrap(compress)(blocks)


@given(masks(ANY))
def test_from_tokens_inverts_to_tokens(mask: BlockMask) -> None:
    mask = dataclasses.replace(mask, causal=False, q_positions=None, kv_positions=None)
    found = BlockMask.from_tokens(meaning(mask), mask.q_block, mask.kv_block)
    np.testing.assert_array_equal(found.blocks, mask.blocks)
    assert (found.q_len, found.kv_len) == (mask.q_len, mask.kv_len)


@given(masks())
def test_from_tokens_of_a_causal_mask_means_the_same(mask: BlockMask) -> None:
    mask = dataclasses.replace(mask, causal=True, q_positions=None, kv_positions=None)
    found = BlockMask.from_tokens(meaning(mask), mask.q_block, mask.kv_block, causal=True)
    assert found.causal
    np.testing.assert_array_equal(meaning(found), meaning(mask))


def test_from_tokens_refuses_partial_blocks_unless_rounded_up() -> None:
    tokens = np.zeros((2, 7, 9), bool)
    tokens[1, 4:7, 5:9] = True
    tokens[1, 4, 8] = False
    with pytest.raises(
        ValueError, match=r"1 blocks of 4x5 tokens .* partly True, the first at .*\(1, 1, 1\)"
    ):
        BlockMask.from_tokens(tokens, 4, 5)
    rounded = BlockMask.from_tokens(tokens, 4, 5, round="up")
    np.testing.assert_array_equal(np.argwhere(rounded.blocks), [[1, 1, 1]])


def test_counts_and_density() -> None:
    blocks = np.zeros((2, 3, 4, 5), bool)
    blocks[1, 2, 3] = True
    blocks[0, 0, 1, 2] = True
    mask = BlockMask(blocks, 2, 2, 8, 9)
    np.testing.assert_array_equal(mask.head_counts(), [[1, 0, 0], [0, 0, 5]])
    assert mask.head_counts().dtype == np.int64
    assert mask.density() == 6 / 120
    assert mask.heads == 3


def test_prints_what_it_is() -> None:
    mask = BlockMask(
        np.ones((2, 3, 4, 5), bool), 64, 128, 256, 600, causal=True, q_positions=np.arange(256)
    )
    assert repr(mask) == (
        "BlockMask(batch=(2,), heads=3, blocks=4x5 of 64x128, tokens=256x600, density=1, causal, "
        "positions given)"
    )
    seen = []
    jax.jit(lambda m: seen.append(repr(m)))(mask)
    assert "density" not in seen[0]
    assert repr(jax.tree.map(lambda _: None, mask)) == "BlockMask(None)"


BLOCKS = np.ones((1, 2, 2), bool)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"q_block": 0}, ValueError, "q_block must be an integer from 1 on, got 0"),
        ({"kv_block": 2.0}, TypeError, r"kv_block must be an integer, got 2\.0; convert it"),
        ({"q_len": True}, TypeError, "q_len must be an integer, got True"),
        ({"kv_len": -3}, ValueError, "kv_len must be an integer from 1 on, got -3"),
        ({"causal": 1}, TypeError, "causal must be a bool, got 1"),
        ({"blocks": BLOCKS.astype(int)}, TypeError, "boolean array, got int64"),
        ({"blocks": [[[True]]]}, TypeError, "boolean array, got list"),
        ({"blocks": BLOCKS[0]}, ValueError, r"blocks has shape \(2, 2\)"),
        ({"blocks": BLOCKS[None][:0]}, ValueError, r"shape \(0, 1, 2, 2\); it must hold a head"),
        ({"blocks": BLOCKS[:0]}, ValueError, r"shape \(0, 2, 2\); it must hold a head"),
        ({"q_len": 9}, ValueError, r"need \[\*batch, heads, 3, 2\]"),
        ({"q_positions": np.zeros(8)}, TypeError, "q_positions must be an integer array"),
        ({"q_positions": np.full(8, -(2**63))}, ValueError, r"q_positions must lie .* got -922"),
        ({"kv_positions": np.full(8, 2**31 - 1)}, ValueError, r"kv_positions must lie .* got 2147"),
        ({"kv_positions": np.zeros(7, int)}, ValueError, r"shape \(7,\), expected \(8,\)"),
    ],
)
def test_bad_fields(changed: dict, error: type[Exception], message: str) -> None:
    fields = {"blocks": BLOCKS, "q_block": 4, "kv_block": 4, "q_len": 8, "kv_len": 8} | changed
    with pytest.raises(error, match=message):
        BlockMask(**fields).validate()


def test_bad_arguments_of_methods() -> None:
    mask = BlockMask(BLOCKS, 4, 4, 8, 8)
    for order in (np.array([0, 0]), np.array([0]), np.array([0, 2])):
        with pytest.raises(ValueError, match=r"kv_order must be a permutation of 0\.\.1"):
            mask.permuted(np.array([1, 0]), order)
    from_tokens = inspect.unwrap(BlockMask.from_tokens.__func__)
    with pytest.raises(ValueError, match="round must be None or 'up', got 'down'"):
        from_tokens(BlockMask, np.ones((1, 8, 8), bool), 4, 4, round="down")
    with pytest.raises(ValueError, match=r"boolean array .* got float64 \(1, 8, 8\)"):
        from_tokens(BlockMask, np.ones((1, 8, 8)), 4, 4)
    with pytest.raises(ValueError, match=r"boolean array .* got bool \(8, 8\)"):
        from_tokens(BlockMask, np.ones((8, 8), bool), 4, 4)
    with pytest.raises(ValueError, match=r"nonempty boolean array .* got bool \(0, 8, 8\)"):
        from_tokens(BlockMask, np.ones((0, 8, 8), bool), 4, 4)
    for block in (2.0, "2", None):
        with pytest.raises(TypeError, match=f"q_block must be an integer, got {block!r}"):
            from_tokens(BlockMask, np.ones((1, 8, 8), bool), block, 4)
    with pytest.raises(TypeError, match="tokens must be concrete, got a traced array"):
        jax.jit(lambda tokens: from_tokens(BlockMask, tokens, 4, 4))(np.ones((1, 8, 8), bool))


def test_wide_positions_on_a_device_are_checked_like_those_on_the_host() -> None:
    with jax.enable_x64(True):
        positions = jax.numpy.arange(8) + 2**32 - 4  # as int32 the first four would be negative
        with pytest.raises(ValueError, match=r"q_positions must lie .* got 4294967292"):
            BlockMask(BLOCKS, 4, 4, 8, 8, q_positions=positions).validate()


def test_masks_are_compared_and_hashed_as_objects() -> None:
    first, second = BlockMask(BLOCKS, 4, 4, 8, 8), BlockMask(BLOCKS.copy(), 4, 4, 8, 8)
    assert first == first
    assert first != second
    assert len({first, second}) == 2
