"""Orders of equations: exact where all orders can be tried, bounded where not, and runnable."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.workloads.training_steps import MODELS, training_step
from jaxlab.stweaver.jaxpr import Program
from jaxlab.stweaver.jaxpr_trace import trace_jaxpr
from jaxlab.stweaver.order import reorder
from jaxlab.stweaver.order_bound import exact_order, order_bound
from jaxlab.stweaver.order_graph import Graph
from jaxlab.stweaver.order_search import order_peak, search
from jaxlab.stweaver.trace import Trace
from tests.stweaver.programs import PROGRAMS
from tests.stweaver.test_arena import first_fit, run_in_arena, same


def load(trace: Trace) -> int:
    change = np.zeros(trace.end.max() + 1, np.int64)
    np.add.at(change, trace.start, trace.size)
    np.add.at(change, trace.end, -trace.size)
    return int(change.cumsum().max())


def peak_by_hand(graph: Graph, order: tuple[int, ...]) -> int:
    """Straight from the definition: count what is live, equation by equation."""
    place = {row: position for position, row in enumerate(order)}
    reads = [
        graph.reads[graph.reads_at[row] : graph.reads_at[row + 1]].tolist()
        for row in range(len(graph))
    ]
    entry = {
        (row, value)
        for row in range(len(graph))
        for k, value in enumerate(reads[row], graph.reads_at[row])
        if graph.on_entry[k]
    }
    top = int(graph.size[graph.producer < 0].sum())
    for now, row in enumerate(order):
        outside = inside = 0
        for value, maker in enumerate(graph.producer.tolist()):
            uses = [place[r] for r in range(len(graph)) if value in reads[r]]
            born = -1 if maker < 0 else place[maker]
            dies = len(order) if graph.kept[value] else max([born, *uses])
            if born <= now <= dies:
                outside += int(graph.size[value])
                gone = dies == now and (row, value) in entry
                inside += 0 if gone else int(graph.size[value])
        top = max(top, outside, inside + int(graph.workspace[row]))
    return top


@st.composite
def graphs(draw: st.DrawFn, most: int = 6) -> Graph:
    """Random programs of a few equations with up to two results each."""
    count = draw(st.integers(1, most))
    arguments = draw(st.integers(0, 2))
    producer, reads, entry, writes = [-1] * arguments, [], [], []
    for row in range(count):
        known = len(producer)
        used = draw(st.lists(st.integers(0, known - 1), max_size=3, unique=True)) if known else []
        reads.append(used)
        entry.append([draw(st.booleans()) for _ in used])
        made = draw(st.integers(0 if row else 1, 2))
        writes.append(list(range(known, known + made)))
        producer += [row] * made
    at = lambda lists: np.cumsum([0, *map(len, lists)]).astype(np.int64)  # noqa: E731
    flat = lambda lists, kind: np.array([x for items in lists for x in items], kind)  # noqa: E731
    after = [sorted({producer[value] for value in used} - {-1}) for used in reads]
    values = len(producer)
    kept = np.array(draw(st.lists(st.booleans(), min_size=values, max_size=values)), bool)
    kept[sorted(set(range(arguments)) - {value for used in reads for value in used})] = True
    size = draw(st.lists(st.integers(0, 9), min_size=values, max_size=values))
    return Graph(
        size=np.array(size, np.int64),
        producer=np.array(producer, np.int64),
        kept=kept,
        reads=flat(reads, np.int64),
        reads_at=at(reads),
        on_entry=flat(entry, bool),
        writes=flat(writes, np.int64),
        writes_at=at(writes),
        workspace=np.array(draw(st.lists(st.integers(0, 9), min_size=count, max_size=count))),
        after=flat(after, np.int64),
        after_at=at(after),
    )


def legal(graph: Graph, order: tuple[int, ...]) -> bool:
    place = {row: position for position, row in enumerate(order)}
    return sorted(order) == list(range(len(graph))) and all(
        place[need] < place[row]
        for row in range(len(graph))
        for need in graph.after[graph.after_at[row] : graph.after_at[row + 1]].tolist()
    )


@settings(max_examples=150, deadline=None)
@given(graphs(), st.integers(0, 3))
def test_every_order_of_small_programs(graph: Graph, seed: int) -> None:
    orders = [o for o in itertools.permutations(range(len(graph))) if legal(graph, o)]
    peaks = [peak_by_hand(graph, order) for order in orders]
    for order, peak in zip(orders[:6], peaks[:6], strict=True):
        assert order_peak(graph, np.array(order)) == peak
    best = exact_order(graph)
    assert best is not None
    assert legal(graph, tuple(best.tolist()))
    assert order_peak(graph, best) == min(peaks)
    assert order_bound(graph) <= min(peaks)
    found = search(graph, 0, width=3, moves=200, seed=seed)
    assert legal(graph, tuple(found.tolist()))
    assert min(peaks) <= order_peak(graph, found) <= peak_by_hand(graph, tuple(range(len(graph))))


@settings(max_examples=40, deadline=None)
@given(graphs(most=12))
def test_bound_search_and_exact_agree_on_larger_programs(graph: Graph) -> None:
    best = exact_order(graph)
    assert best is not None
    least = order_peak(graph, best)
    assert order_bound(graph) <= least
    found = search(graph, least, width=8, moves=500, seed=0)
    assert legal(graph, tuple(found.tolist()))
    assert least <= order_peak(graph, found)


def fan(x: jax.Array) -> jax.Array:
    """All wide values first, all sums after: as bad an order as there is."""
    wide = [jnp.sin(x * k) for k in range(1, 9)]
    return jnp.stack([w.sum() for w in wide])


def test_an_order_that_frees_early_is_found_and_proven() -> None:
    x = jax.ShapeDtypeStruct((4096,), jnp.float32)
    schedule = reorder(fan, x)
    assert schedule.program_peak > 9 * 4096 * 4
    assert schedule.peak < 3.1 * 4096 * 4
    assert schedule.proven_optimal
    assert schedule.saving == pytest.approx(schedule.room)
    assert load(trace_jaxpr(schedule.fn, x)) == schedule.peak


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_reordered_programs_run_to_the_bit(name: str) -> None:
    fn, args = PROGRAMS[name]()
    schedule = reorder(fn, *args, moves=300)
    assert schedule.lower_bound <= schedule.peak <= schedule.program_peak
    assert load(trace_jaxpr(fn, *args)) == schedule.program_peak
    trace = trace_jaxpr(schedule.fn, *args)
    assert load(trace) == schedule.peak
    same(
        run_in_arena(schedule.fn, *args, plan=first_fit(trace)),
        run_in_arena(fn, *args, plan=first_fit(trace_jaxpr(fn, *args))),
    )


def test_side_effects_keep_their_order() -> None:
    seen: list[int] = []

    def fn(x: jax.Array) -> jax.Array:
        big = jnp.zeros(1000) + x
        jax.debug.callback(lambda: seen.append(0), ordered=True)
        jax.debug.callback(lambda _: seen.append(1), big, ordered=True)
        jax.debug.callback(lambda: seen.append(2), ordered=True)
        return big.sum()

    graph = Graph.of(Program.of(fn, (jnp.float32(1),), (), "loops", 64))
    rows = [
        row
        for row, step in enumerate(Program.of(fn, (jnp.float32(1),), (), "loops", 64).script.steps)
        if step.action.eqn.effects
    ]
    order = exact_order(graph)
    assert order is not None
    assert len(rows) == 3
    assert [row for row in order.tolist() if row in rows] == rows


def test_bad_options_are_refused() -> None:
    for options in ({"width": 0}, {"moves": -1}):
        with pytest.raises(ValueError, match="reorder"):
            reorder(jnp.sin, jnp.ones(3), **options)


QUICK = ("lstm",)


@pytest.mark.parametrize(
    "model", [m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in MODELS]
)
def test_training_steps(model: str) -> None:
    step = training_step(model, 2, remat=model in ("mixture", "lstm"))
    schedule = reorder(step.fn, *step.args, donate_argnums=(0, 1), width=4, moves=2000)
    assert schedule.lower_bound <= schedule.peak <= schedule.program_peak
    assert load(trace_jaxpr(step.fn, *step.args, donate_argnums=(0, 1))) == schedule.program_peak
    trace = trace_jaxpr(schedule.fn, *step.args, donate_argnums=(0, 1))
    assert load(trace) == schedule.peak


@pytest.mark.slow
@pytest.mark.parametrize("batch", [2, 5])
@pytest.mark.parametrize("model", MODELS)
def test_training_steps_run_to_the_bit_in_their_new_order(model: str, batch: int) -> None:
    step = training_step(model, batch)
    args = step.concrete()
    with jax.disable_jit():  # the program itself, not the one in another order
        expected = step.fn(*args)
    schedule = reorder(step.fn, *args, donate_argnums=(0, 1), width=4, moves=3000)
    out = run_in_arena(schedule.fn, *args, donate_argnums=(0, 1))
    same(jax.tree_util.tree_leaves(out), jax.tree_util.tree_leaves(expected))
