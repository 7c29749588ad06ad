"""Annealed swaps of two heads, compiled by numba: imported only where it runs."""

import typing

import numba
import numpy as np

from jaxlab.dbsp import draws

SPREAD = 1.0


@numba.njit(cache=True)
@typing.no_type_check
def _group_critical(table):
    ring = table.shape[0]
    total = 0.0
    for s in range(ring):
        top = 0.0
        for i in range(ring):
            top = max(top, table[i, (i + s) % ring])
        total += top
    return total


@numba.njit(cache=True)
@typing.no_type_check
def swap_heads(work, groups, trials, seed):
    """Anneals which group holds which heads; changes ``groups`` to the best found.

    Energy: the heaviest group's total and the slowest group's critical path, each over its perfect
    value, plus the spread of the totals. With a ring of 1 the two are the same, and the search ends
    when the heaviest group can get no lighter.
    """
    state = draws.seeded(seed)
    patience = draws.patience_table()
    count, room = groups.shape
    ring = work.shape[1]
    loads = np.zeros(count)
    tables = np.zeros((count, ring, ring))
    critical = np.zeros(count)
    head_loads = np.zeros(groups.size)
    for head in range(groups.size):
        for i in range(ring):
            for j in range(ring):
                head_loads[head] += work[head, i, j]
    total = 0.0
    for group in range(count):
        for slot in range(room):
            head = groups[group, slot]
            loads[group] += head_loads[head]
            for i in range(ring):
                for j in range(ring):
                    tables[group, i, j] += work[head, i, j]
        critical[group] = _group_critical(tables[group])
        total += loads[group]
    mean = total / count
    perfect = mean / ring
    floor = np.ceil(mean)
    one = np.empty((ring, ring))
    two = np.empty((ring, ring))
    spread, heaviest, slowest = 0.0, 0, 0.0
    for group in range(count):
        spread += (loads[group] - mean) ** 2
        slowest = max(slowest, critical[group])
        if loads[group] > loads[heaviest]:
            heaviest = group
    spread = np.sqrt(spread / count)
    value = loads[heaviest] / mean + (slowest / perfect if ring > 1 else 0.0)
    best, best_groups = value, np.empty_like(groups)
    for group in range(count):
        draws.copy_into(best_groups[group], groups[group])
    temperature = draws.HOTTEST
    stage = max(trials // draws.STAGES, 1)
    for trial in range(trials):
        if ring == 1 and loads[heaviest] <= floor:
            break
        if trial % stage == stage - 1:
            temperature *= draws.COOLING
        a = heaviest if draws.next_draw(state) & np.uint64(1) else draws.below(state, count)
        b = draws.below(state, count)
        if a == b:
            continue
        slot_a, slot_b = draws.below(state, room), draws.below(state, room)
        first, second = groups[a, slot_a], groups[b, slot_b]
        gain = head_loads[second] - head_loads[first]
        new_a, new_b = loads[a] + gain, loads[b] - gain
        top = max(new_a, new_b)
        square = 0.0
        for group in range(count):
            load = new_a if group == a else new_b if group == b else loads[group]
            top = max(top, load)
            square += (load - mean) ** 2
        new_spread = np.sqrt(square / count)
        new_value = top / mean
        critical_a, critical_b = new_a, new_b
        if ring > 1:
            for i in range(ring):
                for j in range(ring):
                    change = work[second, i, j] - work[first, i, j]
                    one[i, j] = tables[a, i, j] + change
                    two[i, j] = tables[b, i, j] - change
            critical_a, critical_b = _group_critical(one), _group_critical(two)
            slowest = max(critical_a, critical_b)
            for group in range(count):
                if group != a and group != b:
                    slowest = max(slowest, critical[group])
            new_value += slowest / perfect
        cost = new_value - value + SPREAD * (new_spread - spread) / mean
        if cost >= temperature * patience[draws.below(state, 1024)]:
            continue
        groups[a, slot_a], groups[b, slot_b] = second, first
        loads[a], loads[b] = new_a, new_b
        critical[a], critical[b] = critical_a, critical_b
        heaviest = 0
        for group in range(count):
            if loads[group] > loads[heaviest]:
                heaviest = group
        for i in range(ring):
            draws.copy_into(tables[a, i], one[i])
            draws.copy_into(tables[b, i], two[i])
        value, spread = new_value, new_spread
        if value < best - 1e-12:
            best = value
            for group in range(count):
                draws.copy_into(best_groups[group], groups[group])
    for group in range(count):
        draws.copy_into(groups[group], best_groups[group])
