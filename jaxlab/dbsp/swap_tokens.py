"""Annealed swaps of two token blocks under many masks, compiled by numba: imported where it runs.

A token block's query row and key column move together, so two rows and two columns of every work
table change. Tables are kept by rank and ring step, ``S[i, s] = T[i, (i + s) mod R]``, so that the
maxima of all steps are found in one sweep over rows; a swap is judged in O(R^2).
"""

import typing

import numba
import numpy as np

from jaxlab.dbsp.draws import (
    COOLING,
    HOTTEST,
    STAGES,
    below,
    copy_into,
    dot,
    patience_table,
    seeded,
)

SPREAD = 1.0
"""How much the deviation of a step's tiles counts beside their maximum, to the end: homes that are
fitted to maxima alone fit other masks less well."""


@numba.njit(cache=True, error_model="numpy")
@typing.no_type_check
def _scores(table, most, total, square):
    """Critical path and spread of one table; the rest is room to work in."""
    ring = table.shape[0]
    for s in range(ring):
        most[s], total[s], square[s] = 0, 0, 0.0
    for i in range(ring):
        for s in range(ring):
            value = table[i, s]
            most[s] = max(most[s], value)
            total[s] += value
            square[s] += float(value) * float(value)
    critical, spread = 0.0, 0.0
    for s in range(ring):
        critical += most[s]
        mean = total[s] / ring
        spread += np.sqrt(max(square[s] / ring - mean * mean, 0.0))
    return critical, spread


@numba.njit(cache=True)
@typing.no_type_check
def _exchange(gaining, losing, arriving, leaving):
    """What two shards hold once one block has arrived at the first for another that has left."""
    for block in range(gaining.size):
        change = arriving[block] - leaving[block]
        gaining[block] += change
        losing[block] -= change


@numba.njit(cache=True, nogil=True, error_model="numpy")
@typing.no_type_check
def swap_tokens(work, turned, weight, shard, ring, evaluations, seed):
    """Anneals one placement for all of ``work`` ``[masks, n, n]``; ``turned`` is its transpose.

    Changes ``shard`` to the best found and returns its critical path over perfect time, a mean with
    ``weight`` ``[masks]``, which adds up to 1.
    """
    state = seeded(seed)
    patience = patience_table()
    masks, n = work.shape[0], work.shape[1]
    rows = np.zeros((masks, ring, n), np.int32)
    columns = np.zeros((masks, ring, n), np.int32)
    tables = np.zeros((masks, ring, ring), np.int32)
    for m in range(masks):
        for q in range(n):
            for k in range(n):
                value = work[m, q, k]
                rows[m, shard[k], q] += value
                columns[m, shard[q], k] += value
                tables[m, shard[q], (shard[k] - shard[q]) % ring] += value
    most, total = np.zeros(ring, np.int32), np.zeros(ring, np.int64)
    square = np.zeros(ring)
    scale = np.zeros(masks)
    critical, spread = np.zeros(masks), np.zeros(masks)
    new_critical, new_spread = np.zeros(masks), np.zeros(masks)
    new_tables = np.empty_like(tables)
    for m in range(masks):
        critical[m], spread[m] = _scores(tables[m], most, total, square)
        all_work = 0
        for s in range(ring):
            all_work += total[s]
        if all_work > 0:
            scale[m] = weight[m] * ring / all_work
    members = np.empty((ring, n // ring), np.int64)
    filled = np.zeros(ring, np.int64)
    for block in range(n):
        members[shard[block], filled[shard[block]]] = block
        filled[shard[block]] += 1
    energy = dot(critical, scale)
    best, best_shard = energy, shard.copy()
    temperature = HOTTEST
    stage = max(evaluations // STAGES, 1)
    if ring == 1:
        return best
    for evaluation in range(evaluations):
        if evaluation % stage == stage - 1:
            temperature *= COOLING
        a, b = below(state, ring), below(state, ring - 1)
        b += np.int64(b >= a)
        slot_a, slot_b = below(state, n // ring), below(state, n // ring)
        first, second = members[a, slot_a], members[b, slot_b]
        limit = temperature * patience[below(state, 1024)]
        a_to_b = (b - a) % ring
        cost = 0.0
        for m in range(masks):
            table = new_tables[m]
            for i in range(ring):
                copy_into(table[i], tables[m, i])
            row_a, row_b = (ring - a) % ring, (ring - b) % ring
            column_a, column_b = a, b
            for other in range(ring):
                change = rows[m, other, second] - rows[m, other, first]
                table[a, row_a] += change
                table[b, row_b] -= change
                change = columns[m, other, second] - columns[m, other, first]
                table[other, column_a] += change
                table[other, column_b] -= change
                row_a = row_a + 1 if row_a + 1 < ring else 0
                row_b = row_b + 1 if row_b + 1 < ring else 0
                column_a = column_a - 1 if column_a > 0 else ring - 1
                column_b = column_b - 1 if column_b > 0 else ring - 1
            corner = (
                work[m, second, second]
                - work[m, second, first]
                - work[m, first, second]
                + work[m, first, first]
            )
            table[a, 0] += corner
            table[b, 0] += corner
            table[a, a_to_b] -= corner
            table[b, ring - a_to_b] -= corner
            new_critical[m], new_spread[m] = _scores(table, most, total, square)
            cost += scale[m] * (
                new_critical[m] - critical[m] + SPREAD * (new_spread[m] - spread[m])
            )
        if cost >= limit:
            continue
        tables, new_tables = new_tables, tables
        copy_into(critical, new_critical)
        copy_into(spread, new_spread)
        for m in range(masks):
            _exchange(rows[m, a], rows[m, b], turned[m, second], turned[m, first])
            _exchange(columns[m, a], columns[m, b], work[m, second], work[m, first])
        shard[first], shard[second] = b, a
        members[a, slot_a], members[b, slot_b] = second, first
        energy = dot(critical, scale)
        if energy < best - 1e-12:
            best = energy
            copy_into(best_shard, shard)
    copy_into(shard, best_shard)
    return best
