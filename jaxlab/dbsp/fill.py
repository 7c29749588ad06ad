"""The greedy loop over blocks, compiled by numba: imported only where it runs."""

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
