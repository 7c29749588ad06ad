"""Bit-packed masks: work tables of many plans by counting bits, compiled by numba.

A bool mask of 40 heads and 1184 x 1184 blocks is 56 MB; a planner that reads it once for every plan
is bound by memory. Packed once, it is 7 MB, and a tile's work is the number of bits of ``row &
shard``. Rows of a shard, of all heads of a group, are first added up in bits, sixteen at a time
(carry-save adders): only the sums' few rows are counted under each shard's mask. Imported only
where it runs.
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
_AHEAD = 1024  # bytes: what is streamed once is fetched early and past the larger caches
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
    order = np.minimum(np.arange(_longest(q_blocks)), q_blocks)  # filled up with the empty row

    def part(start: int, stop: int) -> Int64[np.ndarray, " kv_blocks"]:
        columns = np.zeros(kv_blocks, np.int64)
        (sums,) = _no_sums((stop - start) * q_blocks, words.shape[2])
        _pack(ones, words, rows, columns, order, sums, start, stop)
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
    heads, q_blocks = bits.rows.shape
    counted = [number for number, (_, ring) in enumerate(degrees) if ring > 1]  # others: all rows
    rings = [degrees[number][1] for number in counted]
    lists = np.cumsum([0, *rings])  # a list of rows for every shard of every placement
    slots = np.cumsum([0, *(groups * ring for groups, ring in degrees if ring > 1)])
    slot = np.full((heads, lists[-1]), -1)
    rows = np.full((lists[-1], _longest(q_blocks)), q_blocks)  # filled up with the empty row
    sizes = np.zeros(lists[-1], np.int64)
    masks = np.zeros((lists[-1], bits.words.shape[2]), np.uint64)
    for of, number in enumerate(counted):
        group, q_shard, kv_shard = (np.asarray(part) for part in placements[number])
        taken, some = group >= 0, slice(*lists[of : of + 2])
        slot[taken, some] = slots[of] + group[taken, None] * rings[of] + np.arange(rings[of])
        _list_rows(q_shard, rows[some], sizes[some])
        _set_bits(kv_shard, masks[some])

    def part(start: int, stop: int) -> Int64[np.ndarray, "slots ring"]:
        sums = _no_sums((stop - start) * q_blocks, masks.shape[1], int(slots[-1]))
        _add_lists(bits.words, slot, rows, sizes, sums, start, stop)
        counts = np.zeros((slots[-1], max(rings)), np.int64)
        _count_sums(sums, masks, slots, lists, counts)
        return counts

    found = [np.zeros((groups, ring, ring), np.int64) for groups, ring in degrees]
    if counted:
        counts = np.sum(in_parts(part, heads), axis=0)
        for of, number in enumerate(counted):
            table = found[number]
            table[:] = counts[slots[of] : slots[of + 1], : rings[of]].reshape(table.shape)
    totals = bits.rows.sum(1)
    for number in set(range(len(degrees))).difference(counted):
        group = np.asarray(placements[number][0])
        np.add.at(found[number][:, 0, 0], group[group >= 0], totals[group >= 0])
    return found


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


def _longest(rows: int) -> int:
    return -(-rows // _ROWS) * _ROWS


def _no_sums(rows: int, words: int, slots: int = 1) -> UInt64[np.ndarray, "slots powers words"]:
    """Sums in bits that can hold so many rows: a row for every power of two, one for the carry."""
    return np.zeros((slots, max(rows.bit_length(), _POWERS) + 1, words), np.uint64)


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
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        ahead = builder.gep(start, [ir.Constant(ir.IntType(64), _AHEAD)])
        read, passing, data = (ir.Constant(number, of) for of in (0, 0, 1))
        builder.call(prefetch, [builder.bitcast(ahead, byte), read, passing, data])
        loaded = builder.load(builder.bitcast(start, bytes_.as_pointer()), align=1)
        bits = builder.trunc(loaded, ir.VectorType(ir.IntType(1), _WORD))
        return builder.bitcast(bits, ir.IntType(_WORD))

    return numba.types.uint64(ones, numba.types.intp), emit


@numba.njit(cache=True, nogil=True)
@typing.no_type_check
def _pack(ones, words, rows, columns, order, sums, start, stop):
    q_blocks, kv_blocks = rows.shape[1], columns.size
    whole, rest = kv_blocks // _WORD, kv_blocks % _WORD
    for head in range(start, stop):
        words[head, q_blocks] = 0
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
            if i % _ROWS == _ROWS - 1 or i == q_blocks - 1:
                _add(words[head], order, i - i % _ROWS, sums)
    for power in range(sums.shape[0] - 1):
        for k in range(kv_blocks):
            bit = sums[power, k // _WORD] >> np.uint64(k % _WORD) & np.uint64(1)
            columns[k] += np.int64(bit) << power


@intrinsic
@typing.no_type_check
def _add_rows(context, words, rows, sums, row, word):
    """Adds a line of sixteen rows of one head to sums in bits: ones, twos, fours, eights.

    Changes those rows of ``sums`` and leaves in its last which places have sixteen more. Written in
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

        last = builder.sub(builder.extract_value(sums.shape, 0), number(1))
        first = builder.gep(rows.data, [arguments[3]])
        levels = [load(sums, number(power)) for power in range(_POWERS)]

        def added(power, at):  # twice 2^power rows; what they carry
            if power < 0:
                return load(words, builder.load(builder.gep(first, [number(at)])))
            one, two = added(power - 1, at), added(power - 1, at + (1 << power))
            levels[power], carry = add(levels[power], one, two)
            return carry

        carry = added(_POWERS - 1, 0)
        for power, level in enumerate(levels):
            builder.store(level, place(sums, number(power)), align=_WORD // 8)
        builder.store(carry, place(sums, last), align=_WORD // 8)
        return context.get_dummy_value()

    integer = numba.types.intp
    return numba.types.void(words, rows, sums, integer, integer), emit


@numba.njit(cache=True, nogil=True)
@typing.no_type_check
def _add(words, rows, row, sums):
    """Adds sixteen rows of one head to sums in bits, whose last row is used up."""
    carry = sums[-1]
    for word in range(0, words.shape[1], _LINE):
        _add_rows(words, rows, sums, row, word)
    for power in range(_POWERS, sums.shape[0] - 1):
        level = sums[power]
        left = np.uint64(0)
        for w in range(words.shape[1]):
            both = level[w] & carry[w]
            level[w] ^= carry[w]
            carry[w] = both
            left |= both
        if left == 0:
            break


@numba.njit(cache=True)
@typing.no_type_check
def _list_rows(shards, rows, sizes):
    for row in range(shards.size):
        rows[shards[row], sizes[shards[row]]] = row
        sizes[shards[row]] += 1


@numba.njit(cache=True)
@typing.no_type_check
def _set_bits(shards, masks):
    for k in range(shards.size):
        masks[shards[k], k // _WORD] |= np.uint64(1) << np.uint64(k % _WORD)


@numba.njit(cache=True, nogil=True)
@typing.no_type_check
def _add_lists(words, slot, rows, sizes, sums, start, stop):
    for head in range(start, stop):
        for of in range(slot.shape[1]):
            if slot[head, of] >= 0:
                for row in range(0, sizes[of], _ROWS):
                    _add(words[head], rows[of], row, sums[slot[head, of]])


@numba.njit(cache=True, nogil=True)
@typing.no_type_check
def _count_sums(sums, masks, slots, lists, counts):
    for of in range(slots.size - 1):
        for at in range(slots[of], slots[of + 1]):
            for j in range(lists[of + 1] - lists[of]):
                mask = masks[lists[of] + j]
                for power in range(sums.shape[1] - 1):
                    found = np.uint64(0)
                    for w in range(mask.size):
                        found += _count(sums[at, power, w] & mask[w])
                    counts[at, j] += np.int64(found) << power


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
