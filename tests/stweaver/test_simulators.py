"""The simulated allocators: golden sequences worked by hand, and a literal reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlab.stweaver import Replay, Trace, simulate, smallest_limit, unroll
from jaxlab.stweaver.events import Events
from tests.oracles import allocators as oracle
from tests.stweaver.scripts import script

MIB = 1 << 20
FREE, USED, UNMAPPED = 0, 1, 2


def run(words: str, allocator: str = "caching", **options: object) -> Replay:
    trace = script(words)
    return simulate(trace, allocator, until=len(words.split()), **options)


def mib(values: object) -> list[float]:
    return (np.asarray(values) / MIB).tolist()


def heap(replay: Replay) -> list[tuple[float, float, int]]:
    """Blocks with address and size in MiB."""
    return [(a / MIB, s / MIB, int(state)) for a, s, state, _ in replay.blocks.tolist()]


# PyTorch: sizes.


def test_requests_round_to_512_bytes_and_empty_ones_take_nothing() -> None:
    replay = run("a+1 b+511 c+512 d+513 e+0 f+1")
    assert replay.address.tolist() == [0, 512, 1024, 1536, -1, 2560]
    assert replay.allocated.tolist() == [512, 1024, 1536, 2560, 2560, 3072]
    assert replay.requested.tolist() == [1, 512, 1024, 1537, 1537, 1538]


@pytest.mark.parametrize(
    ("size", "segment"),
    [
        ("512", 2),
        ("1M", 2),
        ("1M+1", 20),
        ("10M-512", 20),
        ("10M-511", 10),  # rounds to 10 MiB
        ("10M", 10),
        ("10M+1", 12),
        ("12M", 12),
        ("513M+1", 514),
    ],
)
def test_segment_sizes(size: str, segment: int) -> None:
    assert mib(run(f"a+{size}").reserved) == [segment]


@pytest.mark.parametrize(
    ("size", "divisions", "expected"),
    [
        (1200, 4, 1536),  # not more than 512 * 4: to 512 bytes
        (2048, 4, 2048),
        (2049, 4, 2560),
        (5000, 4, 5120),
        (5121, 4, 6144),
        (7169, 4, 8192),
        (8192, 4, 8192),
        (5000, 1, 5120),
        (1025, 2, 1536),
        (3 * MIB + 1, 2, 4 * MIB),
        (3 * MIB, 2, 3 * MIB),
        (100, 8, 512),
    ],
)
def test_rounding_to_divisions_of_a_power_of_two(size: int, divisions: int, expected: int) -> None:
    trace = Trace.of(size=[size], start=[0], end=[1])
    replay = simulate(trace, "caching", roundup_power2_divisions=divisions)
    # A large block of less than 10 MiB is cut from 20 MiB, so its size shows.
    assert replay.peak_allocated == expected


# PyTorch: split, search, merge.


def test_large_block_splits_only_if_more_than_1_mib_remains() -> None:
    kept = run("a+5M a- b+19M")
    assert heap(kept) == [(0, 20, USED)]
    assert mib(kept.allocated) == [5, 0, 20]
    cut = run("a+5M a- b+19M-512")
    assert [state for *_, state in heap(cut)] == [USED, FREE]
    assert cut.blocks[1, 1] == MIB + 512


def test_small_block_splits_down_to_the_last_512_bytes() -> None:
    replay = run("a+1M b+1M-512 c+512 d+512")
    assert replay.address.tolist() == [0, MIB, 2 * MIB - 512, 2 * MIB]
    assert mib(replay.reserved) == [2, 2, 2, 4]


def test_small_and_large_requests_never_share_a_segment() -> None:
    replay = run("a+1M+1 b+1M")
    assert mib(replay.reserved) == [20, 22]
    assert mib(replay.address) == [0, 20]


def test_search_takes_the_smallest_block_then_the_lowest_address() -> None:
    # Holes of 6, 3 and 3 MiB, kept apart.
    replay = run("a+6M w+2M b+3M x+2M c+3M y+2M a- b- c- d+3M e+3M f+3M")
    d, e, f = replay.address[6:9] / MIB
    assert (d, e, f) == (8, 13, 0)
    # The rest of 3 MiB behind f splits off: it is more than 1 MiB.
    assert (3, 3, FREE) in heap(replay)


def test_freed_blocks_merge_on_both_sides_but_not_across_segments() -> None:
    assert heap(run("a+3M b+4M c+5M a- c-")) == [(0, 3, FREE), (3, 4, USED), (7, 13, FREE)]
    assert heap(run("a+3M b+4M c+5M a- c- b-")) == [(0, 20, FREE)]
    assert heap(run("a+12M b+14M a- b-")) == [(0, 12, FREE), (12, 14, FREE)]
    assert mib(run("a+12M b+14M a- b- c+26M").reserved)[-1] == 52


def test_streams_have_their_own_blocks() -> None:
    replay = run("a+4M a- b+4M@1 b- c+4M")
    assert mib(replay.address) == [0, 20, 0]
    assert mib(replay.reserved) == [20, 20, 40, 40, 40]


# PyTorch: max_split_size.


@pytest.mark.parametrize(
    ("words", "address", "reserved"),
    [
        # 24 MiB = the limit: an oversize block is not given to a smaller request.
        ("a+24M a- b+23M", [0, 24], 48),
        # A block below the limit is: and not split, as 1 MiB remains.
        ("a+22M a- b+21M", [0, 0], 22),
        # An oversize request takes an oversize block that is less than 20 MiB larger,
        ("a+44M a- b+26M", [0, 0], 44),
        # but not one that is exactly 20 MiB larger.
        ("a+46M a- b+26M", [0, 46], 72),
    ],
)
def test_max_split_size(words: str, address: list[int], reserved: int) -> None:
    replay = run(words, max_split_size=24 * MIB)
    assert mib(replay.address) == address
    assert mib(replay.reserved)[-1] == reserved


def test_oversize_requests_are_not_split() -> None:
    replay = run("a+44M a- b+26M", max_split_size=24 * MIB)
    assert heap(replay) == [(0, 44, USED)]
    assert heap(run("a+44M a- b+26M")) == [(0, 26, USED), (26, 18, FREE)]


def test_oversize_blocks_are_released_first() -> None:
    # 100 MiB: 30 + 40 oversize are cached, 20 stays cached too; 60 needs both of the larger.
    words = "a+30M b+40M c+5M a- b- c- d+60M"
    replay = run(words, max_split_size=24 * MIB, capacity=100 * MIB)
    assert mib(replay.reserved)[-1] == 80
    assert (replay.counters["driver_frees"], replay.counters["retries"]) == (2, 0)
    # 28: the first block that is large enough goes, alone.
    replay = run("a+30M b+52M a- b- c+28M d+20M", max_split_size=24 * MIB, capacity=100 * MIB)
    assert replay.address[2] == 0  # 30 MiB serves 28 without a release
    replay = run("a+52M b+48M a- b- c+26M", max_split_size=24 * MIB, capacity=100 * MIB)
    assert (replay.counters["driver_frees"], mib(replay.reserved)[-1]) == (1, 78)


# PyTorch: exhausted memory.


def test_all_whole_cached_segments_are_released_before_the_retry() -> None:
    # Cached: 30 (whole), 2 (whole, small); 20 is in use in part and stays.
    words = "a+30M s+1K c+5M a- s- d+31M"
    replay = run(words, capacity=53 * MIB)
    assert mib(replay.reserved) == [30, 32, 52, 52, 52, 52]
    assert replay.counters["retries"] == 1
    assert replay.counters["driver_frees"] == 2
    assert replay.survived


def test_exhausted_memory_is_counted_and_the_replay_goes_on() -> None:
    replay = run("a+30M b+40M a- c+20M c-", capacity=64 * MIB)
    assert mib(replay.address[[0, 2]]) == [0, 0]
    assert replay.address[1] == -1
    assert mib(replay.allocated) == [30, 30, 0, 20, 0]
    assert (replay.counters["out_of_memory"], replay.counters["retries"]) == (1, 1)
    assert not replay.survived
    assert run("a+64M", capacity=64 * MIB).survived
    assert not run("a+64M", capacity=64 * MIB - 1).survived


def test_smallest_limit_is_tight() -> None:
    trace = script("a+30M b+40M a- c+50M b- c-")
    enough = smallest_limit(trace, "caching")
    assert enough == 90 * MIB  # 30 is released for the 50 beside the 40
    assert simulate(trace, "caching", capacity=enough).survived
    assert not simulate(trace, "caching", capacity=enough - 2 * MIB).survived


# PyTorch: garbage collection.


def test_collection_frees_old_segments_only_above_the_threshold() -> None:
    # Reserved 20 + 22 + 24 = 66 of 100; ages at the fourth large search: a and b.
    words = "a+20M b+22M c+24M a- b- x+26M"
    calm = run(words, capacity=100 * MIB, gc_threshold=0.66)
    assert (calm.counters["collections"], mib(calm.reserved)[-1]) == (0, 92)
    # 66 > 65: both were cached after search 3, age 1 each >= mean 1: both go.
    eager = run(words, capacity=100 * MIB, gc_threshold=0.65)
    assert (eager.counters["collections"], mib(eager.reserved)[-1]) == (1, 50)
    assert eager.counters["collected_bytes"] == 42 * MIB


def test_collection_frees_the_older_half_and_repeats_only_if_needed() -> None:
    # a is cached after search 2, b after search 3; at search 4 the ages are 2 and 1, mean 1.5.
    words = "a+20M b+22M a- c+24M b- x+26M"
    enough = run(words, capacity=100 * MIB, gc_threshold=0.60)  # 66 - 60 <= 20: only a
    assert mib(enough.reserved)[-1] == 66 - 20 + 26
    more = run(words, capacity=100 * MIB, gc_threshold=0.45)  # 21 wanted: b too
    assert mib(more.reserved)[-1] == 24 + 26
    assert more.counters["collections"] == 1


def test_collection_leaves_split_and_small_segments() -> None:
    words = "s+1K a+5M b+5M s- a- x+26M"
    replay = run(words, capacity=100 * MIB, gc_threshold=0.01)
    # The first collection is at a: the small segment alone is above 1 MiB.
    assert (replay.counters["collections"], replay.counters["driver_frees"]) == (2, 0)


# Expandable segments.


def test_expandable_maps_whole_pages() -> None:
    replay = run("a+1 b+2M-512 c+512", "expandable")
    assert mib(replay.reserved) == [2, 22, 22]  # b is large
    replay = run("a+1M b+1M c+512", "expandable")
    assert mib(replay.reserved) == [2, 2, 4]
    assert replay.address.tolist() == [0, MIB, 2 * MIB]
    assert mib(run("a+20M", "expandable").reserved) == [20]
    assert mib(run("a+20M+1", "expandable").reserved) == [40]


def test_expandable_splits_large_blocks_at_512_bytes() -> None:
    replay = run("a+20M-512", "expandable")
    assert replay.blocks[:2, 1:3].tolist() == [[20 * MIB - 512, USED], [512, FREE]]


def test_expandable_grows_from_a_free_tail() -> None:
    # 15 + 5 free at the end; 30 starts in the free 5 and maps 25 -> 2 pages.
    replay = run("a+15M b+30M", "expandable")
    assert mib(replay.address) == [0, 15]
    assert mib(replay.reserved) == [20, 60]
    assert heap(replay)[:3] == [(0, 15, USED), (15, 30, USED), (45, 15, FREE)]


def test_expandable_best_fit_counts_the_space_behind() -> None:
    # Free: 10 at 0 and the tail of 10 that could grow; equal sizes, the lower address wins at 0.
    replay = run("a+10M b+20M a- c+5M", "expandable")
    assert mib(replay.address) == [0, 10, 0]
    # Tail of 6 before unmapped space, hole of 8: the hole is "smaller" than the tail can become.
    replay = run("a+8M b+26M a- c+5M", "expandable")
    assert mib(replay.address) == [0, 8, 0]


def test_expandable_takes_the_lowest_gap_with_room() -> None:
    # After an exhausted request whole pages are unmapped; the hole is mapped again first.
    words = "a+20M b+20M c+20M b- x+70M y+15M"
    replay = run(words, "expandable", capacity=80 * MIB)
    assert replay.address[3] == -1
    assert mib(replay.address[4]) == 20
    assert mib(replay.reserved) == [20, 40, 60, 60, 40, 60]
    assert replay.counters["pages_unmapped"] == 1


def test_expandable_unmaps_only_whole_pages() -> None:
    # Free [15, 45): only the page [20, 40) is whole.
    words = "a+15M b+30M c+15M b- x+70M"
    replay = run(words, "expandable", capacity=80 * MIB)
    assert heap(replay)[:5] == [
        (0, 15, USED),
        (15, 5, FREE),
        (20, 20, UNMAPPED),
        (40, 5, FREE),
        (45, 15, USED),
    ]
    assert mib(replay.reserved)[-1] == 40


def test_expandable_fills_a_hole_across_mapped_and_unmapped_parts() -> None:
    words = "a+15M b+30M c+15M b- x+70M y+28M"
    replay = run(words, "expandable", capacity=80 * MIB)
    assert mib(replay.address[4]) == 15  # 5 free + 20 unmapped + 5 free
    assert mib(replay.reserved)[-1] == 60


def test_expandable_opens_a_second_segment_when_addresses_run_out() -> None:
    replay = run("a+30M b+30M c+90M", "expandable", virtual_range=50 * MIB)
    assert mib(replay.address[:2]) == [0, 30]  # 50 rounds up to three pages
    assert replay.address[2] == -1
    replay = run("a+40M b+30M", "expandable", virtual_range=50 * MIB)
    assert replay.counters["segments"] == 2


# GMLake.


def test_gmlake_stitches_from_the_largest_block_downward() -> None:
    words = "a+300M w+12M b+200M v+12M c+100M a- b- c- d+512M"
    replay = run(words, "gmlake")
    # 300 + 200 + 12 of the 100; nothing new from the driver.
    assert mib(replay.reserved)[-1] == 624
    assert (replay.counters["stitches"], replay.counters["stitched_parts"]) == (1, 3)
    assert (536, 88, FREE) in heap(replay)
    below = run(words.replace("d+512M", "d+510M"), "gmlake")  # 511 would round up to 512
    assert (below.counters["stitches"], mib(below.reserved)[-1]) == (0, 624 + 510)


def test_gmlake_needs_two_blocks_and_enough_bytes() -> None:
    assert run("a+300M a- d+512M", "gmlake").counters["stitches"] == 0
    assert run("a+300M w+12M b+200M a- b- d+512M", "gmlake").counters["stitches"] == 0
    assert run("a+300M b+300M a- b- d+508M", "gmlake").counters["stitches"] == 0


def test_gmlake_frees_every_part() -> None:
    words = "a+300M w+12M b+300M a- b- d+600M d- e+300M f+300M"
    replay = run(words, "gmlake")
    assert mib(replay.reserved)[-1] == 612
    assert sorted(mib(replay.address[4:])) == [0, 312]


def test_gmlake_rounds_and_splits_at_2_mib() -> None:
    assert mib(run("a+1M+512", "gmlake").allocated) == [2]
    assert heap(run("a+20M a- b+18M", "gmlake")) == [(0, 18, USED), (18, 2, FREE)]


# XLA's BFC.


def test_bfc_regions_double() -> None:
    # 2 MiB serves a; b (2 MiB) does not fit: the next region is 4, then 8 for c.
    replay = run("a+1M b+2M c+3M", "bfc")
    assert mib(replay.reserved) == [2, 6, 14]
    # 5 MiB needs 8 at once, after which the region size stays 8.
    replay = run("a+5M b+8M c+8M", "bfc")
    assert mib(replay.reserved) == [8, 16, 32]


def test_bfc_splits_at_twice_the_request_or_128_mib() -> None:
    assert heap(run("a+1M", "bfc")) == [(0, 1, USED), (1, 1, FREE)]
    assert heap(run("a+1M+256", "bfc")) == [(0, 2, USED)]
    assert heap(run("a+200M", "bfc", limit=328 * MIB, allow_growth=False)) == [
        (0, 200, USED),
        (200, 128, FREE),
    ]
    whole = run("a+200M+256", "bfc", limit=328 * MIB, allow_growth=False)
    assert heap(whole) == [(0, 328, USED)]
    fraction = run(
        "a+200M+256", "bfc", limit=328 * MIB, allow_growth=False, fragmentation_fraction=0.25
    )
    assert len(fraction.blocks) == 2


def test_bfc_rounds_to_256_bytes() -> None:
    replay = run("a+1 b+256 c+257 d+1", "bfc")
    assert replay.address.tolist() == [0, 256, 512, 1024]


def test_bfc_backs_off_when_the_driver_is_short() -> None:
    # The region would be 16 MiB; the driver has 9: 16 * 0.9^5 = 9.45, * 0.9^6 = 8.50.
    replay = run("a+8M a- b+8M+256", "bfc", capacity=17 * MIB)
    # By hand: each step in single precision, then up to a multiple of 256.
    assert replay.reserved[-1] - replay.reserved[0] == 8_916_480
    assert replay.survived
    assert not run("a+8M b+9M", "bfc", capacity=16 * MIB).survived


def test_bfc_keeps_within_its_limit() -> None:
    replay = run("a+5M b+3M c+1M", "bfc", limit=9 * MIB)
    # 8 hold a and b; the region for c would be 8 again, and 1 is left.
    assert mib(replay.reserved) == [8, 8, 9]
    assert not run("a+5M b+4M+256", "bfc", limit=9 * MIB).survived


# Floors and TensorFlow Lite.


def test_best_fit_prefers_the_tightest_hole() -> None:
    replay = run("a+8K b+1K c+4K d+1K a- c- e+3K", "best_fit")
    assert replay.address.tolist() == [0, 8192, 9216, 13312, 9216]
    assert replay.reserved.tolist()[-1] == 14336


def test_buddy_rounds_to_powers_of_two_and_merges() -> None:
    replay = run("a+513 b+512 c+512 b- c- d+1K", "buddy")
    assert replay.address.tolist() == [0, 1024, 1536, 1024]
    assert replay.allocated.tolist() == [1024, 1536, 2048, 1536, 1024, 2048]


def test_bump_reuses_only_an_empty_heap() -> None:
    replay = run("a+1K b+1K a- c+1K b- c- d+1K", "bump")
    assert replay.address.tolist() == [0, 1024, 2048, 0]


def test_tflite_measures_gaps_from_the_unaligned_end() -> None:
    trace = Trace.of(size=[100, 300, 60, 40], start=[0, 0, 0, 2], end=[4, 2, 9, 4])
    replay = simulate(trace, "tflite")
    assert replay.address.tolist() == [320 + 64, 64, 0, 64]
    assert (np.diff(replay.reserved) == 0).all()


# Every allocator against its literal reference.

SIZES = st.one_of(
    st.integers(0, 3000),
    st.sampled_from([512, MIB, MIB + 1, 10 * MIB - 512]),
    st.sampled_from([2, 5, 9, 10, 11, 18, 19, 20, 21, 23, 24, 25, 44, 45, 90]).map(MIB.__mul__),
    st.integers(1, 120 * MIB),
)


@st.composite
def traces(draw: st.DrawFn, max_size: int = 40, streams: int = 2) -> Trace:
    rows = draw(
        st.lists(
            st.tuples(SIZES, st.integers(0, 60), st.integers(0, 30), st.integers(0, streams - 1)),
            max_size=max_size,
        )
    )
    size, start, length, stream = ([row[i] for row in rows] for i in range(4))
    end = [a + b for a, b in zip(start, length, strict=True)]
    return Trace.of(size=size, start=start, end=end, stream=stream)


CASES = {
    "caching": ("caching", {}, lambda: oracle.Caching()),
    "capacity": (
        "caching",
        {"capacity": 150 * MIB},
        lambda: oracle.Caching(capacity=150 * MIB),
    ),
    "max_split": (
        "caching",
        {"capacity": 200 * MIB, "max_split_size": 24 * MIB},
        lambda: oracle.Caching(capacity=200 * MIB, max_split=24 * MIB),
    ),
    "divisions": (
        "caching",
        {"roundup_power2_divisions": 4},
        lambda: oracle.Caching(divisions=4),
    ),
    "collection": (
        "caching",
        {"capacity": 220 * MIB, "gc_threshold": 0.3},
        lambda: oracle.Caching(capacity=220 * MIB, gc_threshold=0.3),
    ),
    "expandable": (
        "expandable",
        {},
        lambda: oracle.Caching(virtual_range=(80 << 30) * 9 // 8),
    ),
    "expandable, short": (
        "expandable",
        {"capacity": 160 * MIB, "virtual_range": 130 * MIB},
        lambda: oracle.Caching(capacity=160 * MIB, virtual_range=130 * MIB),
    ),
    "gmlake": (
        "gmlake",
        {"stitch_above": 15 * MIB, "capacity": 300 * MIB},
        lambda: oracle.Caching(stitch=15 * MIB, capacity=300 * MIB),
    ),
    "bfc": ("bfc", {}, lambda: oracle.Bfc()),
    "bfc, short": (
        "bfc",
        {"limit": 200 * MIB + 100, "capacity": 150 * MIB + 7},
        lambda: oracle.Bfc(limit=200 * MIB + 100, capacity=150 * MIB + 7),
    ),
    "bfc, one region": (
        "bfc",
        {"limit": 200 * MIB, "allow_growth": False, "fragmentation_fraction": 0.01},
        lambda: oracle.Bfc(limit=200 * MIB, allow_growth=False, max_waste=int(0.01 * 200 * MIB)),
    ),
    "best_fit": (
        "best_fit",
        {"capacity": 300 * MIB},
        lambda: oracle.Floor("best_fit", 300 * MIB),
    ),
    "buddy": ("buddy", {"alignment": 256}, lambda: oracle.Floor("buddy", alignment=256)),
    "bump": ("bump", {"capacity": 600 * MIB}, lambda: oracle.Floor("bump", 600 * MIB)),
}


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=60)
@given(trace=traces())
def test_simulator_equals_the_literal_reference(case: str, trace: Trace) -> None:
    allocator, options, make = CASES[case]
    replay = simulate(trace, allocator, **options)
    reference = make()
    events = Events.of(trace)
    addresses, curve = oracle.replay(
        reference,
        zip(events.request.tolist(), events.malloc.tolist(), strict=True),
        trace.size.tolist(),
        trace.stream.tolist() if allocator not in ("bfc", "best_fit", "buddy", "bump") else None,
    )
    assert replay.address.tolist() == addresses
    assert list(zip(replay.reserved, replay.allocated, replay.requested, strict=True)) == curve
    assert replay.counters["out_of_memory"] == reference.ooms
    if isinstance(reference, oracle.Caching):
        assert replay.counters["retries"] == reference.retries
        assert replay.counters["collections"] == reference.collections
        assert replay.counters["stitches"] == reference.stitches


@given(trace=traces())
def test_tflite_equals_the_literal_reference(trace: Trace) -> None:
    live = np.flatnonzero((trace.end > trace.start) & (trace.size > 0))
    replay = simulate(trace, "tflite", alignment=96)
    if not live.size:
        assert (replay.address == -1).all()
        return
    part = trace.select(live)
    expected = oracle.tflite(part.size.tolist(), part.start.tolist(), part.end.tolist(), 96)
    assert replay.address[live].tolist() == expected


@pytest.mark.parametrize("allocator", ["caching", "expandable", "gmlake", "bfc"])
@given(trace=traces(), until=st.integers(0, 90))
def test_blocks_tile_segments_and_free_neighbors_never_meet(
    allocator: str, trace: Trace, until: int
) -> None:
    replay = simulate(trace, allocator, until=until)
    address, size, state, segment = replay.blocks.T
    within = segment[1:] == segment[:-1]
    assert (address[1:] >= address[:-1] + size[:-1]).all()
    assert (address[1:] == address[:-1] + size[:-1])[within].all()
    for alone in (FREE, UNMAPPED):
        assert not (within & (state[1:] == alone) & (state[:-1] == alone)).any()
    if allocator != "expandable":  # where a segment counts only while a page of it is mapped
        assert segment.max(initial=-1) + 1 == replay.counters["segments"]
    mapped = int(size[state != UNMAPPED].sum())
    assert mapped == (replay.reserved[-1] if replay.reserved.size else 0)
    assert int(size[state == USED].sum()) == (replay.allocated[-1] if replay.allocated.size else 0)


@pytest.mark.parametrize(
    "allocator", ["caching", "expandable", "bfc", "best_fit", "buddy", "bump", "tflite"]
)
@given(trace=traces(streams=1))
def test_live_requests_never_overlap(allocator: str, trace: Trace) -> None:
    replay = simulate(trace, allocator)
    for row in range(len(trace)):
        for other in range(row):
            together = max(trace.start[row], trace.start[other]) < min(
                trace.end[row], trace.end[other]
            )
            if together and replay.address[row] >= 0 and replay.address[other] >= 0:
                assert (
                    replay.address[row] + trace.size[row] <= replay.address[other]
                    or replay.address[other] + trace.size[other] <= replay.address[row]
                )


def test_a_large_random_trace_equals_the_reference() -> None:
    rng = np.random.default_rng(5)
    count = 1500
    start = np.sort(rng.integers(0, 2000, count))
    trace = Trace.of(
        size=np.exp(rng.uniform(np.log(100), np.log(60 * MIB), count)).astype(np.int64),
        start=start,
        end=start + rng.integers(1, 80, count),
    )
    events = Events.of(trace)
    pairs = list(zip(events.request.tolist(), events.malloc.tolist(), strict=True))
    for allocator, options, make in (
        ("caching", {"capacity": 900 * MIB}, lambda: oracle.Caching(capacity=900 * MIB)),
        ("bfc", {}, oracle.Bfc),
    ):
        addresses, _ = oracle.replay(make(), iter(pairs), trace.size.tolist())
        assert simulate(trace, allocator, **options).address.tolist() == addresses


# Order of events, periods, bad input.


def test_frees_come_before_mallocs_and_empty_lifetimes_last_no_time() -> None:
    trace = Trace.of(size=[20 * MIB] * 3, start=[0, 4, 4], end=[4, 4, 6])
    events = Events.of(trace)
    assert events.request.tolist() == [0, 0, 1, 1, 2, 2]
    assert events.malloc.tolist() == [True, False, True, False, True, False]
    assert simulate(trace, "caching").peak_reserved == 20 * MIB


def test_efficiency_takes_its_maxima_apart() -> None:
    replay = run("a+30M a- b+40M b- c+12M")
    assert (replay.peak_reserved, replay.peak_allocated) == (70 * MIB, 40 * MIB)
    assert replay.efficiency == pytest.approx(4 / 7)


def test_unroll_repeats_a_period() -> None:
    trace = Trace.of(size=[1, 2], start=[0, 3], end=[2, 6], iteration=[0, 0], period=5)
    twice = unroll(trace, 2)
    assert twice.period is None
    assert twice.start.tolist() == [0, 3, 5, 8]
    assert twice.end.tolist() == [2, 6, 7, 11]
    assert twice.iteration.tolist() == [0, 0, 1, 1]
    assert twice.id.tolist() == ["0#0", "1#0", "0#1", "1#1"]
    with pytest.raises(ValueError, match="periods=0"):
        unroll(trace, 0)


@pytest.mark.parametrize("allocator", ["caching", "tflite"])
def test_an_empty_trace_replays(allocator: str) -> None:
    replay = simulate(Trace.of(size=[], start=[], end=[]), allocator)
    assert (replay.peak_reserved, replay.efficiency, replay.survived) == (0, 1.0, True)


@pytest.mark.parametrize(
    ("allocator", "options", "message"),
    [
        ("malloc", {}, "allocator='malloc' must be one of"),
        ("caching", {"capacity": 0}, "capacity=0"),
        ("gmlake", {"capacity": -5}, "capacity=-5"),
        ("caching", {"max_split_size": 20 * MIB}, "max_split_size=20971520"),
        ("caching", {"roundup_power2_divisions": 3}, "roundup_power2_divisions=3"),
        ("caching", {"gc_threshold": 0.5}, "needs a capacity"),
        ("caching", {"gc_threshold": 1.5, "capacity": 10}, "gc_threshold=1.5"),
        ("bfc", {"allow_growth": False}, "needs a limit"),
        ("bfc", {"fragmentation_fraction": 2.0, "limit": 9}, "fragmentation_fraction=2.0"),
        ("buddy", {"alignment": 3}, "alignment=3"),
        ("tflite", {"alignment": 0}, "alignment=0"),
    ],
)
def test_bad_options_are_refused(allocator: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulate(script("a+1"), allocator, **options)


@pytest.mark.parametrize("allocator", ["caching", "tflite"])
def test_unknown_options_are_refused(allocator: str) -> None:
    with pytest.raises(TypeError, match="stitch"):
        simulate(script("a+1"), allocator, stitch=1)


def test_tflite_refuses_periods() -> None:
    with pytest.raises(ValueError, match="unroll"):
        simulate(Trace.of(size=[1], start=[0], end=[2], period=4), "tflite")
