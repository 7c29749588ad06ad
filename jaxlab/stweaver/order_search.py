"""Search among the orders of a program's equations: beam search, then moves across the peak."""

import typing

import numpy as np
from jaxtyping import Int64

from jaxlab.stweaver.kernel import kernel, kernel_part
from jaxlab.stweaver.order_graph import Graph


def order_peak(graph: Graph, order: Int64[np.ndarray, " equations"]) -> int:
    """Peak of live bytes when the equations run in this order."""
    _, before, _ = _profile(order.astype(np.int64), *_arrays(graph))
    return int(before[-1])


def search(
    graph: Graph, bound: int, width: int, moves: int, seed: int
) -> Int64[np.ndarray, " equations"]:
    """The best order found; stops at the bound."""
    arrays = _arrays(graph)
    base, *costs = arrays
    kept = int(graph.size[graph.kept].sum())
    heirs, heirs_at = _inverse(graph.after, graph.after_at, len(graph))
    readers, readers_at = _inverse(graph.reads, graph.reads_at, graph.size.size)
    rng = np.random.default_rng(seed)
    keys = rng.integers(0, 1 << 62, len(graph))
    forward = {"needs_at": graph.after_at, "heirs": heirs, "heirs_at": heirs_at}
    backward = {"needs_at": heirs_at, "heirs": graph.after, "heirs_at": graph.after_at}
    starts = [
        np.arange(len(graph)),
        _depth_first(graph),
        _beam(False, width, keys, base, *costs, **forward),
        _beam(True, width, keys, kept, *costs, **backward)[::-1].copy(),
    ]
    best, best_peak = starts[0], order_peak(graph, starts[0])
    links = {"after": graph.after, "after_at": graph.after_at}
    for start in starts:
        order, peak = _improve(
            start, bound, moves, rng, graph.producer, readers, readers_at, *arrays, **links
        )
        if peak < best_peak:
            best, best_peak = order, int(peak)
    return best


def _arrays(graph: Graph) -> tuple[typing.Any, ...]:
    users = np.bincount(graph.reads, minlength=graph.size.size)
    base = int(graph.size[graph.producer < 0].sum())
    return (
        base,
        graph.size,
        graph.kept,
        users.astype(np.int64),
        graph.reads,
        graph.reads_at,
        graph.on_entry,
        graph.writes,
        graph.writes_at,
        graph.workspace,
    )


def _inverse(items: np.ndarray, at: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """From "what each row lists" to "which rows list it"."""
    rows = np.repeat(np.arange(at.size - 1), np.diff(at))
    inverse = rows[np.argsort(items, kind="stable")]
    return inverse, np.r_[0, np.cumsum(np.bincount(items, minlength=count))].astype(np.int64)


def _depth_first(graph: Graph) -> Int64[np.ndarray, " equations"]:
    """Every equation as late as the results need it."""
    done = np.zeros(len(graph), bool)
    order: list[int] = []
    has_heir = np.zeros(len(graph), bool)
    has_heir[graph.after] = True
    for root in np.flatnonzero(~has_heir).tolist():
        stack = [(root, False)]
        while stack:
            row, finished = stack.pop()
            if finished:
                order.append(row)
            elif not done[row]:
                done[row] = True
                stack.append((row, True))
                needs = graph.after[graph.after_at[row] : graph.after_at[row + 1]]
                stack += [(int(need), False) for need in needs if not done[need]]
    return np.array(order, np.int64)


@kernel_part
@typing.no_type_check
def _step(
    row, live, left, size, kept, users, reads, reads_at, on_entry, writes, writes_at, workspace
):
    """Runs one equation: its own peak and the bytes live after it; ``left`` counts readers."""
    for k in range(writes_at[row], writes_at[row + 1]):
        live += size[writes[k]]
    top = live
    for k in range(reads_at[row], reads_at[row + 1]):
        left[reads[k]] -= 1
        if on_entry[k] and left[reads[k]] == 0 and not kept[reads[k]]:
            live -= size[reads[k]]
    top = max(top, live + workspace[row])
    for k in range(reads_at[row], reads_at[row + 1]):
        if not on_entry[k] and left[reads[k]] == 0 and not kept[reads[k]]:
            live -= size[reads[k]]
    for k in range(writes_at[row], writes_at[row + 1]):
        if users[writes[k]] == 0 and not kept[writes[k]]:
            live -= size[writes[k]]
    return top, live


@kernel_part
@typing.no_type_check
def _step_back(
    row, live, seen, size, kept, users, reads, reads_at, on_entry, writes, writes_at, workspace
):
    """The same from the end: from the bytes live after the equation to those live before it."""
    fresh = early = made = 0
    for k in range(reads_at[row], reads_at[row + 1]):
        seen[reads[k]] += 1
        if seen[reads[k]] == 1 and not kept[reads[k]]:
            fresh += size[reads[k]]
            if on_entry[k]:
                early += size[reads[k]]
    for k in range(writes_at[row], writes_at[row + 1]):
        made += size[writes[k]]
        if users[writes[k]] == 0 and not kept[writes[k]]:
            live += size[writes[k]]
    top = live + fresh + max(0, workspace[row] - early)
    return top, live + fresh - made


@kernel_part
@typing.no_type_check
def _evaluate(
    order, base, size, kept, users, reads, reads_at, on_entry, writes, writes_at, workspace
):
    """The peak, and the first position at which it is reached."""
    left = users.copy()
    live = base
    peak, where = live, -1
    for position in range(order.size):
        top, live = _step(
            order[position], live, left, size, kept, users, reads, reads_at, on_entry, writes,
            writes_at, workspace,
        )  # fmt: skip
        if top > peak:
            peak, where = top, position
    return peak, where


@kernel
@typing.no_type_check
def _beam(
    back, width, keys, base, size, kept, users, reads, reads_at, on_entry, writes, writes_at,
    workspace, needs_at, heirs, heirs_at,
):  # fmt: skip
    """Keeps the ``width`` best beginnings of each length, by their peak, then by what is live.

    With ``back`` it builds orders from the end; ``heirs`` are then the equations needed.
    """
    count = workspace.size
    left = np.zeros((width, users.size), np.int64)
    open_needs = np.empty((width, count), np.int64)
    ran = np.zeros((width, count), np.bool_)
    orders = np.empty((width, count), np.int64)
    live, peak = np.empty(width, np.int64), np.empty(width, np.int64)
    mark = np.zeros(width, np.int64)
    if not back:
        left[0] = users
    live[0] = peak[0] = base
    for row in range(count):
        open_needs[0, row] = needs_at[row + 1] - needs_at[row]
    states = 1
    for length in range(count):
        c_peak, c_live = np.empty(states * count, np.int64), np.empty(states * count, np.int64)
        c_state, c_row = np.empty(states * count, np.int64), np.empty(states * count, np.int64)
        found = 0
        for state in range(states):
            for row in range(count):
                if ran[state, row] or open_needs[state, row]:
                    continue
                if back:
                    top, rest = _step_back(
                        row, live[state], left[state], size, kept, users, reads, reads_at,
                        on_entry, writes, writes_at, workspace,
                    )  # fmt: skip
                else:
                    top, rest = _step(
                        row, live[state], left[state], size, kept, users, reads, reads_at,
                        on_entry, writes, writes_at, workspace,
                    )  # fmt: skip
                for k in range(reads_at[row], reads_at[row + 1]):
                    left[state, reads[k]] += -1 if back else 1
                c_peak[found], c_live[found] = max(peak[state], top), rest
                c_state[found], c_row[found] = state, row
                found += 1
        by_live = np.argsort(c_live[:found], kind="mergesort")
        ranked = by_live[np.argsort(c_peak[:found][by_live], kind="mergesort")]
        chosen, marks = np.empty(width, np.int64), np.empty(width, np.int64)
        states = 0
        for candidate in ranked:  # two orders of the same equations: the better one is enough
            candidate_mark = mark[c_state[candidate]] ^ keys[c_row[candidate]]
            if (marks[:states] != candidate_mark).all():
                chosen[states], marks[states] = candidate, candidate_mark
                states += 1
                if states == width:
                    break
        chosen = chosen[:states]
        parents = c_state[chosen]
        left[:states], open_needs[:states] = left[parents].copy(), open_needs[parents].copy()
        ran[:states], orders[:states] = ran[parents].copy(), orders[parents].copy()
        live[:states], peak[:states] = c_live[chosen], c_peak[chosen]
        mark[:states] = marks[:states]
        for state in range(states):
            row = c_row[chosen[state]]
            orders[state, length], ran[state, row] = row, True
            for k in range(reads_at[row], reads_at[row + 1]):
                left[state, reads[k]] += 1 if back else -1
            for k in range(heirs_at[row], heirs_at[row + 1]):
                open_needs[state, heirs[k]] -= 1
    return orders[0].copy()


@kernel
@typing.no_type_check
def _profile(
    order, base, size, kept, users, reads, reads_at, on_entry, writes, writes_at, workspace
):
    """Along an order: live bytes before each equation, highest peak before it and from it on."""
    count = order.size
    left = users.copy()
    live, before, behind = (
        np.empty(count + 1, np.int64), np.empty(count + 1, np.int64), np.empty(count + 1, np.int64),
    )  # fmt: skip
    live[0] = before[0] = base
    for position in range(count):
        behind[position], live[position + 1] = _step(
            order[position], live[position], left, size, kept, users, reads, reads_at, on_entry,
            writes, writes_at, workspace,
        )  # fmt: skip
        before[position + 1] = max(before[position], behind[position])
    behind[count] = base
    for position in range(count - 1, -1, -1):
        behind[position] = max(behind[position], behind[position + 1])
    return live, before, behind


@kernel
@typing.no_type_check
def _improve(
    start, bound, moves, rng, producer, readers, readers_at, base, size, kept, users, reads,
    reads_at, on_entry, writes, writes_at, workspace, after, after_at,
):  # fmt: skip
    """Moves values that are live across the peak: made after it, or done with before it."""
    count = start.size
    order, best = start.copy(), start.copy()
    best_peak = np.iinfo(np.int64).max
    moved = np.zeros(count, np.bool_)
    trial, position = np.empty(count, np.int64), np.empty(count, np.int64)
    left, counted = np.empty(size.size, np.int64), np.full(size.size, -1, np.int64)
    crossing, crossings = np.empty(size.size, np.int64), 0
    live = before = behind = np.empty(0, np.int64)
    peak, where, changed = best_peak, -1, True
    for move in range(moves + 1):
        if changed:
            live, before, behind = _profile(
                order, base, size, kept, users, reads, reads_at, on_entry, writes, writes_at,
                workspace,
            )  # fmt: skip
            peak, changed = before[count], False
            where = np.searchsorted(before, peak) - 1
            for k in range(count):
                position[order[k]] = k
            crossings = _crossing(
                crossing, where, order, position, producer, readers, readers_at, kept
            )
            if peak < best_peak:
                best[:], best_peak = order, peak
            if best_peak <= bound or where < 0 or crossings == 0:
                break
        value = crossing[rng.integers(0, crossings)]
        late = producer[value] >= 0 and rng.random() < 0.5
        begin = end = where
        moved[:] = False
        if late:  # the maker and its heirs up to the peak go behind it
            begin = position[producer[value]]
            moved[producer[value]] = True
            for k in range(begin + 1, where + 1):
                for n in range(after_at[order[k]], after_at[order[k] + 1]):
                    moved[order[k]] = moved[order[k]] or moved[after[n]]
        else:  # the readers and their forebears from the peak on go before it
            for k in range(readers_at[value], readers_at[value + 1]):
                if position[readers[k]] > where:
                    moved[readers[k]] = True
                    end = max(end, position[readers[k]])
            for k in range(end, where - 1, -1):
                if moved[order[k]]:
                    for n in range(after_at[order[k]], after_at[order[k] + 1]):
                        moved[after[n]] = moved[after[n]] or position[after[n]] >= where
        if moved[order[where]] or (not late and (kept[value] or end == where)):
            continue
        k = begin
        for turn in range(2):
            for n in range(begin, end + 1):
                if moved[order[n]] == (late == (turn == 1)):
                    trial[k] = order[n]
                    k += 1
        # only the window between changes: run it with the counts of readers from its begin on
        for k in range(begin, end + 1):
            for n in range(reads_at[order[k]], reads_at[order[k] + 1]):
                read = reads[n]
                if counted[read] != move and not kept[read]:
                    counted[read], left[read] = move, 0
                    for m in range(readers_at[read], readers_at[read + 1]):
                        left[read] += position[readers[m]] >= begin
        now, highest = live[begin], max(before[begin], behind[end + 1])
        for k in range(begin, end + 1):
            top, now = _step(
                trial[k], now, left, size, kept, users, reads, reads_at, on_entry, writes,
                writes_at, workspace,
            )  # fmt: skip
            highest = max(highest, top)
            if highest > peak:
                break
        if highest <= peak:
            order[begin : end + 1] = trial[begin : end + 1]
            changed = True
    return best, best_peak


@kernel_part
@typing.no_type_check
def _crossing(crossing, where, order, position, producer, readers, readers_at, kept):
    """Lists the values that are live at the position and that the equation there leaves alone."""
    found = 0
    for value in range(producer.size):
        maker = producer[value]
        if (maker >= 0 and position[maker] >= where) or (maker < 0 and kept[value]):
            continue
        touched, later = False, kept[value]
        for k in range(readers_at[value], readers_at[value + 1]):
            touched = touched or readers[k] == order[where]
            later = later or position[readers[k]] > where
        if later and not touched:
            crossing[found] = value
            found += 1
    return found
