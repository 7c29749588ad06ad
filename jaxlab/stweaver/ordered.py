"""Ordered sets of numbered blocks, for compiled code: best fit in logarithmic time.

A set is a treap (search tree by key, heap by priority) whose nodes are block numbers. All sets of a
heap share one array ``child``: entries ``2 b`` and ``2 b + 1`` are the smaller and the larger
subtree of block ``b``, and the entries behind those of all blocks are the roots, one a set. A
*slot* is an index into ``child``; a set is named by the slot of its root. The key of block ``b`` is
``(rank[b], address[b])``; it must not change while the block is a member.
"""

import typing

import numpy as np

from jaxlab.stweaver.kernel import kernel_part

NONE = np.int64(-1)  # of a plain int numba would compile every callee once more


@kernel_part
@typing.no_type_check
def _priority(block):
    """Scrambles the block number: balanced trees that are the same in every run."""
    bits = (np.uint64(block) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    bits ^= bits >> np.uint64(29)
    bits *= np.uint64(0xBF58476D1CE4E5B9)
    return bits ^ (bits >> np.uint64(32))


@kernel_part
@typing.no_type_check
def insert(child, rank, address, root, block):
    """Adds a block to a set."""
    size, place, priority = rank[block], address[block], _priority(block)
    slot = root
    while child[slot] != NONE and _priority(child[slot]) > priority:
        node = child[slot]
        slot = 2 * node + (rank[node] < size or (rank[node] == size and address[node] < place))
    node = child[slot]
    child[slot] = block
    smaller, larger = 2 * block, 2 * block + 1
    while node != NONE:
        if rank[node] < size or (rank[node] == size and address[node] < place):
            child[smaller] = node
            smaller = 2 * node + 1
            node = child[smaller]
        else:
            child[larger] = node
            larger = 2 * node
            node = child[larger]
    child[smaller] = NONE
    child[larger] = NONE


@kernel_part
@typing.no_type_check
def remove(child, rank, address, root, block):
    """Removes a member from its set."""
    size, place = rank[block], address[block]
    slot = root
    while child[slot] != block:
        node = child[slot]
        slot = 2 * node + (rank[node] < size or (rank[node] == size and address[node] < place))
    left, right = child[2 * block], child[2 * block + 1]
    while left != NONE and right != NONE:
        if _priority(left) > _priority(right):
            child[slot] = left
            slot = 2 * left + 1
            left = child[slot]
        else:
            child[slot] = right
            slot = 2 * right
            right = child[slot]
    child[slot] = left if left != NONE else right


@kernel_part
@typing.no_type_check
def first_from(child, rank, address, root, size, place):
    """The first member whose key is at least ``(size, place)``, or NONE."""
    found = NONE
    node = child[root]
    while node != NONE:
        if rank[node] < size or (rank[node] == size and address[node] < place):
            node = child[2 * node + 1]
        else:
            found = node
            node = child[2 * node]
    return found


@kernel_part
@typing.no_type_check
def after(child, rank, address, root, block):
    """The next larger member, or NONE; the block itself need not be a member any more."""
    return first_from(child, rank, address, root, rank[block], address[block] + 1)


@kernel_part
@typing.no_type_check
def last_before(child, rank, address, root, size, place):
    """The last member whose key is below ``(size, place)``, or NONE."""
    found = NONE
    node = child[root]
    while node != NONE:
        if rank[node] < size or (rank[node] == size and address[node] < place):
            found = node
            node = child[2 * node + 1]
        else:
            node = child[2 * node]
    return found
