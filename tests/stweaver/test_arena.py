"""The arena gives what plain evaluation gives, and a wrong plan stops it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxpr_as_fun

from jaxlab.stweaver.arena import run_in_arena
from jaxlab.stweaver.jaxpr_trace import trace_jaxpr
from jaxlab.stweaver.trace import Trace
from tests.stweaver.programs import PROGRAMS


@dataclasses.dataclass(frozen=True)
class Offsets:
    offsets: np.ndarray
    height: int = 0


def first_fit(trace: Trace) -> Offsets:
    """A plan by the book: in order of birth, the lowest hole; slow and plainly right."""
    offsets = np.zeros(len(trace), np.int64)
    for row in range(len(trace)):
        rivals = [
            (offsets[other], offsets[other] + trace.size[other])
            for other in range(row)
            if trace.start[other] < trace.end[row] and trace.start[row] < trace.end[other]
        ]
        at = 0
        for begin, end in sorted(rivals):
            if begin - at >= trace.size[row]:
                break
            at = max(at, end)
        offsets[row] = at
    return Offsets(offsets)


def same(left: object, right: object) -> None:
    leaves, others = jax.tree_util.tree_leaves(left), jax.tree_util.tree_leaves(right)
    assert jax.tree_util.tree_structure(left) == jax.tree_util.tree_structure(right)
    for a, b in zip(leaves, others, strict=True):
        if jax.dtypes.issubdtype(jnp.asarray(a).dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        a, b = np.asarray(a), np.asarray(b, jnp.asarray(b).dtype)  # Python scalars become jax's
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_equations_as_jax_evaluates_the_jaxpr(name: str) -> None:
    fn, args = PROGRAMS[name]()
    flat = jaxpr_as_fun(jax.make_jaxpr(fn)(*args))(*jax.tree_util.tree_leaves(args))
    trace = trace_jaxpr(fn, *args, depth="equations")
    out = run_in_arena(fn, *args, plan=first_fit(trace), depth="equations")
    same(jax.tree_util.tree_leaves(out), list(flat))
    assert jax.tree_util.tree_structure(out) == jax.tree_util.tree_structure(fn(*args))


@pytest.mark.parametrize("depth", ["loops", "iterations"])
@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_inside_loops_as_jax_without_jit(name: str, depth: str) -> None:
    fn, args = PROGRAMS[name]()
    plan = first_fit(trace_jaxpr(fn, *args, depth=depth))
    with jax.disable_jit(name != "empty_scan"):  # which jax refuses without jit
        expected = fn(*args)
    same(run_in_arena(fn, *args, plan=plan, depth=depth), expected)


def live_pairs(trace: Trace) -> list[tuple[int, int]]:
    """Requests a, b that live at one time."""
    rows = range(len(trace))
    return [
        (a, b)
        for a in rows
        for b in rows
        if a != b and max(trace.start[a], trace.start[b]) < min(trace.end[a], trace.end[b])
    ]


@pytest.mark.parametrize("name", ["plain", "remat_scan", "cond", "while_loop"])
@pytest.mark.parametrize("step", [64, -64])
def test_an_offset_moved_onto_a_live_neighbor_is_refused(name: str, step: int) -> None:
    fn, args = PROGRAMS[name]()
    trace = trace_jaxpr(fn, *args)
    plan = first_fit(trace)
    ends = plan.offsets + trace.size
    neighbors = [
        (a, b)
        for a, b in live_pairs(trace)
        if (ends[a] == plan.offsets[b] if step > 0 else plan.offsets[a] == ends[b])
        and trace.size[a]
        and trace.size[b]
    ]
    assert neighbors
    for a, b in neighbors[:: max(len(neighbors) // 5, 1)]:
        moved = plan.offsets.copy()
        moved[a] += step
        first, second = trace.id[a], trace.id[b]
        with pytest.raises(RuntimeError, match="overlaps") as caught:
            run_in_arena(fn, *args, plan=Offsets(moved))
        assert str(first) in str(caught.value) or str(second) in str(caught.value)


def test_a_plan_that_frees_too_early_shows() -> None:
    def fn(x: jax.Array) -> jax.Array:
        y = x + 1
        z = y * 2
        return z + y

    x = jnp.arange(16.0)
    plan = first_fit(trace_jaxpr(fn, x))
    wrong = plan.offsets.copy()
    wrong[2] = wrong[1]  # z upon y, which is still needed
    with pytest.raises(RuntimeError, match=r"mul .* overlaps .*add"):
        run_in_arena(fn, x, plan=Offsets(wrong))


def test_bad_plans_are_refused_before_the_run() -> None:
    x = jnp.arange(16.0)
    plan = first_fit(trace_jaxpr(jnp.sin, x)).offsets
    with pytest.raises(ValueError, match="places 1 requests, the program makes 2"):
        run_in_arena(jnp.sin, x, plan=Offsets(plan[:1]))
    for offset in (-64, 32):
        with pytest.raises(ValueError, match="multiple of 64"):
            run_in_arena(jnp.sin, x, plan=Offsets(np.array([0, offset])))
    with pytest.raises(ValueError, match="at offset 1125899906842624 needs an arena of more than"):
        run_in_arena(jnp.sin, x, plan=Offsets(np.array([0, 1 << 50])))


def test_donated_arguments_give_their_bytes_to_results() -> None:
    def fn(x: jax.Array) -> jax.Array:
        return (x * 2).sum(keepdims=True) + jnp.ones(1024)

    x = jnp.arange(1024.0)
    kept, donated = (trace_jaxpr(fn, x, donate_argnums=numbers) for numbers in ((), (0,)))
    plan = first_fit(donated)
    assert (plan.offsets + donated.size).max() < (first_fit(kept).offsets + kept.size).max()
    same(run_in_arena(fn, x, plan=plan, donate_argnums=(0,)), fn(x))
    assert float(x[5]) == 5.0  # the caller's own array is never touched
