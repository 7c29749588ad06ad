"""Bit-packed masks: work tables of many plans by counting bits, compiled by numba.

A bool mask of 40 heads and 1184 x 1184 blocks is 56 MB; a planner that reads it once for every plan
is bound by memory. Packed once, it is 7 MB, and a tile's work is the number of bits of ``row &
shard``. Rows of a shard are first added up in bits, sixteen at a time (carry-save adders), so that
only every sixteenth row is counted under each shard's mask. Imported only where it runs.
"""

import concurrent.futures
import dataclasses
import functools
import itertools
import os
import typing
from collections.abc import Callable, Sequence

import numba
import numpy as np
from jaxtyping import Bool, Int, Int64, UInt64
from llvmlite import ir
from numba.extending import intrinsic

_WORD = 64
_LINE = 4  # words that are added at once: rows fill whole lines
_POWERS = 4
_ROWS = 1 << _POWERS  # added up in bits before they are counted
_CHUNK = 64  # rows: their sums stay in a core's cache while all heads add to them


@typing.no_type_check
@dataclasses.dataclass(frozen=True)
class Bits:
    """A mask in bits, with the counts that a greedy planner needs.

    Attributes:
      words: uint64 ``[heads, q_blocks + 1, words]``, key block ``k`` at bit ``k % 64`` of its
        word; the last row is empty.
      rows: int64 ``[heads, q_blocks]``, active blocks of every row.
      columns: int64 ``[kv_blocks]``, active blocks of every column, over all heads.
    """

    words: UInt64[np.ndarray, "heads rows words"]
    rows: Int64[np.ndarray, "heads q_blocks"]
    columns: Int64[np.ndarray, " kv_blocks"]


def pack(blocks: Bool[np.ndarray, "heads q_blocks kv_blocks"]) -> Bits:
    """Packs a mask and counts its rows and columns, on all cores."""
    heads, q_blocks, kv_blocks = blocks.shape
    words = np.empty((heads, q_blocks + 1, -(-kv_blocks // (_WORD * _LINE)) * _LINE), np.uint64)
    rows = np.empty((heads, q_blocks), np.int64)
    ones = np.ascontiguousarray(blocks).view(np.uint8).reshape(-1)

    def part(start: int, stop: int) -> Int64[np.ndarray, " kv_blocks"]:
        columns = np.zeros(kv_blocks, np.int64)
        _pack(ones, words, rows, columns, start, stop)
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
      placements: for each, the group of every head ``[heads]`` (-1 leaves it out), the shard of
        every query block ``[q_blocks]`` and the shard of every key block ``[kv_blocks]``.
      degrees: for each, the number of groups and of shards.

    Returns:
      For each, int64 ``[groups, ring, ring]``.
    """
    heads, _, words = bits.words.shape
    whole = [np.zeros((groups, ring, ring), np.int64) for groups, ring in degrees]
    jobs = []
    for (group, q_shard, kv_shard), table in zip(placements, whole, strict=True):
        ring = table.shape[1]
        if ring == 1:  # nothing to count
            taken = group >= 0
            np.add.at(table[:, 0, 0], group[taken], bits.rows[taken].sum(1))
            continue
        inside = np.zeros((ring, words * _WORD), bool)
        inside[kv_shard, np.arange(kv_shard.size)] = True
        masks = np.packbits(inside, axis=1, bitorder="little").view("<u8").astype(np.uint64)
        of_shard = np.split(
            np.argsort(q_shard, kind="stable"), np.cumsum(np.bincount(q_shard, minlength=ring))[:-1]
        )
        most = -(-max(map(len, of_shard)) // _ROWS) * _ROWS
        rows = np.full((ring, most), q_shard.size)  # filled up with the empty row
        for into, shard in zip(rows, of_shard, strict=True):
            into[: shard.size] = shard
        jobs.append((np.asarray(group, np.int64), rows, masks, table))

    def part(start: int, stop: int) -> list[Int64[np.ndarray, "groups ring ring"]]:
        found = []
        for group, rows, masks, table in jobs:
            found.append(np.zeros_like(table))
            _tables(bits.words, bits.rows, group, rows, masks, found[-1], start, stop)
        return found

    for found in in_parts(part, heads) if jobs else []:
        for (*_, table), more in zip(jobs, found, strict=True):
            table += more
    return whole


def sum_of_heads(
    blocks: Bool[np.ndarray, "all_heads q_blocks kv_blocks"],
    heads: Int[np.ndarray, " heads"],
    q_blocks: int,
    kv_blocks: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Some heads' masks summed, padded by zeros: ``[q_blocks, kv_blocks]``, and its transpose.

    Both int16, so that more of them stays in a core's cache; int32 for more heads than that counts.
    """
    dtype = np.int16 if len(heads) < 2**15 else np.int32
    work, turned = np.zeros((q_blocks, kv_blocks), dtype), np.zeros((kv_blocks, q_blocks), dtype)
    ones = np.ascontiguousarray(blocks).view(np.uint8)
    chosen = np.asarray(heads, np.int64)
    in_parts(lambda start, stop: _sum(ones, chosen, work, turned, start, stop), blocks.shape[1])
    return work, turned


def in_parts[T](work: Callable[[int, int], T], size: int) -> list[T]:
    """Calls ``work(start, stop)`` on consecutive parts of a range, on all cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    parts = max(1, min(2 * cores, size)) if cores > 1 else 1
    bounds = list(itertools.pairwise(size * part // parts for part in range(parts + 1)))
    others = [_workers(cores - 1).submit(work, *pair) for pair in bounds[:-1]]
    found = [work(*bounds[-1])]
    for other, pair in zip(reversed(others), reversed(bounds[:-1]), strict=True):
        # what no worker has begun is done here: workers may be busy, or lost in a fork
        found.append(work(*pair) if other.cancel() else other.result())
    return found[::-1]


@functools.cache
def _workers(count: int) -> concurrent.futures.ThreadPoolExecutor:
    """Threads are kept: to start one takes as long as a tenth of a plan."""
    return concurrent.futures.ThreadPoolExecutor(count, "jaxlab-dbsp")


@intrinsic
@typing.no_type_check
def _count(context, word):
    def emit(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return numba.types.uint64(numba.types.uint64), emit


@intrinsic
@typing.no_type_check
def _lowest_bits(context, ones, at):
    """The lowest bits of 64 bytes from position ``at`` on, as one word."""

    def emit(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        bytes_ = ir.VectorType(ir.IntType(8), _WORD)
        start = builder.gep(array.data, [arguments[1]])
        loaded = builder.load(builder.bitcast(start, bytes_.as_pointer()), align=1)
        bits = builder.trunc(loaded, ir.VectorType(ir.IntType(1), _WORD))
        return builder.bitcast(bits, ir.IntType(_WORD))

    return numba.types.uint64(ones, numba.types.intp), emit


@numba.njit(cache=True, nogil=True)
@typing.no_type_check
def _pack(ones, words, rows, columns, start, stop):
    q_blocks, kv_blocks = rows.shape[1], columns.size
    whole, rest = kv_blocks // _WORD, kv_blocks % _WORD
    sums = np.zeros(kv_blocks, np.uint8)
    for head in range(start, stop):
        for i in range(q_blocks):
            at = (head * q_blocks + i) * kv_blocks
            into = words[head, i]
            total = np.uint64(0)
            for w in range(whole):
                word = _lowest_bits(ones, at + _WORD * w)
                into[w] = word
                total += _count(word)
            into[whole:] = 0
            if rest > 0:
                word = np.uint64(0)
                if whole > 0:  # the last 64 bytes, without those that are packed already
                    word = _lowest_bits(ones, at + kv_blocks - _WORD) >> np.uint64(_WORD - rest)
                else:
                    for k in range(rest):
                        word |= np.uint64(ones[at + k] & 1) << np.uint64(k)
                into[whole] = word
                total += _count(word)
            rows[head, i] = total
            if i % 4 == 3:  # four rows at once
                one, two = ones[at - 3 * kv_blocks :], ones[at - 2 * kv_blocks :]
                three, four = ones[at - kv_blocks :], ones[at:]
                for k in range(kv_blocks):
                    sums[k] += one[k] + two[k] + three[k] + four[k]
            elif i >= q_blocks - q_blocks % 4:
                for k in range(kv_blocks):
                    sums[k] += ones[at + k]
            if i % 252 == 251 or i == q_blocks - 1:  # a byte of a sum holds 255 rows
                for k in range(kv_blocks):
                    columns[k] += sums[k]
                    sums[k] = 0
        words[head, q_blocks] = 0


@intrinsic
@typing.no_type_check
def _add_rows(context, words, rows, sums, row, word):
    """Adds a line of sixteen rows of one head to sums in bits: ones, twos, fours, eights.

    Changes those rows of ``sums`` and leaves in the last which places have sixteen more. Written in
    vector instructions, which compilers do not find here: they cannot tell rows from sums.
    """

    def emit(context, builder, signature, arguments):
        words, rows, sums = (
            context.make_array(kind)(context, builder, value)
            for kind, value in zip(signature.args[:3], arguments[:3], strict=True)
        )
        line = ir.VectorType(ir.IntType(_WORD), _LINE)

        def place(array, row):
            width = builder.extract_value(array.shape, 1)
            at = builder.add(builder.mul(row, width), arguments[4])
            return builder.bitcast(builder.gep(array.data, [at]), line.as_pointer())

        def load(array, row):
            return builder.load(place(array, row), align=_WORD // 8)

        def add(one, two, three):
            either = builder.xor(one, two)
            carry = builder.or_(builder.and_(one, two), builder.and_(either, three))
            return builder.xor(either, three), carry

        def number(of):
            return ir.Constant(ir.IntType(_WORD), of)

        first = builder.gep(rows.data, [arguments[3]])
        levels = [load(sums, number(power)) for power in range(_POWERS)]

        def added(power, at):  # twice 2^power rows; what they carry
            if power < 0:
                return load(words, builder.load(builder.gep(first, [number(at)])))
            one, two = added(power - 1, at), added(power - 1, at + (1 << power))
            levels[power], carry = add(levels[power], one, two)
            return carry

        carry = added(_POWERS - 1, 0)
        for power, level in enumerate((*levels, carry)):
            builder.store(level, place(sums, number(power)), align=_WORD // 8)
        return context.get_dummy_value()

    integer = numba.types.intp
    return numba.types.void(words, rows, sums, integer, integer), emit


@numba.njit(cache=True, nogil=True)
@typing.no_type_check
def _count_masked(row, masks, power, counts):
    """Adds the bits that every mask but the last finds in a row, times a power of two."""
    for j in range(masks.shape[0] - 1):
        found = np.uint64(0)
        for w in range(masks.shape[1]):
            found += _count(row[w] & masks[j, w])
        counts[j] += np.int64(found) << power


@numba.njit(cache=True, nogil=True)
@typing.no_type_check
def _tables(words, of_rows, group, rows, masks, table, start, stop):
    ring, width = masks.shape
    sums = np.empty((_POWERS + 1, width), np.uint64)
    counts = np.empty(ring - 1, np.int64)
    for head in range(start, stop):
        if group[head] < 0:
            continue
        for i in range(ring):
            counts[:] = 0
            sums[:] = 0
            for row in range(0, rows.shape[1], _ROWS):
                for word in range(0, width, _LINE):
                    _add_rows(words[head], rows[i], sums, row, word)
                _count_masked(sums[_POWERS], masks, _POWERS, counts)
            for power in range(_POWERS):
                _count_masked(sums[power], masks, power, counts)
            last = 0  # the last mask finds what the others do not
            for row in rows[i]:
                if row < of_rows.shape[1]:
                    last += of_rows[head, row]
            into = table[group[head], i]
            for j in range(ring - 1):
                into[j] += counts[j]
                last -= counts[j]
            into[ring - 1] += last


@numba.njit(cache=True, nogil=True)
@typing.no_type_check
def _sum(ones, heads, work, turned, start, stop):
    kv_blocks = ones.shape[2]
    sums = np.empty((_CHUNK, kv_blocks), np.uint8)
    for first in range(start, stop, _CHUNK):
        rows = min(_CHUNK, stop - first)
        for some in range(0, heads.size, 252):  # a byte of a sum holds 255 heads
            sums[:] = 0
            here = heads[some : some + 252]
            fours = here.size - here.size % 4
            for at in range(0, fours, 4):  # four heads at once
                a, b, c, d = here[at], here[at + 1], here[at + 2], here[at + 3]
                for i in range(rows):
                    into, row = sums[i], first + i
                    one, two, three, four = ones[a, row], ones[b, row], ones[c, row], ones[d, row]
                    for k in range(kv_blocks):
                        into[k] += one[k] + two[k] + three[k] + four[k]
            for head in here[fours:]:
                for i in range(rows):
                    into, row = sums[i], ones[head, first + i]
                    for k in range(kv_blocks):
                        into[k] += row[k]
            for i in range(rows):
                into, row = work[first + i], sums[i]
                for k in range(kv_blocks):
                    into[k] += row[k]
            for k in range(kv_blocks):
                for i in range(rows):
                    turned[k, first + i] += sums[i, k]
