"""Annealed swaps of two blocks of one group, compiled by numba: imported only where it runs.

Shards have equal size for good, so a placement changes by swapping two blocks of different shards.
The work table is kept by diagonals, ``D[s, i] = T[i, (i + s) mod R]``: one row is one ring step. A
swap of query blocks changes two rows of ``T`` and a swap of key blocks two columns; either way
exactly two entries of every diagonal, so that with the three largest entries of every diagonal at
hand a swap is judged in O(R). Accepting one costs O(blocks), on rows that lie in one piece.
"""

import typing

import numba
import numpy as np

from jaxlab.dbsp import draws

HOTTEST, COLDEST = 2e-3, 1e-5
COOLING = (COLDEST / HOTTEST) ** (1 / draws.STAGES)
ENOUGH = 3e-4
"""Above a perfect critical path, movement included: a search this near to it ends early."""

SPREAD, LAST_SPREAD = 3.0, 0.03
"""How much the deviation of a step's tiles counts beside their maximum, at first and at last: it
says which way to go where no swap changes a maximum, and must not decide in the end."""


@numba.njit(cache=True)
@typing.no_type_check
def _rank(diagonal, largest, where):
    """The three largest entries of one diagonal and where the first two stand."""
    largest[0] = largest[1] = largest[2] = -1
    where[0] = where[1] = -1
    for i in range(diagonal.size):
        value = diagonal[i]
        if value > largest[0]:
            largest[2], largest[1], largest[0] = largest[1], largest[0], value
            where[1], where[0] = where[0], i
        elif value > largest[1]:
            largest[2], largest[1] = largest[1], value
            where[1] = i
        elif value > largest[2]:
            largest[2] = value


@numba.njit(cache=True, nogil=True, error_model="numpy")
@typing.no_type_check
def swap_blocks(
    q_work,
    kv_work,
    q_shard,
    kv_shard,
    q_home,
    kv_home,
    ring,
    q_cap,
    kv_cap,
    movement,
    evaluations,
    seed,
):
    """Anneals both placements of one group; changes ``q_shard`` and ``kv_shard`` to the best found.

    ``q_work`` is the group's work ``[q_blocks, kv_blocks]``, ``kv_work`` its transpose, the shards
    give the start, the homes count what has moved; the caps bound that, in blocks, and must hold at
    the start. Energy: critical path over perfect time, plus ``movement`` times the moved fractions,
    plus the spread of every step, which fades as the temperature falls.
    """
    state = draws.seeded(seed)
    patience = draws.patience_table()
    sizes = (q_shard.size, kv_shard.size)
    caps = (q_cap, kv_cap)
    shards = (q_shard, kv_shard)
    homes = (q_home, kv_home)
    works = (q_work, kv_work)
    gains = (draws.by_shard(kv_work, kv_shard, ring), draws.by_shard(q_work, q_shard, ring))
    members = (
        np.empty((ring, sizes[0] // ring), np.int64),
        np.empty((ring, sizes[1] // ring), np.int64),
    )
    slots = (np.empty(sizes[0], np.int64), np.empty(sizes[1], np.int64))
    away = (np.empty(sizes[0], np.int64), np.empty(sizes[1], np.int64))
    away_slot = (np.full(sizes[0], -1, np.int64), np.full(sizes[1], -1, np.int64))
    moved = np.zeros(2, np.int64)
    for side in range(2):
        filled = np.zeros(ring, np.int64)
        for block in range(sizes[side]):
            shard = shards[side][block]
            members[side][shard, filled[shard]] = block
            slots[side][block] = filled[shard]
            filled[shard] += 1
            if shard != homes[side][block]:
                away[side][moved[side]] = block
                away_slot[side][block] = moved[side]
                moved[side] += 1

    table = np.zeros((ring, ring), np.int64)
    for block in range(sizes[0]):
        for j in range(ring):
            table[(j - q_shard[block]) % ring, q_shard[block]] += gains[0][j, block]
    total = 0
    for s in range(ring):
        for i in range(ring):
            total += table[s, i]
    best_q, best_kv = q_shard.copy(), kv_shard.copy()
    if total == 0 or ring == 1:
        return 1.0
    perfect = total / ring
    sums = np.zeros(ring, np.int64)
    squares = np.zeros(ring)
    change_a, change_b = np.zeros(ring, np.int64), np.zeros(ring, np.int64)
    largest = np.empty((ring, 3), np.int64)
    where = np.empty((ring, 2), np.int64)
    critical, spread = 0, 0.0
    for s in range(ring):
        for i in range(ring):
            sums[s] += table[s, i]
            squares[s] += float(table[s, i]) ** 2
        _rank(table[s], largest[s], where[s])
        critical += largest[s, 0]
        spread += np.sqrt(max(squares[s] / ring - (sums[s] / ring) ** 2, 0.0))
    price = np.array([movement / sizes[0], movement / sizes[1]])
    best = critical / perfect + price[0] * moved[0] + price[1] * moved[1]
    at_best = True
    temperature, weight = HOTTEST, SPREAD
    fading = (LAST_SPREAD / SPREAD) ** (1.0 / draws.STAGES)
    stage = max(evaluations // draws.STAGES, 1)
    for evaluation in range(evaluations):
        if evaluation % stage == stage - 1:
            temperature *= COOLING
            weight *= fading
        draw = draws.next_draw(state)
        side = np.int64(draw & np.uint64(1))
        # a swap moves two blocks at most: where that is too many, one that is away takes part and
        # goes home, or its partner is away too, so that no more blocks are away than before
        full = moved[side] > caps[side] - 2
        if full and moved[side] == 0:
            continue
        if full:
            first = away[side][draws.below(state, moved[side])]
            a = shards[side][first]
            b = homes[side][first]
            if draw & np.uint64(6) == 0:
                b = draws.below(state, ring)
        else:
            if draw & np.uint64(2):
                s = draws.below(state, ring)
                a = where[s, 0] if side == 0 else (where[s, 0] + s) % ring
            else:
                a = draws.below(state, ring)
            first = members[side][a, draws.below(state, members[side].shape[1])]
            b = draws.below(state, ring)
        if a == b:
            continue
        second = members[side][b, draws.below(state, members[side].shape[1])]
        if full and b != homes[side][first] and b == homes[side][second]:
            second = away[side][draws.below(state, moved[side])]
            b = shards[side][second]
            if a == b:
                continue
        home = homes[side]
        first_home, second_home = home[first], home[second]
        more = (
            np.int64(first_home != b)
            - np.int64(first_home != a)
            + np.int64(second_home != a)
            - np.int64(second_home != b)
        )

        gain = gains[side]
        new_critical, new_spread = 0, 0.0
        for s in range(ring):
            if side == 0:
                ia, ib = a, b
                ja = a + s - ring * np.int64(a + s >= ring)
                jb = b + s - ring * np.int64(b + s >= ring)
            else:
                ia = a - s + ring * np.int64(a < s)
                ib = b - s + ring * np.int64(b < s)
                ja, jb = ia, ib
            more_a = np.int64(gain[ja, second]) - np.int64(gain[ja, first])
            more_b = np.int64(gain[jb, first]) - np.int64(gain[jb, second])
            change_a[s], change_b[s] = more_a, more_b
            old_a, old_b = table[s, ia], table[s, ib]
            new_a, new_b = old_a + more_a, old_b + more_b
            if where[s, 0] != ia and where[s, 0] != ib:
                top = largest[s, 0]
            elif where[s, 1] != ia and where[s, 1] != ib:
                top = largest[s, 1]
            else:
                top = largest[s, 2]
            new_critical += max(top, max(new_a, new_b))
            mean = (sums[s] + more_a + more_b) / ring
            square = squares[s] + more_a * float(new_a + old_a) + more_b * float(new_b + old_b)
            new_spread += np.sqrt(max(square / ring - mean * mean, 0.0))
        cost = (new_critical - critical + weight * (new_spread - spread)) / perfect
        cost += more * price[side]
        if cost >= temperature * patience[draws.below(state, 1024)]:
            continue

        energy = new_critical / perfect + more * price[side]
        energy += price[0] * moved[0] + price[1] * moved[1]
        better = energy < best - 1e-12
        if at_best and not better:  # copied only where the search leaves it
            draws.copy_into(best_q, q_shard)
            draws.copy_into(best_kv, kv_shard)
        at_best = better
        for s in range(ring):
            ia, ib = (a, b) if side == 0 else ((a - s) % ring, (b - s) % ring)
            more_a, more_b = change_a[s], change_b[s]
            squares[s] += more_a * float(2 * table[s, ia] + more_a)
            squares[s] += more_b * float(2 * table[s, ib] + more_b)
            sums[s] += more_a + more_b
            table[s, ia] += more_a
            table[s, ib] += more_b
            _rank(table[s], largest[s], where[s])
        critical, spread = new_critical, new_spread
        gaining, losing = gains[1 - side][a], gains[1 - side][b]
        arriving, leaving = works[side][second], works[side][first]
        for block in range(sizes[1 - side]):
            change = arriving[block] - leaving[block]
            gaining[block] += change
            losing[block] -= change
        shards[side][first], shards[side][second] = b, a
        slot_a, slot_b = slots[side][first], slots[side][second]
        members[side][a, slot_a], members[side][b, slot_b] = second, first
        slots[side][first], slots[side][second] = slot_b, slot_a
        for k in range(2):
            block = first if k == 0 else second
            is_away = shards[side][block] != home[block]
            at = away_slot[side][block]
            if is_away and at < 0:
                away[side][moved[side]] = block
                away_slot[side][block] = moved[side]
                moved[side] += 1
            elif not is_away and at >= 0:
                moved[side] -= 1
                last = away[side][moved[side]]
                away[side][at] = last
                away_slot[side][last] = at
                away_slot[side][block] = -1
        if better:
            best = energy
            if best <= 1 + ENOUGH:
                break
    if not at_best:
        draws.copy_into(q_shard, best_q)
        draws.copy_into(kv_shard, best_kv)
    return best
