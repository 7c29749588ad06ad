"""What no order of the equations can undercut, and the best order of small programs."""

import heapq

import numpy as np
from jaxtyping import Bool, Int64

from jaxlab.stweaver.order_graph import Graph

_MAX_SETS = 40_000
_CUTS = 24


def order_bound(graph: Graph) -> int:
    """A lower bound of the peak over all orders.

    When an equation runs, everything it depends on has run and nothing that depends on it has.
    What was made by the former and is read by the latter is then live: that gives a first bound
    for every equation. For the equations with the highest first bounds, the cheapest choice of the
    other equations that may have run is a minimum cut.
    """
    count = len(graph)
    base = int(graph.size[graph.producer < 0].sum())
    if not count:
        return base
    before = _before(graph)
    simple = np.array([*_must_be_live(graph, before)], np.int64)
    best = int(max(base, simple.max(), graph.size[graph.kept].sum()))
    for row in np.argsort(-simple, kind="stable")[:_CUTS].tolist():
        best = max(best, _cut(graph, before, row))
    return best


def exact_order(graph: Graph) -> Int64[np.ndarray, " equations"] | None:
    """The best order, or None for a program with too many sets of equations that can come first.

    Best-first search over those sets, by the peak on the way to them.
    """
    count = len(graph)
    needs = [sum(1 << int(e) for e in _part(graph.after, graph.after_at, r)) for r in range(count)]
    reads = [_part(graph.reads, graph.reads_at, row).tolist() for row in range(count)]
    entry = [_part(graph.on_entry, graph.reads_at, row).tolist() for row in range(count)]
    writes = [_part(graph.writes, graph.writes_at, row).tolist() for row in range(count)]
    users = [0] * graph.size.size
    for row, values in enumerate(reads):
        for value in values:
            users[value] |= 1 << row
    size, kept = graph.size.tolist(), graph.kept.tolist()
    base = sum(s for s, p in zip(size, graph.producer.tolist(), strict=True) if p < 0)
    whole = (1 << count) - 1
    queue = [(base, 0, 0, base)]
    reached: dict[int, tuple[int, int]] = {0: (base, -1)}
    done: set[int] = set()
    while queue:
        peak, _, ran, live = heapq.heappop(queue)
        if ran in done:
            continue
        done.add(ran)
        if ran == whole:
            return np.array(_path(reached, whole), np.int64)
        for row in range(count):
            bit = 1 << row
            if ran & bit or needs[row] & ~ran:
                continue
            after = ran | bit
            top = live + sum(size[value] for value in writes[row])
            high = max(peak, top)
            dead = [
                (value, early)
                for value, early in zip(reads[row], entry[row], strict=True)
                if not kept[value] and not users[value] & ~after
            ]
            top -= sum(size[value] for value, early in dead if early)
            high = max(high, top + int(graph.workspace[row]))
            top -= sum(size[value] for value, early in dead if not early)
            top -= sum(size[v] for v in writes[row] if not kept[v] and not users[v])
            if after not in reached or high < reached[after][0]:
                reached[after] = high, row
                if len(reached) > _MAX_SETS:
                    return None
                heapq.heappush(queue, (high, -after.bit_count(), after, top))
    return np.zeros(0, np.int64)


def _path(reached: dict[int, tuple[int, int]], whole: int) -> list[int]:
    order = []
    while whole:
        row = reached[whole][1]
        order.append(row)
        whole &= ~(1 << row)
    return order[::-1]


def _part(values: np.ndarray, at: np.ndarray, row: int) -> np.ndarray:
    return values[at[row] : at[row + 1]]


def _before(graph: Graph) -> Bool[np.ndarray, "equations equations"]:
    """``before[a, b]``: equation a must run before b."""
    count = len(graph)
    before = np.zeros((count, count), bool)
    for row in range(count):
        direct = _part(graph.after, graph.after_at, row)
        before[direct, row] = True
        before[:, row] |= before[:, direct].any(1)
    return before


def _must_be_live(graph: Graph, before: Bool[np.ndarray, "equations equations"]) -> np.ndarray:
    """For every equation, the bytes that are live when it runs, in any order."""
    count = len(graph)
    or_self = before | np.eye(count, dtype=bool)
    needed = np.zeros((graph.size.size, count), bool)  # value is read by the equation or its heirs
    early = np.zeros(count, np.int64)
    for row in range(count):
        values = _part(graph.reads, graph.reads_at, row)
        needed[values] |= or_self[:, row]
        flags = _part(graph.on_entry, graph.reads_at, row) & ~graph.kept[values]
        early[row] = graph.size[values[flags]].sum()
    needed[graph.kept] = True
    made = graph.producer >= 0
    needed[made] &= or_self[graph.producer[made]]
    unused = made & ~graph.kept
    for row in range(count):  # a result that nothing reads is live while it is made
        values = _part(graph.writes, graph.writes_at, row)
        needed[values[unused[values]], row] = True
    live = (graph.size[:, None] * needed).sum(0)
    return np.maximum(live, live - early + graph.workspace)


def _cut(graph: Graph, before: Bool[np.ndarray, "equations equations"], row: int) -> int:
    """The least bytes live when the equation runs, over the sets of equations that ran before.

    A minimum cut: equations on the source's side have run. A value is paid for if its maker has run
    and a reader has not; edges without limit keep the set closed.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import maximum_flow

    count, values = len(graph), graph.size.size
    unit = max(int(np.gcd.reduce(graph.size)), 1)
    size = graph.size // unit
    limit = np.int64(np.iinfo(np.int32).max)
    if size.sum() >= limit:
        return 0
    source, sink = count + values, count + values + 1
    made = graph.producer >= 0
    dies = ~graph.kept
    tails: list[np.ndarray] = [np.where(made, graph.producer, source)]
    heads: list[np.ndarray] = [count + np.arange(values)]
    weights: list[np.ndarray] = [size]

    def edges(tail: np.ndarray | int, head: np.ndarray | int) -> None:
        tail, head = np.broadcast_arrays(tail, head)
        tails.append(tail.ravel())
        heads.append(head.ravel())
        weights.append(np.full(tail.size, limit))

    reader = np.repeat(np.arange(count), np.diff(graph.reads_at))
    mortal = dies[graph.reads]
    edges(count + graph.reads[mortal], reader[mortal])
    edges(count + np.flatnonzero(graph.kept), sink)
    maker = np.repeat(np.arange(count), np.diff(graph.after_at))
    edges(maker, graph.after)
    edges(source, np.flatnonzero(before[:, row]))
    edges(np.flatnonzero(before[row]), sink)
    edges(row, sink)
    tail, head, weight = map(np.concatenate, (tails, heads, weights))
    order = np.lexsort((weight, head, tail))
    tail, head, weight = tail[order], head[order], weight[order]
    first = np.r_[True, (np.diff(tail) != 0) | (np.diff(head) != 0)]
    grid = (weight[first].astype(np.int32), (tail[first], head[first]))
    flow = maximum_flow(coo_array(grid, shape=(sink + 1, sink + 1)).tocsr(), source, sink)
    writes = _part(graph.writes, graph.writes_at, row)
    reads = _part(graph.reads, graph.reads_at, row)
    early = _part(graph.on_entry, graph.reads_at, row) & ~graph.kept[reads]
    entry = int(flow.flow_value) * unit + int(graph.size[writes].sum())
    inside = entry - int(graph.size[reads[early]].sum()) + int(graph.workspace[row])
    return max(entry, inside)
