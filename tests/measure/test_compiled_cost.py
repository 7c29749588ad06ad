"""Compiled cost against programs counted by hand and, without loops, against XLA's own analysis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxlab.measure import Collective, CompiledCost, compiled_cost

pytestmark = pytest.mark.oldest
DOT = 2 * 3 * 5 * 5  # (3, 5) @ (5, 5)


def ones(*shape: int, dtype: str = "float32") -> jax.Array:
    return jnp.ones(shape, dtype)


LOOP_FREE = {
    "dot": (lambda x, y: x @ y, (ones(5, 7), ones(7, 3))),
    "batched bfloat16 dot": (
        lambda x, y: jnp.einsum("bhqd,bhkd->bhqk", x, y),
        (ones(2, 3, 4, 5, dtype="bfloat16"), ones(2, 3, 7, 5, dtype="bfloat16")),
    ),
    "elementwise": (lambda x: jnp.tanh(x) * 2 + x**2.5 + jax.lax.rsqrt(x), (ones(5, 7),)),
    "softmax": (lambda x: jax.nn.softmax(x), (ones(5, 7),)),
    "attention": (
        lambda q, k, v: jax.nn.dot_product_attention(q, k, v, is_causal=True),
        (ones(1, 16, 2, 8),) * 3,
    ),
    "grouped convolution, strided and padded": (
        lambda x, k: jax.lax.conv_general_dilated(x, k, (2, 1), "SAME", feature_group_count=2),
        (ones(2, 4, 9, 7), ones(6, 2, 3, 5)),
    ),
    "dilated convolution": (
        lambda x, k: jax.lax.conv_general_dilated(
            x, k, (1,), [(2, 3)], lhs_dilation=(2,), rhs_dilation=(3,)
        ),
        (ones(2, 4, 19), ones(6, 4, 3)),
    ),
    "kernel gradient": (
        jax.grad(
            lambda k, x: jax.lax.conv_general_dilated(
                x, k, (2, 1), "SAME", feature_group_count=2
            ).sum()
        ),
        (ones(6, 2, 3, 5), ones(2, 4, 9, 7)),
    ),
    "slice of a fusion's operand": (lambda x: x[3:5] * 2, (ones(50, 7),)),
    "dynamic slice": (lambda x, i: jax.lax.dynamic_slice(x, (i, 0), (2, 7)) * 2, (ones(50, 7), 3)),
    "update in place": (
        lambda x, i, u: jax.lax.dynamic_update_slice(x, u, (i, 0)),
        (ones(50, 7), 3, ones(2, 7)),
    ),
    "sort": (lambda x: jnp.sort(x), (ones(4, 30),)),
    "windows": (
        lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (3, 2), (2, 1), "SAME"),
        (ones(14, 30),),
    ),
    "concatenation": (lambda x: jnp.concatenate([x, x * 2, jnp.flip(x)]), (ones(5, 7),)),
}


@pytest.mark.parametrize("name", LOOP_FREE)
def test_equals_xla_without_loops(name: str) -> None:
    function, arguments = LOOP_FREE[name]
    compiled = jax.jit(function).lower(*arguments).compile()
    theirs, ours = compiled.cost_analysis(), compiled_cost(compiled)
    assert theirs is not None
    assert ours.flops == theirs.get("flops", 0)
    assert ours.transcendentals == theirs.get("transcendentals", 0)
    assert ours.bytes_accessed == theirs["bytes accessed"]
    assert ours.loops == ()
    assert not ours.opaque_calls


def test_scan_counts_every_step_and_only_the_slice_it_reads() -> None:
    steps = 7

    def chain(x: jax.Array, weights: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, weights)[0]

    cost = compiled_cost(chain, ones(3, 5), ones(steps, 5, 5))
    assert cost.matmul_flops == steps * DOT
    # Each step adds 1 to the counter; the test of the counter runs once more than the body.
    assert cost.flops == steps * (DOT + 1) + (steps + 1)
    assert cost.transcendentals == steps * 15
    assert [loop.trips for loop in cost.loops] == [steps]
    assert "while" in cost.loops[0].name
    once = compiled_cost(lambda x, w: jnp.tanh(x @ w), ones(3, 5), ones(5, 5)).bytes_accessed
    assert once is not None
    assert cost.bytes_accessed is not None
    # A step that read all weights would cost 700 bytes more than a step that reads its own.
    assert cost.bytes_accessed < steps * (once + 2 * 100 + 2 * 60 + 50)
    assert cost.bytes_accessed > steps * once


@pytest.mark.parametrize(
    ("start", "step", "proceed", "trips"),
    [
        (2, 1, lambda i: i < 11, 9),
        (1, 2, lambda i: i < 11, 5),
        (0, 3, lambda i: i <= 7, 3),
        (7, -1, lambda i: i > 0, 7),
        (0, 1, lambda i: i != 6, 6),
        (0, 1, lambda i: jnp.int32(7) > i, 7),
    ],
)
def test_counters_of_every_kind(start: int, step: int, proceed, trips: int) -> None:
    def program(x: jax.Array) -> jax.Array:
        return jax.lax.while_loop(
            lambda s: proceed(s[0]), lambda s: (s[0] + step, s[1] @ s[1]), (start, x)
        )[1]

    cost = compiled_cost(program, ones(5, 5))
    assert cost.matmul_flops == trips * 2 * 5**3
    assert [loop.trips for loop in cost.loops] == [trips]


def test_nested_loops_multiply() -> None:
    def program(x: jax.Array) -> jax.Array:
        inner = lambda _, y: y @ y  # noqa: E731
        return jax.lax.fori_loop(0, 3, lambda _, y: jax.lax.fori_loop(0, 11, inner, y) @ y, x)

    cost = compiled_cost(program, ones(5, 5))
    assert cost.matmul_flops == 3 * (11 + 1) * 2 * 5**3
    assert sorted(loop.trips or 0 for loop in cost.loops) == [3, 11]


def test_data_dependent_loop_is_unknown_and_spoils_only_what_it_holds() -> None:
    def program(x: jax.Array, n: jax.Array) -> tuple[jax.Array, jax.Array]:
        return x @ x, jax.lax.fori_loop(0, n, lambda _, y: jnp.sin(y), x)

    cost = compiled_cost(program, ones(6, 6), 4)
    assert [loop.trips for loop in cost.loops] == [None]
    assert cost.flops is None
    assert cost.transcendentals is None
    assert cost.bytes_accessed is None
    assert cost.matmul_flops == 2 * 6**3
    assert cost.collective_bytes() == 0
    assert "unknown" in str(cost)


def test_early_exit_is_unknown_though_a_counter_bounds_it() -> None:
    def program(x: jax.Array) -> jax.Array:
        return jax.lax.while_loop(
            lambda s: (s[0] < 7) & (s[1].sum() < 3), lambda s: (s[0] + 1, s[1] @ s[1]), (0, x)
        )[1]

    assert compiled_cost(program, ones(5, 5)).matmul_flops is None


def test_conditional_counts_the_costliest_branch() -> None:
    def program(which: jax.Array, x: jax.Array) -> jax.Array:
        branches = [lambda y: y @ y, lambda y: y @ y @ y @ y, lambda y: jnp.sin(jnp.sin(y))]
        return jax.lax.fori_loop(0, 5, lambda _, y: jax.lax.switch(which, branches, y), x)

    cost = compiled_cost(program, 1, ones(4, 4))
    assert cost.matmul_flops == 5 * 3 * 2 * 4**3
    assert cost.transcendentals == 5 * 2 * 16


def sharded_loop(trips: int | None):
    """Five collectives over a (2, 4) mesh, ``trips`` times or as data decides."""
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    ring = [(j, (j + 1) % 4) for j in range(4)]

    def body(_, x: jax.Array) -> jax.Array:
        x = jax.lax.psum(jax.lax.ppermute(x, "b", ring), "a")
        gathered = jax.lax.all_gather(x, "b", tiled=True)
        x = jax.lax.psum_scatter(jnp.sin(gathered), "b", tiled=True)
        return jnp.sin(jax.lax.all_to_all(x, "b", 1, 0, tiled=True).reshape(x.shape))

    def local(x: jax.Array, n: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, n if trips is None else trips, body, x)

    return jax.shard_map(
        local, mesh=mesh, in_specs=(P("b", None), P()), out_specs=P("b", None), check_vma=False
    )


def test_collectives_times_trips_for_one_device() -> None:
    cost = compiled_cost(sharded_loop(5), ones(16, 12), 3)
    local = 4 * 12 * 4  # four of sixteen rows of twelve float32
    assert cost.collectives == (
        Collective("all-gather", 4 * local, 4, 5),
        Collective("all-reduce", local, 2, 5),
        Collective("all-to-all", local, 4, 5),
        Collective("collective-permute", local, 8, 5),
        Collective("reduce-scatter", 4 * local, 4, 5),
    )
    assert cost.collective_bytes("all-gather") == 5 * 4 * local
    assert cost.collective_bytes() == 5 * (4 + 1 + 1 + 1 + 4) * local
    wire = {entry.kind: entry.wire_bytes for entry in cost.collectives}
    assert wire == {
        "all-gather": 5 * 3 * local,
        "all-reduce": 5 * local,
        "all-to-all": 5 * local * 3 // 4,
        "collective-permute": 5 * local,
        "reduce-scatter": 5 * 3 * local,
    }


def test_collectives_in_a_data_dependent_loop_are_unknown() -> None:
    cost = compiled_cost(sharded_loop(None), ones(16, 12), 3)
    assert [entry.count for entry in cost.collectives] == [None] * 5
    assert cost.collective_bytes("all-reduce") is None
    assert cost.collectives[0].wire_bytes is None


def test_unlike_collectives_of_two_branches_do_not_add_up() -> None:
    mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))

    def local(which: jax.Array, x: jax.Array) -> jax.Array:
        return jax.lax.cond(
            which > 0,
            lambda y: jax.lax.all_gather(y, "a").sum(0),
            lambda y: jnp.tile(jax.lax.all_gather(y[:2], "a").sum(0), (3, 1)),
            x,
        )

    program = jax.shard_map(local, mesh=mesh, in_specs=(P(), P()), out_specs=P(), check_vma=False)
    cost = compiled_cost(program, 1, ones(6, 5))
    assert cost.collectives == (Collective("all-gather", 8 * 6 * 5 * 4, 8, 1),)


def test_memory_of_arguments_results_and_buffers() -> None:
    donating = jax.jit(lambda x, y: (x + 1, y.sum()), donate_argnums=0)
    cost = compiled_cost(donating, ones(100, 3), ones(7))
    assert cost.argument_bytes == 1200 + 28
    assert cost.alias_bytes == 1200
    two_stages = compiled_cost(lambda x, y: (x @ y) @ x, ones(50, 50), ones(50, 50))
    assert two_stages.output_bytes == 10_000
    assert two_stages.temp_bytes is not None
    assert two_stages.temp_bytes >= 10_000


def test_opaque_calls_are_named_with_their_trips() -> None:
    def program(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 3, lambda _, y: jnp.linalg.cholesky(y), x)

    cost = compiled_cost(program, jnp.eye(5))
    assert list(cost.opaque_calls.values()) == [3]
    assert "not counted" in str(cost)


def test_every_stage_of_compilation_gives_the_same_cost() -> None:
    jitted = jax.jit(lambda x: x @ x)
    lowered = jitted.lower(ones(4, 4))
    costs = [
        compiled_cost(lambda x: x @ x, ones(4, 4)),
        compiled_cost(jitted, jax.ShapeDtypeStruct((4, 4), np.float32)),
        compiled_cost(jitted, x=ones(4, 4)),
        compiled_cost(lowered),
        compiled_cost(lowered.compile()),
    ]
    assert all(isinstance(cost, CompiledCost) and cost == costs[0] for cost in costs)


def test_bad_input() -> None:
    lowered = jax.jit(lambda x: x).lower(1.0)
    with pytest.raises(TypeError, match=r"already has its arguments, got 1 more"):
        compiled_cost(lowered, 1.0)
    with pytest.raises(ValueError, match=r"kind='allgather' is not one of all-gather"):
        compiled_cost(lowered).collective_bytes("allgather")
