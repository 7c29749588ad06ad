"""What the importer reads is what the compiler decided, on every kind of program."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from experiments.workloads.training_steps import MODELS, training_step
from jaxlab.stweaver.trace import Trace
from jaxlab.stweaver.wire import read_allocations
from jaxlab.stweaver.xla import read_xla_dump, trace_xla, xla_memory
from tests.stweaver.programs import PROGRAMS, Case

pytestmark = pytest.mark.oldest
CONVENTIONS = ("half-open", "inclusive-except-shared")


def donating() -> Case:
    def step(w: Any, x: jax.Array) -> Any:
        def loss(w: Any) -> jax.Array:
            h, sums = lax.scan(jax.checkpoint(lambda h, m: (jnp.sin(h @ m), h.sum())), x, w["a"])
            h = lax.cond(sums.sum() > 0, lambda a: a @ w["b"], lambda a: a * 2, h)
            return (lax.fori_loop(0, 2, lambda _, a: jnp.cos(a), h) ** 2).sum()

        return jax.tree_util.tree_map(lambda p, g: p - 0.1 * g, w, jax.grad(loss)(w))

    w = {"a": jnp.ones((3, 24, 24)), "b": jnp.ones((24, 24)) / 7}
    return step, (w, jnp.ones((40, 24)))


CASES = {**PROGRAMS, "donating": donating}


def collisions(trace: Trace, offset: np.ndarray) -> list[tuple[str, str]]:
    """Pairs that live at one time and share a byte, by comparing all."""
    low = np.maximum.outer(trace.start, trace.start) < np.minimum.outer(trace.end, trace.end)
    top = offset + trace.size
    meet = low & (np.maximum.outer(offset, offset) < np.minimum.outer(top, top))
    return [(str(trace.id[a]), str(trace.id[b])) for a, b in np.argwhere(np.triu(meet, 1))]


@pytest.mark.parametrize("name", sorted(CASES))
def test_temporaries_agree_with_the_executable(name: str) -> None:
    fn, args = CASES[name]()
    donated = (0,) if name == "donating" else ()
    memory = xla_memory(fn, *args, donate_argnums=donated)
    compiled = jax.jit(fn, donate_argnums=donated).lower(*args).compile()
    stated = compiled.memory_analysis()
    assert memory.temp_size == stated.temp_size_in_bytes
    assert (memory.offset + memory.size).max(initial=0) == memory.temp_size
    if name == "donating":
        assert stated.alias_size_in_bytes > 0
    (held,) = [
        allocation.assigned
        for allocation in read_allocations(stated.serialized_buffer_assignment_proto)
        if allocation.temporary
    ] or [()]
    numbers = [int(value.split()[0]) for value in memory.id]
    placed = zip(numbers, memory.offset.tolist(), memory.size.tolist(), strict=True)
    assert sorted(placed) == sorted(held)
    for convention in CONVENTIONS:
        assert collisions(memory.trace(convention), memory.offset) == []


@pytest.mark.parametrize("name", ["scan", "while_loop", "remat_scan", "nested_loops"])
def test_values_that_loops_pass_on_are_kept(name: str) -> None:
    fn, args = CASES[name]()
    memory = xla_memory(fn, *args)
    assert memory.phi.any()
    assert all("(phi)" in value for value in memory.id[memory.phi])
    # every loop-carried value lies on the bytes of the value it continues
    for row in np.flatnonzero(memory.phi):
        before = (memory.last == memory.first[row]) & (memory.offset == memory.offset[row])
        assert (before & (memory.size == memory.size[row])).any(), memory.id[row]


def test_inclusive_lives_are_longer_and_their_load_lies_between() -> None:
    fn, args = donating()
    memory = xla_memory(fn, *args, donate_argnums=(0,))
    half, whole = (memory.trace(convention) for convention in CONVENTIONS)
    assert (half.start == whole.start).all()
    longer = whole.end - half.end
    assert set(longer.tolist()) == {0, 1}
    times = np.arange(whole.end.max())[:, None]
    loads = [(((t.start <= times) & (times < t.end)) * t.size).sum(1).max() for t in (half, whole)]
    assert loads[0] <= loads[1] <= memory.temp_size
    plain = Trace.of(half.size, half.start, memory.last + 1)
    assert collisions(plain, memory.offset)  # without the exception, XLA contradicts itself


def test_the_operations_are_named() -> None:
    fn, args = donating()
    trace = trace_xla(fn, *args)
    assert any("rematted_computation" in layer for layer in trace.layers)
    assert not {"parameter", "constant"} & {name.split()[1].split(".")[0] for name in trace.id}


def test_a_program_without_temporaries_gives_an_empty_trace() -> None:
    assert len(trace_xla(lambda x: x + 1, jax.ShapeDtypeStruct((5,), jnp.float32))) == 0


def test_an_unknown_convention_is_refused() -> None:
    with pytest.raises(ValueError, match="convention='open'"):
        trace_xla(jnp.sin, jnp.ones(3), convention="open")


BUFFERS = """BufferAssignment:
allocation 0: size 64, parameter 0, shape |f32[16]| at ShapeIndex {}:
 value: <1 x @0> (size=64,offset=0): f32[16]{0}
allocation 1: size 192, preallocated-temp:
 value: <2 sine.1 @0> (size=64,offset=128): f32[16]{0}
 value: <3 while{1,0} (phi) @0> (size=128,offset=0): f32[32]{0}
allocation 2: size 32, page 0, preallocated-temp:
 value: <4 tail{} @0> (size=32,offset=0): (f32[8]{0})
"""
RANGES = """HloLiveRange (max 9):
  InstructionSequence:
    0:x
  BufferLiveRange:
    x{}:0-9
    sine.1{}:1-4
    while{1,0}:2-8
    tail{}:4-5
  Live ranges at 3 (peak):
    sine.1{}: 64 bytes (cumulative: 64 bytes)
"""
STEM = "module_0001.jit_f.cpu_after_optimizations"


def dump(folder: Path, buffers: str = BUFFERS, ranges: str = RANGES, stem: str = STEM) -> Path:
    (folder / f"{stem}-buffer-assignment.txt").write_text(buffers)
    (folder / f"{stem}-live-range.txt").write_text(ranges)
    return folder


def test_a_dump_by_hand(tmp_path: Path) -> None:
    memory = read_xla_dump(dump(tmp_path))
    assert memory.id.tolist() == [
        "2 sine.1 f32[16]{0}",
        "3 while{1,0} (phi) f32[32]{0}",
        "4 tail{} (f32[8]{0})",
    ]
    assert memory.offset.tolist() == [128, 0, 192]  # the second block lies behind the first
    assert list(zip(memory.first, memory.last, strict=True)) == [(1, 4), (2, 8), (4, 5)]
    assert (memory.temp_size, memory.phi.tolist()) == (224, [False, True, False])


def test_operations_and_shapes_of_any_length(tmp_path: Path) -> None:
    metadata = 'metadata={op_type="sin" op_name="jit(f)/sin" source_line=3}'
    lines = [
        f"  ROOT %sine.1 = f32[16]{{0}} sine(%x), {metadata}",
        "  %tail = f32[8]{0} custom-call(), " + "metadata={" * 100_000,  # once quadratic
    ]
    (tmp_path / f"{STEM}.txt").write_text("\n".join(lines))
    shape = "(" + ", ".join(["f32[8]{0}"] * 10_000) + ")"
    begin = time.perf_counter()
    memory = read_xla_dump(dump(tmp_path, BUFFERS.replace("(f32[8]{0})", shape)))
    assert time.perf_counter() - begin < 5
    assert memory.operation.tolist() == ["jit(f)/sin", "", ""]
    assert max(map(len, memory.id.tolist())) == 300


@pytest.mark.parametrize(
    ("buffers", "ranges", "why"),
    [
        (BUFFERS.replace("sine.1", "sine.2"), RANGES, "value sine.2{} has no live range"),
        (BUFFERS.replace("<2 ", "2 "), RANGES, "cannot read the line"),
        (
            BUFFERS.replace("size 32,", "size 40,"),
            RANGES,
            "224, the temporaries at 232",
        ),
        (BUFFERS, RANGES.replace("while{1,0}", "while{0,1}"), "has no live range"),
    ],
)
def test_dumps_that_contradict_themselves(
    tmp_path: Path, buffers: str, ranges: str, why: str
) -> None:
    with pytest.raises(ValueError, match=why.replace("{", "[{]")):
        read_xla_dump(dump(tmp_path, buffers, ranges))


def test_dumps_that_are_missing_or_many(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--xla_dump_to"):
        read_xla_dump(tmp_path)
    dump(dump(tmp_path), stem=STEM.replace("jit_f", "jit_g"))
    with pytest.raises(ValueError, match="holds 2 programs"):
        read_xla_dump(tmp_path)
    assert read_xla_dump(tmp_path, "jit_g").temp_size == 224


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=40))
def test_broken_protocol_buffers_raise_value_errors(data: bytes) -> None:
    try:
        read_allocations(data)
    except ValueError:
        return


def test_a_protocol_buffer_by_hand() -> None:
    assigned = bytes([0x4A, 7, 0x08, 5, 0x10, 0x80, 0x01, 0x18, 9])  # id 5, offset 128, size 9
    inner = bytes([0x08, 3, 0x10, 0xAC, 0x02]) + assigned  # index 3, size 300
    (allocation,) = read_allocations(bytes([0x0A, 1, 0, 0x1A, len(inner)]) + inner)
    assert (allocation.index, allocation.size, allocation.assigned) == (3, 300, ((5, 128, 9),))
    assert allocation.temporary
    (parameter,) = read_allocations(bytes([0x1A, 2, 0x28, 1]))
    assert (parameter.parameter, parameter.temporary) == (0, False)
    for cut in (b"\x1a", b"\x1a\x05\x08", b"\x1b\x00", b"\xff" * 11):
        with pytest.raises(ValueError, match="buffer assignment"):
            read_allocations(cut)


@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_training_steps(model: str, remat: bool) -> None:
    step = training_step(model, 2, remat=remat)
    memory = xla_memory(step.fn, *step.args, donate_argnums=(0, 1))
    for convention in CONVENTIONS:
        assert collisions(memory.trace(convention), memory.offset) == []


CACHED = """
import jax, jax.numpy as jnp
from jaxlab.stweaver.xla import xla_memory
loss = lambda x: jnp.tanh(x @ x.T).sum()
for _ in range(2):
    print(xla_memory(jax.grad(loss), jax.ShapeDtypeStruct((30, 20), jnp.float32)).temp_size)
"""


def test_a_program_in_the_cache_on_disk_is_read_all_the_same(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    done = subprocess.run(
        [sys.executable, "-c", CACHED],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert len(set(done.stdout.split())) == 1
    assert any(tmp_path.iterdir())
