"""Packed masks and what is counted on them, against sums of the masks themselves."""

import itertools

import numpy as np
import pytest

from jaxlab.dbsp.bits import in_parts, pack, sum_of_heads, tables


# fewer columns than a word, whole words, a rest, more than a line of words; rows that do not fill
# sixteen, that just do, and many
@pytest.mark.parametrize(
    "shape", [(3, 5, 7), (4, 16, 64), (5, 300, 130), (1, 2, 193), (2, 40, 257), (3, 33, 600)]
)
def test_bits_and_sums_are_those_of_the_mask(shape):
    rng = np.random.default_rng(sum(shape))
    mask = rng.random(shape) < rng.random((shape[0], 1, shape[2]))
    mask[0, :, -1] = True  # a column that is in every row
    bits = pack(mask)
    unpacked = np.unpackbits(bits.words.view(np.uint8), axis=2, bitorder="little")
    np.testing.assert_array_equal(unpacked[:, :-1, : shape[2]], mask)
    assert not unpacked[:, -1].any()
    assert not unpacked[:, :, shape[2] :].any()
    np.testing.assert_array_equal(bits.rows, mask.sum(2))
    np.testing.assert_array_equal(bits.columns, mask.sum((0, 1)))


@pytest.mark.parametrize(("q_blocks", "kv_blocks"), [(75, 90), (150, 520)])
def test_tables_count_every_tile_of_every_placement(q_blocks, kv_blocks):
    rng = np.random.default_rng(q_blocks)
    mask = rng.random((6, q_blocks, kv_blocks)) < rng.random((6, 1, kv_blocks))
    placements, degrees = [], [(2, 4), (3, 1), (1, 5)]
    for groups, ring in degrees:
        of_head = rng.integers(-1, groups, 6)  # -1 takes no part
        shards = rng.integers(0, ring, q_blocks), rng.integers(0, ring, kv_blocks)
        placements.append((of_head, *shards))
    placements[0][1][:] = 2  # all rows on one shard, none on the others
    for (group, q, kv), (groups, ring), found in zip(
        placements, degrees, tables(pack(mask), placements, degrees), strict=True
    ):
        for u, i, j in np.ndindex(groups, ring, ring):
            assert found[u, i, j] == mask[group == u][:, q == i][:, :, kv == j].sum()


@pytest.mark.parametrize("size", [1, 2, 3, 40])
def test_parts_cover_a_range_in_order(size):
    parts = in_parts(lambda start, stop: list(range(start, stop)), size)
    assert list(itertools.chain(*parts)) == list(range(size))
    assert all(parts)
    with pytest.raises(ZeroDivisionError):
        in_parts(lambda start, stop: 1 // start, size)


@pytest.mark.parametrize("heads", [3, 300])
def test_heads_add_up_both_ways(heads):
    rng = np.random.default_rng(2)
    mask = rng.random((heads, 70, 9)) < 0.7
    mask[:, 0, 0] = True
    chosen = np.delete(np.arange(heads), 1)
    work, turned = sum_of_heads(mask, chosen, 72, 12)
    expected = np.pad(mask[chosen].sum(0), ((0, 2), (0, 3)))
    np.testing.assert_array_equal(work, expected)
    np.testing.assert_array_equal(turned, expected.T)
