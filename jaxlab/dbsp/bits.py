"""Bit-packed masks: work tables of many plans by counting bits, compiled by numba.

A bool mask of 40 heads and 1184 x 1184 blocks is 56 MB; a planner that reads it once for every plan
is bound by memory. Packed once, it is 7 MB, and a tile's work is the number of bits of ``row &
shard``. Imported only where it runs.
"""

import concurrent.futures
import dataclasses
import itertools
import os
import typing
from collections.abc import Callable, Sequence

import numba
import numpy as np
from jaxtyping import Bool, Int, Int64, UInt64
from numba.extending import intrinsic

_WORD = 64
_LINE = 4  # words: rows fill whole vectors


@typing.no_type_check
@dataclasses.dataclass(frozen=True)
class Bits:
    """A mask in bits, with the counts that a greedy planner needs.

    Attributes:
      words: uint64 ``[heads, q_blocks, words]``, key block ``k`` at bit ``k % 64`` of its word.
      rows: int64 ``[heads, q_blocks]``, active blocks of every row.
      columns: int64 ``[kv_blocks]``, active blocks of every column, over all heads.
    """

    words: UInt64[np.ndarray, "heads q_blocks words"]
    rows: Int64[np.ndarray, "heads q_blocks"]
    columns: Int64[np.ndarray, " kv_blocks"]

    def of_heads(self, members: Bool[np.ndarray, " heads"]) -> "Bits":
        """Some heads alone; ``columns`` stays that of all."""
        return Bits(self.words[members], self.rows[members], self.columns)


def pack(blocks: Bool[np.ndarray, "heads q_blocks kv_blocks"]) -> Bits:
    """Packs a mask and counts its rows and columns, on all cores."""
    heads, q_blocks, kv_blocks = blocks.shape
    line = _WORD * _LINE
    words = np.zeros((heads, q_blocks, -(-kv_blocks // line) * _LINE), np.uint64)
    rows = np.zeros((heads, q_blocks), np.int64)
    packed = words.view(np.uint8)
    ones = np.ascontiguousarray(blocks).view(np.uint8)

    def part(start: int, stop: int) -> Int64[np.ndarray, " kv_blocks"]:
        columns = np.zeros(kv_blocks, np.int64)
        _pack(ones, packed, words, rows, columns, start, stop)
        return columns

    return Bits(words, rows, np.sum(in_parts(part, heads), axis=0))


def tables(
    bits: Bits,
    placements: Sequence[
        tuple[
            Int[np.ndarray, " heads"], Int[np.ndarray, " q_blocks"], Int[np.ndarray, " kv_blocks"]
        ]
    ],
    degrees: Sequence[tuple[int, int]],
) -> list[Int64[np.ndarray, "groups ring ring"]]:
    """Work tables of several placements in one pass over the bits, on all cores.

    Args:
      bits: the packed mask.
      placements: for each, the group of every head ``[heads]``, the shard of every query block
        ``[q_blocks]`` and the shard of every key block ``[kv_blocks]``.
      degrees: for each, the number of groups and of shards.

    Returns:
      For each, int64 ``[groups, ring, ring]``.
    """
    heads, _, words = bits.words.shape
    jobs = []
    for (group, q_shard, kv_shard), (_, ring) in zip(placements, degrees, strict=True):
        inside = np.zeros((ring, words * _WORD), bool)
        inside[kv_shard, np.arange(kv_shard.size)] = True
        masks = np.packbits(inside, axis=1, bitorder="little").view("<u8").astype(np.uint64)
        rows = np.argsort(q_shard, kind="stable")
        starts = np.searchsorted(q_shard[rows], np.arange(ring + 1))
        jobs.append((np.asarray(group, np.int64), rows, starts, masks))

    def part(start: int, stop: int) -> list[Int64[np.ndarray, "groups ring ring"]]:
        found = []
        for (group, rows, starts, masks), (groups, ring) in zip(jobs, degrees, strict=True):
            table = np.zeros((groups, ring, ring), np.int64)
            _tables(bits.words, bits.rows, group, rows, starts, masks, table, start, stop)
            found.append(table)
        return found

    parts = in_parts(part, heads)
    return [np.sum(each, axis=0) for each in zip(*parts, strict=True)]


def sum_of_heads(
    blocks: Bool[np.ndarray, "all_heads q_blocks kv_blocks"],
    heads: Int[np.ndarray, " heads"],
    q_blocks: int,
    kv_blocks: int,
) -> np.ndarray:
    """int32 ``[q_blocks, kv_blocks]``: some heads' masks summed, padded by zeros."""
    work = np.zeros((q_blocks, kv_blocks), np.int32)
    ones = np.ascontiguousarray(blocks).view(np.uint8)
    chosen = np.asarray(heads, np.int64)
    in_parts(lambda start, stop: _sum(ones, chosen, work, start, stop), blocks.shape[1])
    return work


def in_parts[T](work: Callable[[int, int], T], size: int) -> list[T]:
    """Calls ``work(start, stop)`` on consecutive parts of a range, one part a core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = max(1, min(cores or 1, size))
    bounds = [size * part // parts for part in range(parts + 1)]
    if parts == 1:
        return [work(0, size)]
    with concurrent.futures.ThreadPoolExecutor(parts - 1) as pool:
        others = [pool.submit(work, *pair) for pair in itertools.pairwise(bounds[1:])]
        return [work(*bounds[:2]), *(other.result() for other in others)]


@intrinsic
@typing.no_type_check
def _count(context, word):
    def emit(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return numba.types.uint64(numba.types.uint64), emit


@numba.njit(cache=True, nogil=True)
@typing.no_type_check
def _pack(ones, packed, words, rows, columns, start, stop):
    _, q_blocks, kv_blocks = ones.shape
    width = kv_blocks // 8
    sums = np.zeros(width, np.uint64)
    for head in range(start, stop):
        for first in range(0, q_blocks, 255):  # a byte of a sum holds 255 rows
            sums[:] = 0
            for i in range(first, min(first + 255, q_blocks)):
                row = ones[head, i]
                for w in range(width):
                    eight = np.uint64(row[8 * w])
                    for byte in range(1, 8):  # compiled to one load, at any alignment
                        eight |= np.uint64(row[8 * w + byte]) << np.uint64(8 * byte)
                    sums[w] += eight
                    # the product gathers the lowest bits of the eight bytes in the highest byte
                    packed[head, i, w] = (eight * np.uint64(0x0102040810204080)) >> np.uint64(56)
                for k in range(8 * width, kv_blocks):
                    packed[head, i, width] |= np.uint8(row[k] << (k - 8 * width))
                    columns[k] += row[k]
            for w in range(width):
                for byte in range(8):
                    columns[8 * w + byte] += np.int64(
                        (sums[w] >> np.uint64(8 * byte)) & np.uint64(255)
                    )
        for i in range(q_blocks):
            total = np.uint64(0)
            for w in range(words.shape[2]):
                total += _count(words[head, i, w])
            rows[head, i] = total


@numba.njit(cache=True, nogil=True)
@typing.no_type_check
def _tables(words, row_counts, group, rows, starts, masks, table, start, stop):
    ring, width = masks.shape
    counts = np.empty((ring, width), np.uint64)
    for head in range(start, stop):
        bits = words[head]
        for i in range(ring):
            counts[:] = 0
            here = rows[starts[i] : starts[i + 1]]
            total = 0
            for r in here:
                total += row_counts[head, r]
            pairs = here.size - here.size % 2
            for r in range(0, pairs, 2):
                one, two = bits[here[r]], bits[here[r + 1]]
                for j in range(ring - 1):
                    for w in range(width):
                        mask = masks[j, w]
                        counts[j, w] += _count(one[w] & mask) + _count(two[w] & mask)
            for r in here[pairs:]:
                for j in range(ring - 1):
                    for w in range(width):
                        counts[j, w] += _count(bits[r, w] & masks[j, w])
            out = table[group[head], i]
            for j in range(ring - 1):
                inside = np.int64(counts[j].sum())
                out[j] += inside
                total -= inside
            out[ring - 1] += total


@numba.njit(cache=True, nogil=True)
@typing.no_type_check
def _sum(ones, heads, work, start, stop):
    sums = np.empty(ones.shape[2], np.uint8)
    for i in range(start, stop):
        for first in range(0, heads.size, 255):  # a byte of a sum holds 255 heads
            sums[:] = 0
            for head in heads[first : first + 255]:
                row = ones[head, i]
                for k in range(sums.size):
                    sums[k] += row[k]
            for k in range(sums.size):
                work[i, k] += sums[k]
