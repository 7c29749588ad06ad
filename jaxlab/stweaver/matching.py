"""Which planned request is this one? Matching that finds its place again after a surprise.

The expected requests are a sequence of codes. As long as each code that comes is the expected one,
matching is a comparison. When it is not, the least number of requests left out of the plan or added
by the program decides: an online edit distance within a band of ``BAND`` positions on each side,
until one alignment is clearly the best. The paper's runtime only counts requests, so that after one
inserted request every later one meets the wrong entry.
"""

import typing

from jaxlab.stweaver.kernel import kernel_part
from jaxlab.stweaver.ordered import NONE

BAND = 64
_GIVE_UP = BAND // 2  # edits after which the search starts over where it began
_UNREACHABLE = 1 << 30

# State of a matcher: next expected position, whether it searches, where that began, searches.
NEXT, SEARCHING, ANCHOR, SEARCHES, MATCHER = range(5)


@kernel_part
@typing.no_type_check
def match(expected, again, resynchronize, matcher, edits, code):
    """The position of a request in the sequence, or NONE; the matcher moves on."""
    if matcher[SEARCHING] == 0:
        position = matcher[NEXT]
        matcher[NEXT] += 1
        if _expected(expected, again, position) == code:
            return position
        if not resynchronize:
            return NONE
        matcher[SEARCHES] += 1
        _start(matcher, edits, position)
    return _align(expected, again, matcher, edits, code)


@kernel_part
@typing.no_type_check
def _expected(expected, again, position):
    entry = entry_at(expected.size, again, position)
    return NONE if entry == NONE else expected[entry]


@kernel_part
@typing.no_type_check
def entry_at(planned, again, position):
    """Which of the planned requests a position stands for, or NONE.

    Behind the last one the sequence goes on with entry ``again``, without end; it stops there if
    ``again`` is NONE.
    """
    if position < planned:
        return max(position, NONE)
    return NONE if again == NONE else again + (position - again) % (planned - again)


@kernel_part
@typing.no_type_check
def _start(matcher, edits, position):
    matcher[SEARCHING] = 1
    matcher[ANCHOR] = position
    matcher[NEXT] = position
    for k in range(edits.size):
        edits[k] = k - BAND if k >= BAND else _UNREACHABLE


@kernel_part
@typing.no_type_check
def _align(expected, again, matcher, edits, code):
    """One column of the edit distance.

    ``edits[k]`` is the least number of edits with which the requests so far bring the matcher to
    position ``NEXT - BAND + k``.
    """
    matcher[NEXT] += 1
    base = matcher[NEXT] - BAND
    best, place, found = _UNREACHABLE, 0, False
    for k in range(edits.size):
        hit = code != NONE and _expected(expected, again, base + k - 1) == code
        fewest = edits[k] if hit else _UNREACHABLE
        if k + 1 < edits.size:
            fewest = min(fewest, edits[k + 1] + 1)  # the program added this request
        if k > 0:
            fewest = min(fewest, edits[k - 1] + 1)  # the program left out a planned one
        hit = hit and fewest == edits[k]
        edits[k] = fewest
        closer = abs(k - BAND) < abs(place - BAND)
        if fewest < best or (fewest == best and (hit > found or (hit == found and closer))):
            best, place, found = fewest, k, hit
    if best > _GIVE_UP:
        _start(matcher, edits, matcher[ANCHOR])
        return NONE
    settled = True
    for k in range(edits.size):  # every other alignment is this one with further edits
        settled = settled and edits[k] == best + abs(k - place)
    if settled:
        matcher[SEARCHING] = 0
        matcher[NEXT] = base + place
    return base + place - 1 if found else NONE
