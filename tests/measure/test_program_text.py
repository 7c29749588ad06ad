"""Forms of a compiled program that the CPU backend does not make: text written by hand, and TPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxlab.measure import Collective, compiled_cost
from jaxlab.measure.hlo import parse_program
from jaxlab.measure.tally import count_program

HEADER = "HloModule jit_f, is_scheduled=true, num_partitions=8\n\n"


def entry(*lines: str) -> str:
    return (
        "ENTRY %main (p: f32[6,10]) -> f32[6,10] {\n" + "\n".join(f"  {x}" for x in lines) + "\n}\n"
    )


def communication(*lines: str, before: str = "") -> tuple[Collective, ...]:
    parameter = "%p = f32[6,10]{1,0} parameter(0)"
    return count_program(HEADER + before + entry(parameter, *lines))[0].communication()


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("{{0,1,2,3},{4,5,6,7}}", 4),
        ("{{0,1,2},{3,4}}", 3),
        ("[4,2]<=[8]", 2),
        ("[2,4]<=[4,2]T(1,0)", 4),
        ("mesh['x'=2,'y'=4] {'y'}", 4),
        ("mesh['x'=2,'y'=4] {'x','y'}", 8),
        ("mesh['x'=2,'y'=4] {'y':(1)2}", 2),
        ("{}", 8),
    ],
)
def test_group_sizes(groups: str, size: int) -> None:
    (found,) = communication(
        f"ROOT %r = f32[6,10] all-reduce(%p), replica_groups={groups}, to_apply=%add"
    )
    assert found == Collective("all-reduce", 240, size, 1)


def test_asynchronous_pairs_count_once() -> None:
    found = communication(
        "%g = (f32[6,10], f32[24,10]) all-gather-start(%p), replica_groups=[2,4]<=[8]",
        "%gd = f32[24,10] all-gather-done(%g)",
        "%c = (f32[24,10], f32[24,10], u32[], /*index=3*/u32[]) collective-permute-start(%gd), "
        "source_target_pairs={{0,1},{1,0}}",
        "%cd = f32[24,10] collective-permute-done(%c)",
        "%s = ((f32[24,10]), f32[6,10], u32[]) async-start(%cd), calls=%wrapped",
        "%u = ((f32[24,10]), f32[6,10], u32[]) async-update(%s)",
        "%sd = f32[6,10] async-done(%u)",
        "%t = ((f32[6,10]), f32[6,10]) all-to-all-start(%sd), replica_groups={{0,1}}",
        "ROOT %td = f32[6,10] all-to-all-done(%t)",
        before=(
            "%wrapped (q: f32[24,10]) -> f32[6,10] {\n  %q = f32[24,10] parameter(0)\n"
            "  ROOT %rs = f32[6,10] reduce-scatter(%q), replica_groups=[2,4]<=[8], to_apply=%add\n"
            "}\n\n"
        ),
    )
    assert found == (
        Collective("all-gather", 960, 4, 1),
        Collective("all-to-all", 240, 2, 1),
        Collective("collective-permute", 960, 2, 1),
        Collective("reduce-scatter", 960, 4, 1),
    )


def test_several_operands_ragged_payload_and_host_transfers() -> None:
    found = communication(
        "%b = bf16[7] parameter(1)",
        "%i = s32[4] parameter(2)",
        "%m = (f32[6,10], bf16[7]) all-reduce(%p, %b), replica_groups={{0,1}}, to_apply=%add",
        "%r = f32[50,10] ragged-all-to-all(%p, %o, %i, %i, %i, %i), replica_groups={{0,1}}",
        "%o = f32[50,10] parameter(3)",
        "%k = token[] after-all()",
        "%h = (f32[6,10], u32[], token[]) send(%p, %k), channel_id=3, is_host_transfer=true",
        "%hd = token[] send-done(%h), channel_id=3, is_host_transfer=true",
        "ROOT %z = f32[6,10] copy(%p)",
    )
    assert found == (
        Collective("all-reduce", 254, 2, 1),
        Collective("ragged-all-to-all", 240, 2, 1),
    )


def test_cublas_call_is_a_matrix_product() -> None:
    tally, _ = count_program(
        HEADER
        + entry(
            "%p = f32[6,10]{1,0} parameter(0)",
            "%w = f32[10,7]{1,0} parameter(1)",
            "%c = (f32[6,7]{1,0}, s8[1024]{0}) custom-call(%p, %w), "
            'custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":'
            '{"alpha_real":1,"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}',
            '%k = f32[6,7]{1,0} custom-call(%c), custom_call_target="mosaic_gpu"',
            "ROOT %z = f32[6,10] copy(%p)",
        )
    )
    assert tally.matmul_flops == 2 * 6 * 10 * 7
    assert tally.opaque == {"mosaic_gpu": 1}


@pytest.mark.parametrize(
    ("start", "update", "test", "trips"),
    [
        ("0", "add(%i, %one)", "compare(%j, %limit), direction=LT", 9),
        ("0", "add(%one, %i)", "compare(%limit, %j), direction=GE", 10),
        ("30", "subtract(%i, %one)", "compare(%j, %limit), direction=GT", 21),
        ("30", "subtract(%i, %one)", "compare(%j, %limit), direction=GE", 22),
        ("0", "add(%i, %one)", "compare(%j, %limit), direction=NE", 9),
        ("20", "add(%i, %one)", "compare(%j, %limit), direction=LT", 0),
        ("0", "subtract(%i, %one)", "compare(%j, %limit), direction=LT", None),
        ("0", "multiply(%i, %one)", "compare(%j, %limit), direction=LT", None),
        ("0", "subtract(%one, %i)", "compare(%j, %limit), direction=LT", None),
    ],
)
def test_counter_without_annotation(start: str, update: str, test: str, trips: int | None) -> None:
    text = (
        HEADER
        + "%body (s: (s32[], f32[6,10])) -> (s32[], f32[6,10]) {\n"
        + "  %s = (s32[], f32[6,10]) parameter(0)\n"
        + "  %i = s32[] get-tuple-element(%s), index=0\n"
        + "  %x = f32[6,10] get-tuple-element(%s), index=1\n"
        + "  %one = s32[] constant(1)\n"
        + f"  %n = s32[] {update}\n"
        + "  %y = f32[6,10] sine(%x)\n"
        + "  ROOT %t = (s32[], f32[6,10]) tuple(%n, %y)\n}\n\n"
        + "%condition (s.1: (s32[], f32[6,10])) -> pred[] {\n"
        + "  %s.1 = (s32[], f32[6,10]) parameter(0)\n"
        + "  %j = s32[] get-tuple-element(%s.1), index=0\n"
        + "  %limit = s32[] constant(9)\n"
        + f"  ROOT %lt = pred[] {test}\n}}\n\n"
        + entry(
            "%p = f32[6,10]{1,0} parameter(0)",
            f"%zero = s32[] constant({start})",
            "%c = s32[] copy(%zero)",
            "%t0 = (s32[], f32[6,10]) tuple(%c, %p)",
            "%w = (s32[], f32[6,10]) while(%t0), condition=%condition, body=%body, "
            'metadata={op_name="jit(f)/(odd \\"name\\")/while" stack_frame_id=2}',
            "ROOT %r = f32[6,10] get-tuple-element(%w), index=1",
        )
    )
    tally, loops = count_program(text)
    assert [loop.trips for loop in loops] == [trips]
    assert tally.transcendentals == (None if trips is None else 60 * trips)


def test_sizes_of_element_types() -> None:
    program = parse_program(
        HEADER
        + entry(
            "%p = (pred[3], s4[5], bf16[2,3]{1,0:T(8,128)(2,1)S(1)}, c64[2], f8e4m3fn[7], token[], "
            "f32[], s32[0,4]) parameter(0)",
            "ROOT %r = f32[] get-tuple-element(%p), index=6",
        )
    )
    assert [shape.bytes for shape in program.entry.instructions["p"].shapes] == [
        3, 3, 12, 16, 7, 0, 4, 0,
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "HloModule m\n", "ENTRY %e () -> f32[] {\n}\n"])
def test_text_that_is_no_program(text: str) -> None:
    with pytest.raises(ValueError, match="no module with an ENTRY"):
        count_program(text)


@pytest.mark.tpu_aot
def test_tpu_program() -> None:
    """TPU programs carry no trip counts and hide a reduce-scatter in a fusion."""
    topology = topologies.get_topology_desc("v5e:2x4", "tpu")
    mesh = Mesh(
        np.array(topology.devices).reshape(2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2
    )

    def local(x: jax.Array, w: jax.Array) -> jax.Array:
        def body(_, c: jax.Array) -> jax.Array:
            c = jax.lax.psum(
                jax.lax.ppermute(c, "b", [(j, (j + 1) % 4) for j in range(4)]) @ w, "a"
            )
            gathered = jax.lax.all_gather(c, "b", tiled=True)
            return jax.lax.psum_scatter(jnp.sin(gathered), "b", tiled=True)

        return jax.lax.fori_loop(0, 5, body, x)

    arguments = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
        for shape, spec in (((4096, 1024), P("b", None)), ((1024, 1024), P()))
    ]
    program = jax.shard_map(
        local, mesh=mesh, in_specs=(P("b", None), P()), out_specs=P("b", None), check_vma=False
    )
    cost = compiled_cost(program, *arguments)
    assert [loop.trips for loop in cost.loops] == [5]
    assert cost.matmul_flops == 5 * 2 * 1024**3
    assert cost.collective_bytes("all-gather") == 5 * 4096 * 1024 * 4
    assert cost.collective_bytes("all-reduce") == 5 * 1024 * 1024 * 4
    scattered = cost.collective_bytes("reduce-scatter")
    assert scattered is not None
    assert scattered >= 5 * 4096 * 1024 * 4  # the compiler pads
    assert any(entry.kind == "collective-permute" for entry in cost.collectives)
