"""Which request a step of the search decides on."""

import typing

import numpy as np

from jaxlab.stweaver.kernel import kernel_part
from jaxlab.stweaver.search_state import OPEN, PLACED, STRATEGY, extent

LOWEST, TIGHTEST, REFINED = 0, 1, 2


@kernel_part
@typing.no_type_check
def choose(st, lo, hi):
    """An open request below which no overlapping open request can lie."""
    request = st.pool[lo]
    if st.counters[STRATEGY] & TIGHTEST:
        request = _descend(st, _lowest_in_tightest_section(st, lo, hi))
    else:
        for position in range(lo + 1, hi):
            other = st.pool[position]
            if st.bound[other] > st.bound[request]:
                break
            if st.rank[other] < st.rank[request]:
                request = other
    if st.counters[STRATEGY] & REFINED:
        request = _tightest_beside(st, request)
    return request


@kernel_part
@typing.no_type_check
def _goes_before(st, a, b):
    return st.bound[a] < st.bound[b] or (st.bound[a] == st.bound[b] and st.rank[a] < st.rank[b])


@kernel_part
@typing.no_type_check
def _lowest_in_tightest_section(st, lo, hi):
    begin, end = extent(st, lo, hi)
    section = begin + np.argmax(st.reach[begin:end])
    best = -1
    for position in range(lo, hi):
        request = st.pool[position]
        alive = st.first[request] <= section < st.last[request] or section < st.wrap[request]
        if alive and (best < 0 or _goes_before(st, request, best)):
            best = request
    return best


@kernel_part
@typing.no_type_check
def _descend(st, request):
    while True:
        best = request
        for entry in range(st.begin[request], st.begin[request + 1]):
            other = st.meets[entry]
            if st.status[other] != PLACED and _goes_before(st, other, best):
                best = other
        if best == request:
            return request
        request = best


@kernel_part
@typing.no_type_check
def _tightest_beside(st, request):
    """Of the requests that could rest at the same address in its place, the one in most need."""
    bound, best, tightest = st.bound[request], request, _need(st, request)
    for entry in range(st.begin[request], st.begin[request + 1]):
        other = st.meets[entry]
        if st.status[other] != OPEN or st.bound[other] != bound:
            continue
        need = _need(st, other)
        better = need > tightest or (need == tightest and st.rank[other] < st.rank[best])
        if better and _is_lowest(st, other):
            tightest, best = need, other
    return best


@kernel_part
@typing.no_type_check
def _is_lowest(st, request):
    for entry in range(st.begin[request], st.begin[request + 1]):
        other = st.meets[entry]
        if st.status[other] != PLACED and st.bound[other] < st.bound[request]:
            return False
    return True


@kernel_part
@typing.no_type_check
def _need(st, request):
    need = 0
    for section in range(st.first[request], st.last[request]):
        need = max(need, st.reach[section])
    for section in range(st.wrap[request]):
        need = max(need, st.reach[section])
    return need
