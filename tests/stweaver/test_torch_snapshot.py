"""Snapshots built by hand from the documented format, and files that mean harm."""

import io
import itertools
import os
import pickle
import pickletools
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlab.stweaver import simulate
from jaxlab.stweaver.plain_pickle import loads_plain
from jaxlab.stweaver.torch_snapshot import read_torch_snapshot
from jaxlab.stweaver.trace import Trace

BASE = 0x7F00_0000_0000
FRAMES = [
    {"filename": "??", "line": 0, "name": "THPVariable"},
    {"filename": "/site/torch/nn/functional.py", "line": 1, "name": "linear"},
    {"filename": "/site/me/model.py", "line": 42, "name": "forward"},
]


def event(action: str, at: int, size: int, stream: int = 0, **more: Any) -> dict[str, Any]:
    return {"action": action, "addr": BASE + at, "size": size, "stream": stream, **more}


def block(size: int, state: str, **more: Any) -> dict[str, Any]:
    return {"size": size, "state": state, **more}


def segment(blocks: list[Any], device: int = 0, **more: Any) -> dict[str, Any]:
    total = sum(b["size"] for b in blocks)
    return {
        "device": device,
        "address": BASE,
        "total_size": total,
        "stream": 0,
        "segment_type": "small",
        "blocks": blocks,
        **more,
    }


def save(folder: Path, snapshot: Any, protocol: int = 4) -> Path:
    path = folder / "snapshot.pickle"
    path.write_bytes(pickle.dumps(snapshot, protocol))
    return path


def rows(trace: Trace) -> list[tuple[int, int, int]]:
    return list(zip(trace.size.tolist(), trace.start.tolist(), trace.end.tolist(), strict=True))


def nested(levels: int) -> list[Any]:
    """A list whose text has 10^levels entries, in a pickle of a few bytes a level."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value] * 10
    return value


@pytest.mark.parametrize("field", ["size", "state", "address"])
def test_values_of_the_wrong_type_are_never_printed(tmp_path: Path, field: str) -> None:
    for value in (nested(12), nested(1) * 3):
        path = save(tmp_path, {"segments": [segment([{**block(512, "inactive"), field: 7}])]})
        snapshot = {"segments": [segment([block(512, "inactive")])]}
        snapshot["segments"][0]["blocks"][0][field] = value
        path.write_bytes(pickle.dumps(snapshot, 4))
        with pytest.raises(ValueError, match=f"{field} is a list"):
            read_torch_snapshot(path)


@pytest.mark.parametrize("part", ["line", "name"])
def test_frames_are_never_printed_either(tmp_path: Path, part: str) -> None:
    frames = [{**FRAMES[2], part: nested(12)}]
    history = [[event("alloc", 0, 512, frames=frames)]]
    path = save(tmp_path, {"segments": [], "device_traces": history})
    with pytest.raises(ValueError, match=f"{part} is a list"):
        read_torch_snapshot(path)


def test_a_deep_list_is_refused_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "deep.pickle"
    deep = b"]" * 100_000 + b"a" * 99_999
    path.write_bytes(b"\x80\x04" + deep + b".")
    with pytest.raises(ValueError, match="read_torch_snapshot"):
        read_torch_snapshot(path)


DOUBLED = b"})q\0" + b"h\0\x86q\0" * 40 + b"Ns."  # 2^40 paths lead through this key
DEEP = b"})" + b"\x85" * 1_000_000 + b"Ns."  # hashing it recurses once a byte
COLLIDING = (
    b"}(" + b"".join(pickle.dumps(n * (2**61 - 1) << 64)[2:-1] + b"N" for n in range(1, 9)) + b"u."
)


@pytest.mark.parametrize("key", [DOUBLED, DEEP, COLLIDING], ids=["doubled", "deep", "colliding"])
def test_a_key_that_takes_long_to_hash_is_refused(tmp_path: Path, key: bytes) -> None:
    (tmp_path / "key.pickle").write_bytes(b"\x80\x04" + key)
    with pytest.raises(ValueError, match="as the key of a dict"):
        read_torch_snapshot(tmp_path / "key.pickle")


@pytest.mark.parametrize("part", ["histories", "segments", "events"])
def test_records_that_repeat_are_refused_before_they_are_unfolded(
    tmp_path: Path, part: str
) -> None:
    many = 30_000
    alloc, free = event("alloc", 0, 8), event("free_completed", 0, 8)
    blocks: Any = [block(512, "inactive")] * many
    snapshot: Any = {
        "histories": {"segments": [], "device_traces": [[alloc] * many] * many},
        "segments": {"segments": [{**segment([]), "blocks": blocks}] * many},
        "events": {"segments": [], "device_traces": [[alloc, free] * many]},
    }[part]
    path = save(tmp_path, snapshot)
    assert path.stat().st_size < 200_000
    with pytest.raises(ValueError, match="records are more than so short a file can hold"):
        read_torch_snapshot(path, device=0)


def test_frames_that_many_events_share_are_read_once(tmp_path: Path) -> None:
    frames = [{**FRAMES[1], "filename": "/torch/" * 1000 + "a.py"}] * 100_000
    history = [event("alloc", 512 * turn, 8, frames=frames) for turn in range(3_000)]
    path = save(tmp_path, {"segments": [], "device_traces": [history]})
    begin = time.perf_counter()
    trace = read_torch_snapshot(path)
    assert time.perf_counter() - begin < 10  # unfolded it is 3 * 10^8 frames
    assert trace.layers == ("a.py:1 linear",)


def test_numbers_of_more_than_64_bits_are_refused(tmp_path: Path) -> None:
    for name in ("addr", "stream"):
        history = [{**event("alloc", 0, 8), name: 1 << 64}]
        path = save(tmp_path, {"segments": [], "device_traces": [history]})
        with pytest.raises(ValueError, match=f"{name} is a number of more than 64 bits"):
            read_torch_snapshot(path)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_whole_record(tmp_path: Path, protocol: int) -> None:
    history = [
        event("segment_alloc", 0, 2 << 20),
        event("alloc", 0, 1000, frames=FRAMES),  # 1
        event("alloc", 1024, 500, stream=77),  # 2
        event("free_requested", 0, 1000),
        event("free_completed", 0, 1000),  # 3
        event("alloc", 0, 300),  # 4, the same address again
        event("snapshot", 0, 0),
        event("free_requested", 1024, 500),  # never completed: still in use by a stream
        event("segment_free", 0, 2 << 20),
        {"action": "oom", "device_free": 0, "size": 1 << 40, "stream": 0},
    ]
    blocks = [
        block(512, "active_allocated", address=BASE, requested_size=300),
        block(512, "inactive", address=BASE + 512),
        block(512, "active_awaiting_free", address=BASE + 1024, requested_size=500),
    ]
    snapshot = {"segments": [segment(blocks)], "device_traces": [history]}
    trace = read_torch_snapshot(save(tmp_path, snapshot, protocol))
    assert rows(trace) == [(1000, 1, 3), (500, 2, 5), (300, 4, 5)]
    assert trace.id.tolist() == ["0 model.py:42 forward", "1", "2"]
    assert [trace.layers[code] for code in trace.layer_start] == ["model.py:42 forward", "", ""]
    assert trace.stream.tolist() == [0, 1, 0]


def test_a_record_whose_beginning_is_lost(tmp_path: Path) -> None:
    history = [
        event("free_completed", 512, 400),  # allocated before the record begins
        event("alloc", 512, 100),
        event("free_completed", 512, 100),
    ]
    blocks = [
        block(512, "active_allocated", address=BASE, requested_size=450, frames=FRAMES),
        block(512, "inactive", address=BASE + 512),
    ]
    snapshot = {"segments": [segment(blocks)], "device_traces": [history]}
    trace = read_torch_snapshot(save(tmp_path, snapshot))
    assert rows(trace) == [(450, 0, 4), (400, 0, 1), (100, 2, 3)]
    assert trace.id[0] == "0 model.py:42 forward"


def test_old_formats(tmp_path: Path) -> None:
    # blocks without addresses; the requested size is in the history
    blocks = [
        block(512, "active_allocated", history=[{"real_size": 17, "frames": FRAMES}]),
        block(1024, "inactive"),
        block(2048, "active_allocated"),
    ]
    for snapshot in ([segment(blocks)], {"segments": [segment(blocks)]}):
        trace = read_torch_snapshot(save(tmp_path, snapshot))
        assert rows(trace) == [(17, 0, 1), (2048, 0, 1)]
        assert trace.id[0] == "0 model.py:42 forward"
    # the address that is added up is the one that events speak of
    history = [event("alloc", 512 + 1024, 2000)]
    both = {"segments": [segment(blocks)], "device_traces": [history]}
    assert rows(read_torch_snapshot(save(tmp_path, both))) == [(17, 0, 2), (2000, 1, 2)]


def test_several_devices(tmp_path: Path) -> None:
    snapshot = {
        "segments": [segment([block(512, "active_allocated")], device=1)],
        "device_traces": [[event("alloc", 0, 5)], [], []],
    }
    path = save(tmp_path, snapshot)
    with pytest.raises(ValueError, match=r"devices \[0, 1\] were used"):
        read_torch_snapshot(path)
    assert rows(read_torch_snapshot(path, device=0)) == [(5, 1, 2)]
    assert rows(read_torch_snapshot(path, device=1)) == [(512, 0, 1)]
    with pytest.raises(ValueError, match="device=2 has no record"):
        read_torch_snapshot(path, device=2)


def test_an_empty_snapshot(tmp_path: Path) -> None:
    assert len(read_torch_snapshot(save(tmp_path, {"segments": [], "device_traces": []}))) == 0


@pytest.mark.parametrize(
    ("snapshot", "why"),
    [
        (3, "not a memory snapshot"),
        ({"device_traces": []}, "no 'segments'"),
        ({"segments": 5}, "segments is not a list"),
        ({"segments": [7]}, "not a dict"),
        ({"segments": [], "device_traces": [[event("alloc", 0, -1)]]}, "size=-1 is not"),
        ({"segments": [], "device_traces": [[event("alloc", 0, 1 << 60)]]}, "is not a number of"),
        ({"segments": [], "device_traces": [[event("alloc", 0, 8)] * 2]}, "is still live"),
        ({"segments": [], "device_traces": [[event("explode", 0, 8)]]}, "action 'explode'"),
        ({"segments": [], "device_traces": [[{"action": "alloc"}]]}, "addr=None is not of type"),
        ({"segments": [], "device_traces": [[event("alloc", 0, 2.5)]]}, "size=2.5 is not of type"),
        ({"segments": [{**segment([]), "blocks": 3}]}, "blocks is not a list"),
    ],
)
def test_what_is_no_snapshot_is_refused(tmp_path: Path, snapshot: Any, why: str) -> None:
    with pytest.raises(ValueError, match=r"snapshot\.pickle.*") as caught:
        read_torch_snapshot(save(tmp_path, snapshot))
    assert why in str(caught.value)


class Exploit:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_pickle_that_calls_is_refused(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "owned"
    path = save(tmp_path, {"segments": [Exploit(marker)]}, protocol)
    with pytest.raises(ValueError, match="refused"):
        read_torch_snapshot(path)
    assert not marker.exists()


def test_every_instruction_beyond_plain_data_is_refused() -> None:
    names = (
        "PROTO FRAME MARK POP NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 BINFLOAT LONG1 LONG4 "
        "BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 EMPTY_TUPLE "
        "TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS BINPUT "
        "LONG_BINPUT MEMOIZE BINGET LONG_BINGET STOP"
    )
    plain = names.split()
    for instruction in pickletools.opcodes:
        if instruction.name in plain:
            continue
        with pytest.raises(ValueError, match="refused"):
            loads_plain(instruction.code.encode("latin-1") + b"\0" * 9 + b".")


def test_bombs_need_no_memory() -> None:
    for data in (
        b"\x80\x04]r\xff\xff\xff\xff.",  # a memo entry far away
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x00.",  # 2^56 bytes that are not there
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f].",  # a frame that long
    ):
        try:
            assert loads_plain(data) == []
        except ValueError:
            continue


def test_a_file_beyond_the_bound_is_not_read(tmp_path: Path) -> None:
    path = save(tmp_path, {"segments": []})
    with pytest.raises(ValueError, match="more than max_bytes=5"):
        read_torch_snapshot(path, max_bytes=5)


long = st.integers(-(1 << 64) + 1, (1 << 64) - 1)
keys = st.one_of(st.text(max_size=4), long, st.booleans(), st.none())
plain_data = st.recursive(
    st.one_of(keys, st.integers(), st.floats(allow_nan=False), st.binary(max_size=300)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(keys, inner, max_size=4),
    ),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(plain_data, st.integers(2, 5))
def test_plain_pickles_read_as_pickle_reads_them(value: Any, protocol: int) -> None:
    data = pickle.dumps([value, value], protocol)
    if "GLOBAL" in {instruction.name for instruction, _, _ in pickletools.genops(data)}:
        assert protocol == 2  # bytes were a function call then
        with pytest.raises(ValueError, match="GLOBAL"):
            loads_plain(data)
        return
    read = loads_plain(data)
    assert read == [value, value]
    assert repr(read) == repr([value, value])  # True is not 1, (1,) is not [1]
    buffer = io.BytesIO()
    pickle._Pickler(buffer, protocol).dump([value])  # the other implementation
    assert loads_plain(buffer.getvalue()) == [value]


@settings(max_examples=200, deadline=None)
@given(plain_data, st.data())
def test_damaged_pickles_raise_value_errors_only(value: Any, data: st.DataObject) -> None:
    whole = bytearray(pickle.dumps(value, 4))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        loads_plain(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    except ValueError:
        return


# A record replayed by the simulator, address by address.


def same_addresses(path: Path) -> int:
    """Replays a record; returns its segments after comparing every address, modulo their bases.

    The k-th recorded allocation is the k-th request. Where the driver puts a segment is its own
    affair, so within a segment all addresses must differ from the simulator's by the same amount,
    and no two segments may come to lie over each other.
    """
    snapshot = loads_plain(path.read_bytes())
    assert isinstance(snapshot, dict)
    recorded = [one for one in snapshot["device_traces"][0] if one["action"] == "alloc"]
    trace = read_torch_snapshot(path)
    simulated = simulate(trace, "caching").address
    assert trace.size.tolist() == [one["size"] for one in recorded]
    shifts: dict[tuple[int, int], int] = {}
    for one, address in zip(recorded, simulated.tolist(), strict=True):
        (segment,) = (
            (segment["address"], segment["total_size"])
            for segment in snapshot["segments"]
            if 0 <= one["addr"] - segment["address"] < segment["total_size"]
        )
        shift = address - one["addr"]
        assert shifts.setdefault(segment, shift) == shift, hex(one["addr"])
    placed = sorted((base + shift, size) for (base, size), shift in shifts.items())
    assert all(low + size <= high for (low, size), (high, _) in itertools.pairwise(placed))
    return len(shifts)


# Sizes in KiB, worked out by hand from the rules of PyTorch's caching allocator: (name, size,
# place) allocates, a bare name frees. Places from 100000 and 200000 on are two large segments.
RECORD: list[tuple[str, float, int] | str] = [
    ("a", 1000 / 1024, 0),  # rounds to 1 KiB, first of a segment of 2 MiB
    ("b", 600 / 1024, 1),
    "a",
    ("c", 0.5, 0),  # best fit: the hole of 1 KiB, cut in two
    ("d", 0.5, 0),  # (half a KiB further up, see below)
    ("e", 3 * 1024, 100_000),  # less than 10 MiB: a segment of 20 MiB
    ("f", 12 * 1024, 100_000 + 3 * 1024),  # fits into its rest
    ("g", 6 * 1024, 200_000),  # 5 MiB are left, so another segment
    "e",
    ("h", 2.5 * 1024, 100_000),  # the hole of 3 MiB, whole: 0.5 MiB would be left
    ("i", 1024.5, 100_000 + 15 * 1024),  # tightest is the hole of 5 MiB
    "f",
    ("j", 11 * 1024, 100_000 + 3 * 1024),
    "b",
    ("k", 1024, 1),  # the small pool still serves 1 MiB
]


def test_a_record_is_replayed_address_by_address(tmp_path: Path) -> None:
    bases = {0: 0, 100_000: 1 << 32, 200_000: 1 << 33}
    events, live = [], {}
    for step in RECORD:
        if isinstance(step, str):
            at, size = live.pop(step)
            events.append(event("free_completed", at, size))
            continue
        name, kib, place = step
        base = max(one for one in bases if one <= place)
        at = bases[base] + (place - base) * 1024 + (512 if name == "d" else 0)
        live[name] = (at, int(kib * 1024))
        events.append(event("alloc", at, int(kib * 1024)))
    segments = [
        {**segment([]), "address": BASE + at, "total_size": (2 if at == 0 else 20) << 20}
        for at in bases.values()
    ]
    path = save(tmp_path, {"segments": segments, "device_traces": [events]})
    assert same_addresses(path) == 3
    events[-1] = {**events[-1], "addr": events[-1]["addr"] + 512}
    with pytest.raises(AssertionError):
        same_addresses(save(tmp_path, {"segments": segments, "device_traces": [events]}))
