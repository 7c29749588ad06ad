"""Work of sequence-parallel devices counted block by block, and balance found by trying it all."""

import itertools

import numpy as np


def work_by_block(blocks, plan):
    """Counts T[u, i, j] by asking every active block where it lives."""
    table = np.zeros((plan.ulysses, plan.ring, plan.ring), np.int64)
    heads_per_group = len(plan.head_perm) // plan.ulysses
    group_of = {int(head): at // heads_per_group for at, head in enumerate(plan.head_perm)}
    q_shards, kv_shards = (
        [
            {int(block): at // (order.shape[1] // plan.ring) for at, block in enumerate(row)}
            for row in order
        ]
        for order in (plan.q_order, plan.kv_order)
    )
    for head, query, key in np.argwhere(blocks).tolist():
        group = group_of[head]
        table[group, q_shards[group][query], kv_shards[group][key]] += 1
    return table


def best_ring(work, q_orders, kv_orders, ring):
    """The least imbalance of one group over all pairs of orders, from its summed masks."""
    if not work.any():
        return 1.0
    return min(
        imbalance_by_steps(
            work[q][:, kv].reshape(ring, len(q) // ring, ring, len(kv) // ring).sum((1, 3))[None]
        )
        for q in q_orders
        for kv in kv_orders
    )


def imbalance_by_steps(work):
    """Walks the ring: at every step all devices of a group wait for the slowest."""
    groups, ring, _ = work.shape
    slowest = 0
    for group in range(groups):
        waited = 0
        for step in range(ring):
            waited += max(work[group, rank, (rank - step) % ring] for rank in range(ring))
        slowest = max(slowest, waited)
    return slowest * groups * ring / work.sum()


def best_group_load(weights, groups):
    """The least possible load of the heaviest group, over all splits into equal sizes."""
    size = len(weights) // groups

    def search(left):
        if not left:
            return 0
        first, *rest = left
        return min(
            max(
                weights[first] + sum(weights[i] for i in mates),
                search([i for i in rest if i not in mates]),
            )
            for mates in itertools.combinations(rest, size - 1)
        )

    return search(list(range(len(weights))))


def greedy_shards(weights, home, ring, reward):
    """The published block rule, one block after the other; idle blocks stay where they can."""
    size = len(weights) // ring
    shards = {}
    for block in sorted(range(len(weights)), key=lambda b: (-weights[b], b)):
        inside = [[b for b in shards if shards[b] == g] for g in range(ring)]
        open_shards = [g for g in range(ring) if len(inside[g]) < size]
        if weights[block] == 0 and home[block] in open_shards:
            shards[block] = home[block]
            continue
        score = {g: sum(weights[b] for b in inside[g]) for g in open_shards}
        if home[block] in score:
            score[home[block]] -= reward * weights[block]
        shards[block] = min(open_shards, key=lambda g: (score[g], g))
    return [shards[block] for block in range(len(weights))]


def equal_splits(blocks, ring):
    """Every order of blocks that splits them differently over shards of equal size."""
    home = np.repeat(np.arange(ring), blocks // ring)
    for shards in sorted(set(itertools.permutations(home))):
        yield np.argsort(shards, kind="stable")
