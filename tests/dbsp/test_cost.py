"""Times of a layer, by hand and by loops; constants found again from the times they made."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlab.dbsp import CostModel, Links, Plan, imbalance_ratio, layer_time, select, work_table

FREE = Links(1e30, 0.0, 1e30, 0.0)
SLOW = Links(all_to_all_bandwidth=1e3, all_to_all_latency=0.5, hop_bandwidth=2e3, hop_latency=0.25)


def swapped_plan():
    """U2R2, 4 blocks; one query block of 2 leaves every rank of group 0, no key block moves."""
    order = np.array([[0, 2, 1, 3], [0, 1, 2, 3]])
    return Plan(2, 2, np.arange(2), order, np.tile(np.arange(4), (2, 1)))


def test_a_layer_worked_by_hand():
    model = CostModel(0.01, 0.1, SLOW, tensor_bytes=4000)
    work = np.array([[[10, 50], [400, 20]], [[100, 10], [30, 90]]])
    # 4 devices, 1000 bytes each. Hop: 2 * 1000 / 2e3 + 0.25 = 1.25 s.
    # Group 0, step 0: max(10, 20) blocks: 0.3 s, the hop takes longer: 1.25; step 1: 400: 4.1 s.
    # Group 1, step 0: 100 blocks: 1.1 s, hop 1.25; step 1: 30: 0.4 s, awaits no hop.
    terms = model.terms(work, swapped_plan())
    assert terms.ring == pytest.approx(1.25 + 4.1)
    assert terms.all_to_all == pytest.approx(4 * (1000 * 0.5 / 1e3 + 0.5))
    assert terms.exchange == pytest.approx(2 * (0.5 * 1000 / 1e3 + 0.5))  # half of Q, and of O
    assert model.terms(work).exchange == 0
    assert model.predict(work, swapped_plan()) == pytest.approx(terms.seconds)
    assert terms.seconds == terms.ring + terms.exchange + terms.all_to_all


def test_one_shard_awaits_no_hop_and_one_group_sends_no_heads():
    model = CostModel(0.01, 0.1, SLOW, tensor_bytes=4000)
    heads = model.terms(np.array([[[5]], [[7]]]))
    assert (heads.ring, heads.exchange) == (pytest.approx(0.17), 0)
    ring = model.terms(np.array([[[5, 1], [2, 3]]]))
    assert (ring.ring, ring.all_to_all) == (pytest.approx(1 * 2.0 + 0.25 + 0.12), 0)


def by_loops(model, work):
    """The slowest group's ring, walked step by step in the other direction."""
    groups, ring, _ = work.shape
    hop = 2 * model.tensor_bytes / (groups * ring) / model.links.hop_bandwidth
    hop += model.links.hop_latency
    slowest = 0.0
    for group in range(groups):
        waited = 0.0
        for step in range(ring):
            kernels = []
            for rank in range(ring):
                blocks = work[group, rank, (rank + step) % ring]
                kernels.append(model.seconds_per_launch + blocks * model.seconds_per_block)
            waited += max([*kernels, hop]) if step < ring - 1 else max(kernels)
        slowest = max(slowest, waited)
    return slowest


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from([(1, 1), (3, 1), (1, 5), (2, 3), (4, 2)]))
def test_a_ring_is_that_of_walking_it(seed, degrees):
    rng = np.random.default_rng(seed)
    ulysses, ring = degrees
    work = rng.integers(0, 30, (ulysses, ring, ring))
    links = Links(*rng.uniform(1, 9, 4))
    model = CostModel(*rng.uniform(0, 1, 2), links, tensor_bytes=float(rng.uniform(1, 40)))
    terms = model.terms(work)
    assert terms.ring == pytest.approx(by_loops(model, work))
    if ring == 1:
        assert terms.ring == pytest.approx(
            model.seconds_per_launch + model.seconds_per_block * work.max()
        )


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_predicted_and_measured_times_add_up_alike(seed):
    rng = np.random.default_rng(seed)
    work = rng.integers(0, 30, (2, 4, 4))
    model = CostModel(0.01, 0.2, Links(*rng.uniform(1, 9, 4)), tensor_bytes=7.0)
    order = np.stack([rng.permutation(8) for _ in range(2)])
    plan = Plan(2, 4, np.arange(2), order, order[::-1])
    rank = np.arange(4)
    kernels = np.stack([0.2 + 0.01 * work[:, rank, (rank + step) % 4] for step in range(4)], axis=1)
    added = layer_time(kernels, plan, tensor_bytes=7.0, links=model.links)
    predicted = model.terms(work, plan)
    assert dataclasses.astuple(added) == pytest.approx(dataclasses.astuple(predicted))


def test_without_communication_time_is_work_times_imbalance():
    rng = np.random.default_rng(1)
    work = rng.integers(0, 90, (2, 4, 4))
    time = CostModel(1e-6, 0.0, FREE, tensor_bytes=1e6).predict(work)
    assert time == pytest.approx(1e-6 * imbalance_ratio(work) * work.sum() / 8, rel=1e-9)


def test_the_busiest_rank_decides_the_exchange():
    order = np.array([[0, 1, 2, 4, 3, 5]])  # rank 0 sends nothing, ranks 1 and 2 half
    plan = Plan(1, 3, np.arange(1), order, np.arange(6)[None])
    terms = CostModel(0.0, 0.0, SLOW, tensor_bytes=3000).terms(np.zeros((1, 3, 3), int), plan)
    assert terms.exchange == pytest.approx(2 * (0.5 * 1000 / 1e3 + 0.5))


def measured(
    model, rng, count=40, degrees=((1, 8), (2, 4), (4, 2), (8, 1), (1, 4), (2, 2)), noise=0.0
):
    for number in range(count):
        ulysses, ring = degrees[number % len(degrees)]
        work = rng.integers(0, 4000, (ulysses, ring, ring)) * 10 ** (number % 3) // 10
        orders = np.stack([rng.permutation(16) for _ in range(2 * ulysses)])
        plan = Plan(ulysses, ring, np.arange(8), orders[:ulysses], orders[ulysses:])
        seconds = model.predict(work, plan) * (1 + noise * rng.normal())
        yield work, plan, seconds


def test_the_constants_are_found_again():
    true = CostModel(2e-6, 4e-5, Links(3e9, 2e-5, 5e9, 1e-5), tensor_bytes=4e7)
    points = list(measured(true, np.random.default_rng(0)))
    waiting = [2e-6 * work.max() < 4e7 / 4 / 5e9 for work, *_ in points]
    assert 0 < sum(waiting) < len(points)  # some rings wait for hops, some do not
    found = CostModel.fit(points, tensor_bytes=4e7)
    assert found.error < 1e-6
    for name in ("seconds_per_block", "seconds_per_launch"):
        assert getattr(found, name) == pytest.approx(getattr(true, name), rel=1e-3)
    assert dataclasses.astuple(found.links) == pytest.approx(
        dataclasses.astuple(true.links), rel=1e-3
    )


def test_points_of_one_device_count_tell_the_hop_but_not_its_parts():
    true = CostModel(2e-6, 4e-5, Links(3e9, 2e-5, 5e9, 1e-5), tensor_bytes=4e7)
    points = list(measured(true, np.random.default_rng(2), degrees=((1, 8), (2, 4), (8, 1))))
    found = CostModel.fit(points, tensor_bytes=4e7)
    hop = 2 * 4e7 / 8 / found.links.hop_bandwidth + found.links.hop_latency
    assert hop == pytest.approx(1e7 / 5e9 + 1e-5)
    assert found.predict(points[0][0], points[0][1]) == pytest.approx(points[0][2])


def test_points_alone_predict_layers_of_their_size():
    true = CostModel(2e-6, 4e-5, Links(3e9, 2e-5, 5e9, 1e-5), tensor_bytes=4e7)
    points = list(measured(true, np.random.default_rng(4)))
    found = CostModel.fit(points[:-6])
    for work, plan, seconds in points[-6:]:
        assert found.predict(work, plan) == pytest.approx(seconds)
    assert found.links.all_to_all_bandwidth == pytest.approx(3e9 / 4e7, rel=1e-3)


def test_noise_is_reported_as_error():
    true = CostModel(2e-6, 1e-3, Links(3e9, 2e-5, 5e9, 1e-5), tensor_bytes=4e7)
    points = list(measured(true, np.random.default_rng(1), count=60, noise=0.05))
    found = CostModel.fit(points, tensor_bytes=4e7)
    assert found.error == pytest.approx(0.05, rel=0.2)
    assert found.seconds_per_block == pytest.approx(2e-6, rel=0.05)
    known = CostModel.fit(points, tensor_bytes=4e7, links=true.links)
    assert known.links == true.links
    assert known.seconds_per_launch == pytest.approx(1e-3, rel=0.2)


def test_selection_worked_by_hand():
    model = CostModel(1e-3, 0.0, FREE, tensor_bytes=8.0)
    work = {
        (4, 1): np.array([[[58]], [[40]], [[40]], [[22]]]),
        (2, 2): np.array([[[20, 25], [15, 15]], [[20, 15], [25, 20]]]),
        (1, 4): np.array([[[13, 1, 1, 1], [1, 13, 1, 1], [1, 1, 13, 1], [13, 1, 1, 26]]]),
    }
    # 58 blocks; 20 + 25; 26 + 1 + 1 + 13
    degrees, seconds = select(work, model)
    assert degrees == (1, 4)
    assert seconds == pytest.approx(0.041)
    assert select(work, model, current=(2, 2))[0] == (1, 4)
    kept = select(work, model, current=(2, 2), switch_seconds=0.005)
    assert kept == ((2, 2), pytest.approx(0.045))
    assert select(work, model, current=(4, 1), switch_seconds=0.005)[0] == (1, 4)


def test_selection_counts_what_leaves_home():
    model = CostModel(1e-3, 0.0, Links(10.0, 0.0, 1e30, 0.0), tensor_bytes=0.4)
    rng = np.random.default_rng(0)
    blocks = rng.random((2, 4, 4)) < 0.5
    plans = {
        (2, 2): swapped_plan(),
        (1, 4): Plan.contiguous(heads=2, q_blocks=4, kv_blocks=4, ulysses=1, ring=4),
    }
    work = {degrees: work_table(blocks, plan) for degrees, plan in plans.items()}
    chosen = select(work, model, plans=plans)
    times = {degrees: model.predict(work[degrees], plans[degrees]) for degrees in plans}
    assert chosen == (min(times, key=times.get), pytest.approx(min(times.values())))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Links(0.0, 0.0, 1.0, 0.0), "all_to_all_bandwidth=0.0"),
        (lambda: Links(1.0, -1.0, 1.0, 0.0), "all_to_all_latency=-1.0"),
        (lambda: Links(1.0, 0.0, float("nan"), 0.0), "hop_bandwidth=nan"),
        (lambda: CostModel(-1.0, 0.0, FREE, 1.0), "seconds_per_block=-1.0"),
        (lambda: CostModel(1.0, 0.0, FREE, float("nan")), "tensor_bytes=nan"),
        (lambda: CostModel(1.0, 0.0, FREE, 1.0).predict(np.ones((1, 2, 3), int)), r"\[U, R, R\]"),
        (
            lambda: CostModel(1.0, 0.0, FREE, 1.0).predict(np.ones((1, 4, 4), int), swapped_plan()),
            "U=2, R=2",
        ),
        (
            lambda: layer_time(np.full((1, 2, 2), np.nan), None, tensor_bytes=1.0, links=FREE),
            "finite",
        ),
        (lambda: CostModel.fit([], tensor_bytes=1.0, links=FREE), "0 points"),
        (lambda: CostModel.fit([], links=FREE), "pass tensor_bytes too"),
        (
            lambda: CostModel.fit(
                [(np.ones((1, 1, 1), int), None, -1.0)] * 3, tensor_bytes=1.0, links=FREE
            ),
            "positive",
        ),
        (
            lambda: CostModel.fit([(np.ones((2, 1, 1), int), None, 1.0)] * 6, tensor_bytes=1.0),
            "several ring shards",
        ),
        (lambda: select({}, CostModel(1.0, 0.0, FREE, 1.0)), "no candidate"),
        (
            lambda: select(
                {(1, 1): np.ones((1, 1, 1), int), (2, 1): np.ones((2, 1, 1), int)},
                CostModel(1.0, 0.0, FREE, 1.0),
            ),
            "different numbers of devices",
        ),
        (
            lambda: select({(2, 1): np.ones((1, 2, 2), int)}, CostModel(1.0, 0.0, FREE, 1.0)),
            "not of U, R, R",
        ),
        (
            lambda: select(
                {(1, 1): np.ones((1, 1, 1), int)}, CostModel(1.0, 0.0, FREE, 1.0), plans={}
            ),
            "has none for",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
