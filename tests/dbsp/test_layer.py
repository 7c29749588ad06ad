"""The sharded layer against attention in float64, for any plan on any mesh; and its program."""

import collections
import dataclasses
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxlab.blocksparse import BlockMask
from jaxlab.dbsp import (
    Plan,
    device_plan,
    from_home,
    sharded_attention,
    to_home,
    traffic,
    work_table,
)
from jaxlab.measure import compiled_cost
from tests.compile_counter import count_compilations
from tests.dbsp.layer_cases import CASES, FACTORINGS, Case, mesh_of
from tests.jaxpr_equations import equations
from tests.oracles import attention

TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}


def check(case: Case, plan: Plan, implementation: str) -> None:
    """Output and gradients, compiled as one program, against float64."""
    mesh = mesh_of(plan.ulysses, plan.ring)

    @jax.jit
    def everything(q, k, v, d_out, mask):
        def attend(q, k, v):
            return sharded_attention(q, k, v, mask, plan, mesh=mesh, implementation=implementation)

        out, pullback = jax.vjp(attend, q, k, v)
        return out, *pullback(d_out)

    for name, found, expected in zip(
        ("out", "dq", "dk", "dv"), everything(*case.arrays, case.mask), case.expected, strict=True
    ):
        np.testing.assert_allclose(found, expected, err_msg=name, **TOLERANCE)


@pytest.mark.parametrize(
    ("factoring", "name"),
    [((3, 1), "lonely"), ((2, 2), "text"), ((2, 3), "ragged")],
)
def test_equals_attention_on_meshes_of_every_kind(factoring: tuple[int, int], name: str) -> None:
    check(CASES[name], CASES[name].plan(*factoring, seed=1), "reference")


def test_equals_attention_with_loops() -> None:
    check(CASES["grouped"], CASES["grouped"].plan(2, 2, seed=2, together=True), "xla")


def test_equals_attention_with_kernels() -> None:
    case = Case(45, 40, 16, 16, 2, 1, causal=True)
    check(case, case.plan(1, 2, seed=2), "pallas")


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["reference", "xla"])
@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("factoring", FACTORINGS)
def test_equals_attention_on_every_mesh_in_every_case(
    factoring: tuple[int, int], name: str, together: bool, implementation: str
) -> None:
    case = CASES[name]
    if together and case.kv_heads == case.heads:
        pytest.skip("every query head has its own key head")
    check(case, case.plan(*factoring, seed=3, together=together), implementation)


INVARIANT = CASES["ragged"]


@given(seed=st.integers(0, 2**32 - 1), density=st.sampled_from([0.0, 0.3, 1.0]))
def test_no_plan_changes_the_result(seed: int, density: float) -> None:
    mask = INVARIANT.mask
    drawn = np.random.default_rng(seed).random(mask.blocks.shape) < density
    mask = dataclasses.replace(mask, blocks=drawn)
    q, k, v, _ = INVARIANT.arrays
    plain = INVARIANT.plan(2, 3)
    plain = Plan.contiguous(
        heads=5, q_blocks=10, kv_blocks=10, ulysses=plain.ulysses, ring=plain.ring
    )
    found, expected = (
        sharded_attention(
            q, k, v, mask, device_plan(plan, capacities=(4, 4)), mesh=mesh_of(2, 3),
            implementation="reference",
        )
        for plan in (INVARIANT.plan(2, 3, seed=seed), plain)
    )  # fmt: skip
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_float64_results_do_not_depend_on_the_plan() -> None:
    case = CASES["grouped"]
    with jax.enable_x64(True):
        q, k, v, _ = (jnp.asarray(np.asarray(x, np.float64)) for x in case.arrays)
        out = sharded_attention(
            q, k, v, case.mask, case.plan(2, 2), mesh=mesh_of(2, 2), implementation="reference"
        )
        assert out.dtype == jnp.float64
        np.testing.assert_allclose(out, case.expected[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_narrow_types(dtype: str) -> None:
    case = CASES["text"]
    q, k, v, _ = (x.astype(dtype) for x in case.arrays)
    out = sharded_attention(
        q, k, v, case.mask, case.plan(1, 2), mesh=mesh_of(1, 2), implementation="reference"
    )
    assert out.dtype == dtype
    np.testing.assert_allclose(np.asarray(out, np.float64), case.expected[0], rtol=2e-2, atol=2e-2)


def static_home(case: Case, ulysses: int, ring: int, seed: int) -> Plan:
    """A plan whose home is a random order of the larger blocks, the same tokens on both sides."""
    rng = np.random.default_rng(seed)
    ratio = case.q_block // case.kv_block
    devices = ulysses * ring
    coarse = rng.permutation(-(-case.mask.blocks.shape[-2] // devices) * devices)
    fine = (coarse[:, None] * ratio + np.arange(ratio)).reshape(-1)
    return Plan(
        ulysses, ring, case.plan(ulysses, ring, seed=seed).head_perm,
        rng.permuted(np.tile(coarse, (ulysses, 1)), axis=1),
        rng.permuted(np.tile(fine, (ulysses, 1)), axis=1),
        coarse, fine,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["grouped", pytest.param("ragged", marks=pytest.mark.slow)])
def test_a_static_home_is_folded_into_the_token_order(name: str) -> None:
    case = CASES[name]
    plan = static_home(case, 2, 2, seed=4)
    q, k, v, _ = case.arrays
    homes = (
        to_home(q, plan, case.q_block),
        *(to_home(x, plan, case.kv_block, side="kv") for x in (k, v)),
    )
    np.testing.assert_array_equal(homes[1], to_home(k, plan, case.q_block))
    np.testing.assert_array_equal(from_home(homes[0], plan, case.q_block, case.q_len), q)
    out = sharded_attention(*homes, case.mask, plan, mesh=mesh_of(2, 2), implementation="reference")
    assert out.shape[1] == homes[0].shape[1]
    back = from_home(out, plan, case.q_block, case.q_len)
    np.testing.assert_allclose(back, case.expected[0], **TOLERANCE)
    padding = to_home(jnp.ones((1, case.q_len)), plan, case.q_block)[0] == 0
    assert not np.asarray(out)[:, padding].any()


@pytest.mark.oldest
def test_new_plans_and_masks_of_the_same_capacity_compile_nothing() -> None:
    case = dataclasses.replace(CASES["ragged"], q_len=95, kv_len=87)
    q, k, v, _ = case.arrays
    plans = [device_plan(case.plan(2, 2, seed=seed)) for seed in range(12)]
    (common, _), *_ = collections.Counter(plan.capacities for plan in plans).most_common()
    alike = [plan for plan in plans if plan.capacities == common]
    assert len(alike) > 2
    with count_compilations("_attend") as compiled:
        for plan in alike:
            blocks = np.roll(case.mask.blocks, 1 + int(plan.heads[0, 0]), axis=-1)
            mask = dataclasses.replace(case.mask, blocks=blocks)
            sharded_attention(q, k, v, mask, plan, mesh=mesh_of(2, 2), implementation="reference")
    assert compiled.count == 1


@pytest.mark.parametrize(
    ("name", "factoring"),
    [
        ("ragged", (2, 3)),
        ("grouped", (1, 4)),
        ("grouped", (4, 1)),
        pytest.param("ragged", (1, 4), marks=pytest.mark.slow),
        pytest.param("ragged", (4, 1), marks=pytest.mark.slow),
        pytest.param("grouped", (2, 2), marks=pytest.mark.slow),
        pytest.param("grouped", (2, 3), marks=pytest.mark.slow),
    ],
)
def test_the_program_sends_what_the_account_says(name: str, factoring: tuple[int, int]) -> None:
    case = CASES[name]
    plan = case.plan(*factoring, seed=5, together=name == "grouped")
    mesh = mesh_of(*factoring)
    sharding = NamedSharding(mesh, P(None, ("ring", "ulysses")))
    q, k, v = (
        jax.device_put(to_home(x, plan, block, side=side), sharding)
        for x, block, side in zip(
            case.arrays, (case.q_block, case.kv_block, case.kv_block), ("q", "kv", "kv"),
            strict=False,
        )
    )  # fmt: skip

    def attend(q, k, v, mask, plan):
        return sharded_attention(q, k, v, mask, plan, mesh=mesh, implementation="reference")

    lowered = device_plan(plan, sharing=case.heads // case.kv_heads)
    cost = compiled_cost(jax.jit(attend), q, k, v, case.mask, lowered)
    account = traffic(q, k, v, case.mask, plan)
    sent = {"all-to-all": 0, "collective-permute": 0}
    for entry in cost.collectives:
        sent[entry.kind] += entry.wire_bytes * account.devices
    assert sent["all-to-all"] == account.ulysses.sent
    assert sent["collective-permute"] == account.exchange.sent + account.ring.sent
    assert account.total.sent == sum(sent.values())
    for stage in (account.ulysses, account.exchange, account.ring):
        assert 0 <= stage.needed <= stage.sent


def needed_by_walking(case: Case, plan: Plan) -> tuple[int, int, int]:
    """Follows every true token of every head through the stages; elements that change device."""
    width = case.batch * (case.dim + case.value_dim)
    groups = plan.head_perm.reshape(plan.ulysses, -1)
    shared = case.heads // case.kv_heads
    counts = [0, 0, 0]
    for side, length, block, home, order in (
        ("q", case.q_len, case.q_block, plan.q_home, plan.q_order),
        ("kv", case.kv_len, case.kv_block, plan.kv_home, plan.kv_order),
    ):
        slots = home.size * block // (plan.ulysses * plan.ring)
        for token, group in itertools.product(range(length), range(plan.ulysses)):
            heads = {int(h) for h in groups[group] if h < case.heads}
            if side == "kv":
                heads = {h // shared for h in heads}
            at = list(home).index(token // block) * block + token % block
            device, shard = at // slots, at // slots // plan.ulysses
            target = list(order[group]).index(token // block) * plan.ring // home.size
            counts[0] += len(heads) * (device % plan.ulysses != group)
            counts[1] += len(heads) * (shard != target)
            counts[2] += len(heads) * (plan.ring - 1) * (side == "kv")
    return tuple(4 * width * count for count in counts)


@pytest.mark.parametrize(
    ("name", "factoring", "together"),
    [("ragged", (2, 3), False), ("grouped", (3, 2), False), ("grouped", (2, 2), True),
     ("lonely", (1, 4), False)],
)  # fmt: skip
def test_needed_bytes_equal_a_walk_over_all_tokens(
    name: str, factoring: tuple[int, int], together: bool
) -> None:
    case = CASES[name]
    plan = case.plan(*factoring, seed=6, together=together)
    account = traffic(*case.arrays[:3], case.mask, plan)
    found = (account.ulysses.needed, account.exchange.needed, account.ring.needed)
    assert found == needed_by_walking(case, plan)


def test_a_plan_that_moves_nothing_exchanges_nothing() -> None:
    case = CASES["ragged"]
    plan = Plan.contiguous(heads=5, q_blocks=10, kv_blocks=10, ulysses=1, ring=4)
    assert traffic(*case.arrays[:3], case.mask, plan).exchange == (0, 0)


def test_a_plan_for_another_mask_has_no_account() -> None:
    case = CASES["ragged"]
    q, k, v = case.arrays[:3]
    for heads, blocks in ((9, 10), (5, 20), (5, 6)):
        plan = Plan.contiguous(heads=heads, q_blocks=blocks, kv_blocks=10, ulysses=1, ring=2)
        with pytest.raises(ValueError, match="traffic: the plan is for another mask"):
            traffic(q, k, v, case.mask, plan)
    plan = Plan.contiguous(heads=5, q_blocks=10, kv_blocks=10, ulysses=1, ring=2)
    with pytest.raises(ValueError, match="traffic: q has 3 tokens"):
        traffic(q[:, :3], k, v, case.mask, plan)


@pytest.mark.oldest
def test_no_device_gathers_queries_keys_or_values() -> None:
    case = CASES["ragged"]
    plan, mesh = case.plan(2, 2, seed=7), mesh_of(2, 2)
    sharding = NamedSharding(mesh, P(None, ("ring", "ulysses")))
    q, k, v, d_out = (jax.device_put(to_home(x, plan, 8), sharding) for x in case.arrays)

    def gradients(q, k, v, d_out):
        def attend(q, k, v):
            return sharded_attention(
                q, k, v, case.mask, plan, mesh=mesh, implementation="reference"
            )

        return jax.vjp(attend, q, k, v)[1](d_out)

    text = jax.jit(gradients).lower(q, k, v, d_out).compile().as_text()
    assert "collective-permute" in text
    assert "all-to-all" in text
    assert "all-gather" not in text
    assert "all-reduce" not in text


@pytest.mark.oldest
@pytest.mark.parametrize("backward", [False, True])
def test_the_next_hop_is_issued_before_the_block_is_computed(backward: bool) -> None:
    case = CASES["text"]
    plan, mesh = case.plan(1, 4, seed=8), mesh_of(1, 4)

    def attend(q, k, v):
        return sharded_attention(q, k, v, case.mask, plan, mesh=mesh, implementation="xla")

    def program(q, k, v, d_out):
        return jax.vjp(attend, q, k, v)[1](d_out) if backward else attend(q, k, v)

    name = "_attend_backward" if backward else "_attend"
    bodies = []
    for body, _, equation in equations(jax.make_jaxpr(program)(*case.arrays).jaxpr):
        if (
            equation.params.get("name") == name
            and any(e.primitive.name == "ppermute" for e in body.eqns)
            and not any(e.primitive.name in ("scan", "shard_map") for e in body.eqns)
        ):
            bodies.append(body)
    assert bodies, "no loop over ring steps was found"
    for body in bodies:
        kinds = [e.params.get("name", e.primitive.name) for e in body.eqns]
        kernel = kinds.index(name)
        hops = [i for i, kind in enumerate(kinds) if kind == "ppermute"]
        assert len(hops) == (4 if backward else 2)
        assert max(hops) < kernel
        carried = set(body.invars)
        assert all(variable in carried for i in hops for variable in body.eqns[i].invars)


def test_every_device_computes_its_own_blocks_and_no_others() -> None:
    rng = np.random.default_rng(9)
    blocks = rng.random((4, 8, 8)) < rng.random((4, 1, 1))
    mask = BlockMask(blocks, 16, 16, 128, 128)
    q, k, v = jnp.asarray(rng.standard_normal((3, 1, 128, 4, 8)), jnp.float32)
    allowed = attention.token_mask(blocks, 16, 16, 128, 128, False, None, None)
    expected, _ = attention.attention(*(np.asarray(x) for x in (q, k, v)), allowed, 8**-0.5)
    case = Case(128, 128, 16, 16, 4, 4)
    plan = dataclasses.replace(case.plan(2, 3, seed=10), head_perm=rng.permutation(4))
    out, trips = sharded_attention(
        q, k, v, mask, plan, mesh=mesh_of(2, 3), return_trips=True, implementation="pallas"
    )
    np.testing.assert_array_equal(trips, work_table(blocks, plan))
    np.testing.assert_allclose(out, expected, **TOLERANCE)


def test_empty_tiles_make_no_trips() -> None:
    case = dataclasses.replace(CASES["lonely"], kv_heads=3)
    plan = case.plan(3, 2, seed=11)
    _, trips = sharded_attention(
        *case.arrays[:3], case.mask, plan, mesh=mesh_of(3, 2), return_trips=True,
        implementation="xla",
    )  # fmt: skip
    work = work_table(np.asarray(case.mask.blocks), plan)
    assert (work == 0).any()
    np.testing.assert_array_equal(np.asarray(trips) == 0, work == 0)
    assert (np.asarray(trips) >= work).all()


def broken(**changes):
    case = CASES["ragged"]
    arguments = dict(
        zip(("q", "k", "v"), case.arrays, strict=False), mask=case.mask,
        plan=case.plan(2, 2), mesh=mesh_of(2, 2),
    )  # fmt: skip
    return arguments | changes


def mesh_with(names=("ring", "ulysses"), kinds=(AxisType.Auto,) * 2):
    return jax.make_mesh((2, 2), names, axis_types=kinds, devices=jax.devices()[:4])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (lambda: {"mesh": mesh_of(4, 2)}, ValueError, "ring=2 and ulysses=4, the plan"),
        (lambda: {"mesh": mesh_of(4, 1)}, ValueError, "plan for this mesh"),
        (lambda: {"mesh": mesh_with(("r", "u"))}, ValueError, "make it with"),
        (
            lambda: {"mesh": mesh_with(kinds=(AxisType.Explicit,) * 2)}, ValueError,
            "axis_types=.AxisType.Auto",
        ),
        (lambda: {"plan": CASES["text"].plan(2, 2)}, ValueError, "another mask.*4 heads"),
        (
            lambda: {"plan": Case(150, 75, 8, 8, 5, 5).plan(2, 2)}, ValueError,
            "another mask.*20 blocks of q",
        ),
        (
            lambda: {"plan": Case(75, 40, 8, 8, 5, 5).plan(2, 2)}, ValueError,
            "another mask.*8 blocks of k and v",
        ),
        (
            lambda: {"plan": Plan(2, 2, np.arange(6), *[np.tile(np.arange(10), (2, 1))] * 2)},
            None, None,
        ),
        (
            lambda: {"q": CASES["ragged"].arrays[0][:, :-1]}, ValueError, "74 tokens, expected 96",
        ),
        (
            lambda: {"plan": static_home(CASES["ragged"], 2, 2, 0)}, ValueError, "call to_home",
        ),
        (lambda: {"q": CASES["ragged"].arrays[0][0]}, ValueError, "q must be an array"),
        (lambda: {"v": CASES["ragged"].arrays[2][:, :, :3]}, ValueError, "do not fit"),
        (
            lambda: {x: CASES["ragged"].arrays[i][:, :, :3] for i, x in ((1, "k"), (2, "v"))},
            ValueError,
            "no multiple of the 3",
        ),
        (lambda: {"v": CASES["ragged"].arrays[2].astype("bfloat16")}, TypeError, "cast them"),
        (
            lambda: {"plan": device_plan(CASES["ragged"].plan(2, 2), sharing=3)}, None, None,
        ),
    ],
)  # fmt: skip
def test_bad_input_is_named_before_any_compile(changes, error, message) -> None:
    arguments = broken(**changes())
    if error is None:
        jax.eval_shape(lambda: sharded_attention(**arguments))
        return
    with count_compilations() as compiled, pytest.raises(error, match=message):
        inspect.unwrap(sharded_attention)(**arguments)
    assert compiled.count == 0


def test_other_kinds_are_refused() -> None:
    case = CASES["ragged"]
    with pytest.raises(ValueError, match="capacity 1 is too small"):
        device_plan(case.plan(1, 3), capacities=(1, 1))
    with pytest.raises(ValueError, match="sharing=0"):
        device_plan(case.plan(1, 3), sharing=0)
    with pytest.raises(ValueError, match="90 tokens"):
        to_home(
            jnp.ones((1, 90)),
            Plan.contiguous(heads=1, q_blocks=4, kv_blocks=4, ulysses=1, ring=2),
            8,
        )
