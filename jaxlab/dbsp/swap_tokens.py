"""Annealed swaps of two token blocks under many masks, compiled by numba: imported where it runs.

A token block's query row and key column move together, so two rows and two columns of every work
table change; tables are kept by diagonals as in ``swap_blocks``, and a swap is judged in O(R^2).
"""

import typing

import numba
import numpy as np

from jaxlab.dbsp.draws import COLDEST, HOTTEST, STAGES, below, patience_table, seeded

SPREAD = 1.0


@numba.njit(cache=True)
@typing.no_type_check
def _scores(diagonals):
    """Critical path and spread of one table."""
    ring = diagonals.shape[0]
    critical, spread = 0.0, 0.0
    for s in range(ring):
        top, total, square = 0.0, 0.0, 0.0
        for i in range(ring):
            value = diagonals[s, i]
            top = max(top, value)
            total += value
            square += value * value
        critical += top
        spread += np.sqrt(max(square / ring - (total / ring) ** 2, 0.0))
    return critical, spread


@numba.njit(cache=True, nogil=True)
@typing.no_type_check
def swap_tokens(work, turned, shard, ring, evaluations, seed):
    """Anneals one placement for all of ``work`` ``[masks, n, n]``; ``turned`` is its transpose.

    Changes ``shard`` to the best found and returns its mean critical path over perfect time.
    """
    state = seeded(seed)
    patience = patience_table()
    masks, n = work.shape[0], work.shape[1]
    rows = np.zeros((masks, n, ring))
    columns = np.zeros((masks, n, ring))
    tables = np.zeros((masks, ring, ring))
    for m in range(masks):
        for q in range(n):
            for k in range(n):
                value = work[m, q, k]
                rows[m, q, shard[k]] += value
                columns[m, k, shard[q]] += value
            for j in range(ring):
                tables[m, (j - shard[q]) % ring, shard[q]] += rows[m, q, j]
    scale = np.zeros(masks)
    critical = np.zeros(masks)
    spread = np.zeros(masks)
    for m in range(masks):
        total = tables[m].sum()
        if total > 0:
            scale[m] = ring / total / masks
        critical[m], spread[m] = _scores(tables[m])
    members = np.empty((ring, n // ring), np.int64)
    filled = np.zeros(ring, np.int64)
    for block in range(n):
        members[shard[block], filled[shard[block]]] = block
        filled[shard[block]] += 1
    energy = (critical * scale).sum()
    best, best_shard = energy, shard.copy()
    new_tables = np.empty_like(tables)
    new_critical = np.empty(masks)
    new_spread = np.empty(masks)
    temperature = HOTTEST
    cooling = (COLDEST / HOTTEST) ** (1.0 / STAGES)
    stage = max(evaluations // STAGES, 1)
    if ring == 1:
        return best
    for evaluation in range(evaluations):
        if evaluation % stage == stage - 1:
            temperature *= cooling
        a, b = below(state, ring), below(state, ring - 1)
        b += np.int64(b >= a)
        slot_a, slot_b = below(state, n // ring), below(state, n // ring)
        first, second = members[a, slot_a], members[b, slot_b]
        limit = temperature * patience[below(state, 1024)]
        cost = 0.0
        for m in range(masks):
            table = new_tables[m]
            table[:] = tables[m]
            for other in range(ring):
                s_a, s_b = (other - a) % ring, (other - b) % ring
                row = rows[m, second, other] - rows[m, first, other]
                table[s_a, a] += row
                table[s_b, b] -= row
                column = columns[m, second, other] - columns[m, first, other]
                table[(a - other) % ring, other] += column
                table[(b - other) % ring, other] -= column
            corner = (
                work[m, second, second]
                - work[m, second, first]
                - work[m, first, second]
                + work[m, first, first]
            )
            table[0, a] += corner
            table[0, b] += corner
            table[(b - a) % ring, a] -= corner
            table[(a - b) % ring, b] -= corner
            new_critical[m], new_spread[m] = _scores(table)
            cost += scale[m] * (
                new_critical[m] - critical[m] + SPREAD * (new_spread[m] - spread[m])
            )
        if cost >= limit:
            continue
        tables, new_tables = new_tables, tables
        critical[:] = new_critical
        spread[:] = new_spread
        for m in range(masks):
            for block in range(n):
                change = turned[m, second, block] - turned[m, first, block]
                rows[m, block, a] += change
                rows[m, block, b] -= change
                change = work[m, second, block] - work[m, first, block]
                columns[m, block, a] += change
                columns[m, block, b] -= change
        shard[first], shard[second] = b, a
        members[a, slot_a], members[b, slot_b] = second, first
        energy = (critical * scale).sum()
        if energy < best - 1e-12:
            best = energy
            best_shard[:] = shard
    shard[:] = best_shard
    return best
