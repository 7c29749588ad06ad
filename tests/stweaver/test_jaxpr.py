"""Lifetimes of a jaxpr's values: by hand, by brute force, and through every way of nesting."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxlab.stweaver.jaxpr import DEPTHS
from jaxlab.stweaver.jaxpr_trace import trace_jaxpr
from jaxlab.stweaver.trace import Trace
from tests.stweaver.programs import PROGRAMS

pytestmark = pytest.mark.oldest


def shape(*sizes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def rows(trace: Trace) -> list[tuple[str, int, int, int]]:
    """(primitive, size, start, end) of every request."""
    return [
        (str(name).split()[1], int(size), int(start), int(end))
        for name, size, start, end in zip(trace.id, trace.size, trace.start, trace.end, strict=True)
    ]


def load(trace: Trace) -> np.ndarray:
    times = np.arange(trace.end.max())[:, None]
    return (((trace.start <= times) & (times < trace.end)) * trace.size).sum(1)


def test_a_chain_by_hand() -> None:
    def fn(x: jax.Array, y: jax.Array) -> jax.Array:
        a = x @ y  # step 0
        b = jnp.sin(a)  # step 1, the last use of a
        c = b + 1.0  # step 2
        return c * b  # step 3

    assert rows(trace_jaxpr(fn, shape(3, 32), shape(32, 5))) == [
        ("args[0]", 384, 0, 4),
        ("args[1]", 640, 0, 4),
        ("dot_general", 64, 0, 2),
        ("sin", 64, 1, 4),
        ("add", 64, 2, 4),
        ("mul", 64, 3, 4),
    ]
    donated = rows(trace_jaxpr(fn, shape(3, 32), shape(32, 5), donate_argnums=[1]))
    assert donated[:2] == [("args[0]", 384, 0, 4), ("args[1]", 640, 0, 1)]


def test_sizes_are_rounded_up_to_the_alignment() -> None:
    for alignment, size in ((1, 12), (64, 64), (512, 512), (8, 16)):
        trace = trace_jaxpr(jnp.sin, shape(3), alignment=alignment)
        assert trace.size.tolist() == [size, size]
    assert trace_jaxpr(jnp.sin, shape(0, 3)).size.tolist() == [0, 0]


def test_unused_results_die_at_once_and_literals_take_nothing() -> None:
    def fn(x: jax.Array) -> tuple[jax.Array, float]:
        jnp.cos(x)
        return x, 2.0

    assert rows(trace_jaxpr(fn, shape(16))) == [("args[0]", 64, 0, 1), ("cos", 64, 0, 1)]


def test_a_scan_by_hand() -> None:
    def fn(c: jax.Array, xs: jax.Array) -> tuple[jax.Array, jax.Array]:
        start = c + 1
        return lax.scan(lambda c, x: (c + x, jnp.sin(x)), start, xs)

    once = [
        ("args[0]", 64, 0, 7),
        ("args[1]", 192, 0, 7),
        ("add", 64, 0, 2),  # copied into the carry when the loop begins, at step 1
        ("scan", 64, 1, 7),  # the carry
        ("scan", 192, 1, 7),  # the stacked rows
        ("scan", 64, 2, 5),  # the row of xs: sliced at 2, read last by sin
        ("add", 64, 3, 7),  # the new carry: until it is copied
        ("sin", 64, 4, 6),  # stored at 5
    ]
    assert rows(trace_jaxpr(fn, shape(16), shape(3, 16))) == once
    often = rows(trace_jaxpr(fn, shape(16), shape(3, 16), depth="iterations"))
    assert len(often) == 5 + 3 * 3
    assert [row for row in often if row[0] == "sin"] == [
        ("sin", 64, 4, 6),
        ("sin", 64, 9, 11),
        ("sin", 64, 14, 16),
    ]


def test_checkpoint_lowers_the_load_and_its_inside_is_seen() -> None:
    def layer(h: jax.Array, w: jax.Array) -> tuple[jax.Array, None]:
        return jnp.sin(jnp.cos(jnp.tanh(h @ w))), None

    def trace(body: Callable[..., Any]) -> Trace:
        def loss(ws: jax.Array, x: jax.Array) -> jax.Array:
            return lax.scan(body, x, ws)[0].sum()

        return trace_jaxpr(jax.grad(loss), shape(9, 16, 16), shape(256, 16))

    plain, remat = trace(layer), trace(jax.checkpoint(layer))
    assert load(remat).max() < 0.6 * load(plain).max()
    assert any("rematted_computation" in layer for layer in remat.layers)


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_invariants_at_every_depth(name: str) -> None:
    fn, args = PROGRAMS[name]()
    loads, counts = {}, {}
    for depth in DEPTHS:
        trace = trace_jaxpr(fn, *args, depth=depth)
        used = trace.start < trace.end
        assert used.all()  # nothing is allocated and never live
        assert (np.diff(trace.start) >= 0).all()  # in order of birth
        loads[depth], counts[depth] = load(trace).max(), len(trace)
    assert counts["calls"] <= counts["loops"] <= counts["iterations"] or name == "empty_scan"
    assert loads["calls"] <= loads["loops"]
    assert loads["loops"] == loads["iterations"]


def test_the_ids_name_the_source() -> None:
    def fn(x: jax.Array) -> jax.Array:
        with jax.named_scope("outer"):
            return jnp.tanh(x) + 1  # this line

    trace = trace_jaxpr(fn, shape(3, 5))
    line = fn.__code__.co_firstlineno + 2
    assert trace.id.tolist() == [
        "0 args[0] float32[3,5]",
        f"1 tanh test_jaxpr.py:{line} float32[3,5]",
        f"2 add test_jaxpr.py:{line} float32[3,5]",
    ]
    assert [trace.layers[code] for code in trace.layer_start] == ["", "outer", "outer"]


def test_backward_values_are_marked() -> None:
    trace = trace_jaxpr(jax.grad(lambda x: jnp.sin(jnp.cos(x)).sum()), shape(7))
    names = [str(name).split()[1] for name in trace.id]
    phases = {n: trace.phases[p] for n, p in zip(names, trace.phase_start, strict=True)}
    assert phases["args[0]"] == "arguments"
    assert phases["sin"] == "forward"
    assert phases["broadcast_in_dim"] == "backward"
    assert trace.phases[trace.phase_end[-1]] == "results"


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="depth='deep' is not one of"):
        trace_jaxpr(jnp.sin, shape(3), depth="deep")
    with pytest.raises(ValueError, match="alignment=0 must be"):
        trace_jaxpr(jnp.sin, shape(3), alignment=0)
    with pytest.raises(ValueError, match=r"donate_argnums=\[1\] names an argument beyond the 1"):
        trace_jaxpr(jnp.sin, shape(3), donate_argnums=(1,))
