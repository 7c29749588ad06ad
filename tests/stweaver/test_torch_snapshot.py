"""Snapshots built by hand from the documented format, and files that mean harm."""

import io
import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


keys = st.one_of(st.text(max_size=4), st.integers(), st.booleans(), st.none())
plain_data = st.recursive(
    st.one_of(keys, st.floats(allow_nan=False), st.binary(max_size=300)),
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
