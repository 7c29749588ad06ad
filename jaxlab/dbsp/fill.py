"""The greedy loops over blocks and heads, compiled by numba: imported only where they run."""

import typing

import numba
import numpy as np


@numba.njit(cache=True)
@typing.no_type_check
def fill_shards(weights, heaviest_first, home, ring, home_reward):
    """The greedy loop of ``block_groups``: the shard of every block."""
    room = np.full(ring, weights.size // ring)
    load = np.zeros(ring)
    shards = np.empty(weights.size, np.int64)
    for block in heaviest_first:
        weight, at_home = weights[block], home[block]
        best = at_home
        if weight != 0 or room[at_home] == 0:
            best = -1
            least = np.inf
            for shard in range(ring):
                score = load[shard]
                if shard == at_home:
                    score -= home_reward * weight
                if room[shard] > 0 and score < least:
                    best, least = shard, score
        shards[block] = best
        room[best] -= 1
        load[best] += weight
    return shards


@numba.njit(cache=True)
@typing.no_type_check
def fill_from_home(weights, heaviest_first, home_order, ring, home_reward):
    """``fill_shards`` for homes given as an order; blocks beyond the weights are padding."""
    blocks, padded = weights.size, home_order.size
    home = np.empty(padded, np.int64)
    for place in range(padded):
        home[home_order[place]] = place // (padded // ring)
    filled = np.zeros(padded, np.int64)
    filled[:blocks] = weights
    order = np.arange(padded)
    order[:blocks] = heaviest_first
    return fill_shards(filled, order, home, ring, home_reward)


@numba.njit(cache=True)
@typing.no_type_check
def deal_heads(weights, heaviest_first, groups):
    """The greedy loop of ``head_groups``: the heads of every group in the order they joined."""
    room = weights.size // groups
    members = np.empty((groups, room), np.int64)
    size = np.zeros(groups, np.int64)
    load = np.zeros(groups, np.int64)
    for head in heaviest_first:
        lightest = -1
        for group in range(groups):
            if size[group] < room and (lightest < 0 or load[group] < load[lightest]):
                lightest = group
        members[lightest, size[lightest]] = head
        size[lightest] += 1
        load[lightest] += weights[head]
    return members
