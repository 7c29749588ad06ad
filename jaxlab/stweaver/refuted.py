"""What has failed before: a hash table of subproblems, each a set of requests with their bounds.

A subproblem is known by 128 bits of random fingerprint. Two that differ share one with a
probability of about 2^-128 a pair, in which case a plan could be missed.
"""

import typing

import numpy as np

from jaxlab.stweaver.kernel import kernel_part

_PROBES = 4


@kernel_part
@typing.no_type_check
def fingerprint(st, lo, hi):
    """128 bits of the subproblem ``pool[lo:hi]``: its requests, their bounds and status."""
    print1 = print2 = np.uint64(0)
    for position in range(lo, hi):
        request = st.pool[position]
        value = (
            np.uint64(st.rest[request]) * np.uint64(0x9E3779B97F4A7C15)
            + np.uint64(st.bound[request]) * np.uint64(0xD6E8FEB86659FD93)
            + np.uint64(st.status[request])
        )
        print1 ^= _mix(value + st.salt[request, 0])
        print2 ^= _mix(value ^ st.salt[request, 1])
    return print1, print2


@kernel_part
@typing.no_type_check
def _mix(value):
    value ^= value >> np.uint64(30)
    value *= np.uint64(0xBF58476D1CE4E5B9)
    value ^= value >> np.uint64(27)
    value *= np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@kernel_part
@typing.no_type_check
def has_failed(st, print1, print2):
    """Whether the subproblem is known to have no plan."""
    mask = np.uint64(st.failed.shape[0] - 1)
    for probe in range(_PROBES):
        slot = (print1 + np.uint64(probe)) & mask
        if st.failed[slot, 0] == print1 and st.failed[slot, 1] == print2:
            return True
    return False


@kernel_part
@typing.no_type_check
def record_failure(st, print1, print2):
    """Notes that the subproblem has no plan; an older note may give way."""
    mask = np.uint64(st.failed.shape[0] - 1)
    slot = print1 & mask
    for probe in range(_PROBES):
        slot = (print1 + np.uint64(probe)) & mask
        if st.failed[slot, 0] == np.uint64(0):
            break
    else:
        slot = (print1 + (print2 % np.uint64(_PROBES))) & mask
    st.failed[slot, 0] = print1
    st.failed[slot, 1] = print2
