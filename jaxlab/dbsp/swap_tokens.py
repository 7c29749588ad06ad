"""Annealed swaps of two token blocks under many masks, compiled by numba: imported where it runs.

A token block's query row and key column move together, so two rows and two columns of every work
table change. Tables are kept by rank and ring step, ``S[i, s] = T[i, (i + s) mod R]``, so that the
maxima of all steps are found in one sweep over rows; a swap is judged in O(R^2).
"""

import typing

import numba
import numpy as np

from jaxlab.dbsp import draws

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
def swap_tokens(work, turned, weight, shard, ring, stretch, evaluations, seed):
    """Anneals one placement for all of ``work`` ``[masks, n, n]``; ``turned`` is its transpose.

    Only blocks of the same ``stretch`` of so many consecutive ones are swapped. Changes ``shard``
    to the best found and returns its critical path over perfect time, a mean with ``weight``
    ``[masks]``, which adds up to 1.
    """
    state = draws.seeded(seed)
    patience = draws.patience_table()
    masks, n = work.shape[0], work.shape[1]
    rows = np.empty((masks, ring, n), np.int32)
    columns = np.empty((masks, ring, n), np.int32)
    tables = np.zeros((masks, ring, ring), np.int32)
    for m in range(masks):
        of_rows = draws.by_shard(turned[m], shard, ring)
        of_columns = draws.by_shard(work[m], shard, ring)
        for j in range(ring):
            draws.copy_into(rows[m, j], of_rows[j])
            draws.copy_into(columns[m, j], of_columns[j])
            for q in range(n):
                tables[m, shard[q], (j - shard[q]) % ring] += of_rows[j, q]
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
    energy = draws.dot(critical, scale)
    best, best_shard = energy, shard.copy()
    temperature = draws.HOTTEST
    stage = max(evaluations // draws.STAGES, 1)
    if ring == 1:
        return best
    for evaluation in range(evaluations):
        if evaluation % stage == stage - 1:
            temperature *= draws.COOLING
        first = draws.below(state, n)
        start = first - first % stretch
        second = start + draws.below(state, min(stretch, n - start))
        a, b = shard[first], shard[second]
        if a == b:
            continue
        limit = temperature * patience[draws.below(state, 1024)]
        a_to_b = (b - a) % ring
        cost = 0.0
        for m in range(masks):
            table = new_tables[m]
            for i in range(ring):
                draws.copy_into(table[i], tables[m, i])
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
        draws.copy_into(critical, new_critical)
        draws.copy_into(spread, new_spread)
        for m in range(masks):
            _exchange(rows[m, a], rows[m, b], turned[m, second], turned[m, first])
            _exchange(columns[m, a], columns[m, b], work[m, second], work[m, first])
        shard[first], shard[second] = b, a
        energy = draws.dot(critical, scale)
        if energy < best - 1e-12:
            best = energy
            draws.copy_into(best_shard, shard)
    draws.copy_into(shard, best_shard)
    return best
