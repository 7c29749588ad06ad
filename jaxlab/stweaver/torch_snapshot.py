"""The allocations that a PyTorch memory snapshot has recorded."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlab.stweaver.plain_pickle import loads_plain
from jaxlab.stweaver.trace import Trace

_MAX_BYTES = 4 << 30
_LEAST_RECORD = 10  # bytes of the file that an event, a segment or a block takes at least
_DEEPEST = 1000  # frames that are looked at
_LONGEST = 200  # characters of a place
_IGNORED = (
    "free_requested",
    "segment_alloc",
    "segment_free",
    "segment_map",
    "segment_unmap",
    "snapshot",
    "oom",
    "workspace_snapshot",
)


def read_torch_snapshot(
    path: str | Path, *, device: int | None = None, max_bytes: int = _MAX_BYTES
) -> Trace:
    """Reads a file that ``torch.cuda.memory._dump_snapshot`` wrote; needs no PyTorch.

    The k-th recorded allocation or completed release happens at time k + 1. The record is a ring
    buffer, so its beginning may be lost: what is released but never seen allocated, and what is
    live in the segments but never mentioned, has been live since time 0. What is never released
    lives to the end. Sizes are those requested, before rounding.

    Files from outside are hostile: the pickle is read by a machine that can build plain containers
    and nothing else, and a file that refers to the same records again and again is refused.

    Args:
      path: the file.
      device: number of the device; None if only one was used.
      max_bytes: largest file to read.

    Returns:
      The trace; ids and ``layers`` name the innermost line of Python outside torch that allocates,
      where frames were recorded; ``stream`` numbers the streams from 0 in order of appearance.

    Raises:
      ValueError: the file is too large, not a pickle of plain data, not a snapshot, contradicts
        itself, or covers several devices and none is named.

    Source: the documented format, ``torch.cuda.memory._snapshot``; note section 6.2.
    """
    path = Path(path)
    if path.stat().st_size > max_bytes:
        raise ValueError(
            f"read_torch_snapshot: {path.name} has {path.stat().st_size} bytes, more than "
            f"max_bytes={max_bytes}."
        )
    try:
        data = path.read_bytes()
        return _trace(loads_plain(data), device, most=len(data) // _LEAST_RECORD)
    except ValueError as error:
        raise ValueError(f"read_torch_snapshot: {path.name}: {error}") from error


@dataclasses.dataclass
class _Request:
    """One allocation as it is found; ``end`` is None while it lives."""

    address: int
    size: int
    start: int
    where: str
    stream: int
    end: int | None = None


def _trace(snapshot: Any, device: int | None, most: int) -> Trace:
    # the oldest files are the bare list of segments
    if isinstance(snapshot, list):
        snapshot = {"segments": snapshot}
    if not isinstance(snapshot, dict) or "segments" not in snapshot:
        raise ValueError("not a memory snapshot: no 'segments'.")
    segments = _list(snapshot["segments"], "segments")
    histories = [_list(h, "device_traces") for h in _list(snapshot.get("device_traces", []), "")]
    device = _device(segments, histories, device)
    records = len(segments) + sum(map(len, histories))
    records += sum(len(_list(segment.get("blocks", []), "blocks")) for segment in segments)
    if records > most:
        raise ValueError(f"{records} records are more than so short a file can hold.")
    places = _Places()
    events = [
        event
        for event in (histories[device] if device < len(histories) else [])
        if _field(event, "action", str) not in _IGNORED
    ]
    requests, live = _replay(events, places)
    blocks = [
        (block, address, _field(segment, "stream", int, 0))
        for segment in segments
        if _field(segment, "device", int, 0) == device
        for block, address in _blocks(segment)
    ]
    untouched = [
        _Request(address, _requested(block), 0, places.of(block), stream)
        for block, address, stream in blocks
        if _field(block, "state", str, "").startswith("active") and address not in live
    ]
    requests = sorted([*untouched, *requests], key=lambda r: (r.start, r.address))
    return _columns(requests, finish=len(events) + 1)


def _device(segments: Sequence[Any], histories: list[Sequence[Any]], device: int | None) -> int:
    used = {number for number, history in enumerate(histories) if history}
    used |= {_field(segment, "device", int, 0) for segment in segments}
    if device is None:
        if len(used) > 1:
            raise ValueError(f"devices {_few(used)} were used; choose one with device=.")
        return min(used, default=0)
    if device not in used:
        raise ValueError(f"device={device} has no record; those that have: {_few(used)}.")
    return device


def _few(devices: set[int]) -> str:
    return f"{sorted(devices)[:9]}{'' if len(devices) < 10 else ' and more'}"


def _replay(events: list[Any], places: "_Places") -> tuple[list[_Request], dict[int, _Request]]:
    """Pairs allocations with releases; returns all requests and those still live, by address."""
    requests: list[_Request] = []
    live: dict[int, _Request] = {}
    for time, event in enumerate(events, 1):
        action, address = _field(event, "action", str), _field(event, "addr", int)
        size, stream = _size(event), _field(event, "stream", int, 0)
        if action == "alloc":
            if address in live:
                raise ValueError(
                    f"event {time - 1} allocates address {address:#x}, which is still live."
                )
            live[address] = _Request(address, size, time, places.of(event), stream)
            requests.append(live[address])
        elif action in ("free_completed", "free"):
            request = live.pop(address, None)
            if request is None:  # its allocation fell out of the ring buffer
                request = _Request(address, size, 0, "", stream)
                requests.append(request)
            request.end = time
        else:
            raise ValueError(f"event {time - 1} has the unknown action {action!r}.")
    return requests, live


def _blocks(segment: Any) -> list[tuple[dict[str, Any], int]]:
    """Blocks with their addresses, which old files leave to be added up."""
    address = _field(segment, "address", int)
    found = []
    for block in _list(segment.get("blocks", []), "blocks"):
        size = _size(block)
        address = _field(block, "address", int, address)
        found.append((block, address))
        address += size
    return found


def _requested(block: dict[str, Any]) -> int:
    if "requested_size" in block:
        return _size(block, "requested_size")
    history = _list(block.get("history", []), "history")
    if history:
        return _size(history[0], "real_size")
    return _size(block)


class _Places:
    """Lines of the program that allocate, by the lists of frames, which records share."""

    def __init__(self) -> None:
        self._known: dict[int, str] = {}

    def of(self, record: dict[str, Any]) -> str:
        """The place of an event or a block, "" if unknown."""
        frames = _frames(record)
        if id(frames) not in self._known:
            self._known[id(frames)] = _where(frames[:_DEEPEST])
        return self._known[id(frames)]


def _frames(record: dict[str, Any]) -> Sequence[Any]:
    if "frames" in record:
        return _list(record["frames"], "frames")
    history = _list(record.get("history", []), "history")
    if not history:
        return ()
    if not isinstance(history[0], dict):
        raise ValueError("a record that should hold 'frames' is not a dict.")
    return _list(history[0].get("frames", ()), "frames")


def _where(frames: Sequence[Any]) -> str:
    """The innermost Python line outside torch, else the innermost line."""
    named = [f for f in frames if isinstance(f, dict) and isinstance(f.get("filename"), str)]
    python = [f for f in named if f["filename"].endswith(".py")]
    own = [f for f in python if "/torch/" not in f"/{f['filename'][-_DEEPEST:]}"]
    for frame in (*own, *python, *named):
        file = frame["filename"][-_LONGEST:].rpartition("/")[2]
        line, name = _field(frame, "line", int, 0), _field(frame, "name", str, "")
        return f"{file}:{line or '?'} {name[:_LONGEST]}"[:_LONGEST].strip()
    return ""


def _columns(requests: list[_Request], finish: int) -> Trace:
    layers = sorted({request.where for request in requests})
    code = {where: number for number, where in enumerate(layers)}
    streams = {s: n for n, s in enumerate(dict.fromkeys(r.stream for r in requests))}
    ends = [finish if request.end is None else request.end for request in requests]
    places = [code[request.where] for request in requests]
    return Trace.of(
        size=np.array([request.size for request in requests], np.int64),
        start=np.array([request.start for request in requests], np.int64),
        end=np.array(ends, np.int64),
        id=np.array([f"{number} {r.where}".strip() for number, r in enumerate(requests)], np.str_),
        stream=np.array([streams[request.stream] for request in requests], np.int64),
        layer_start=np.array(places, np.int64),
        layers=layers,
    )


def _list(value: Any, name: str) -> Sequence[Any]:
    """The value itself, never a copy: a file may refer to one list many times."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name or 'device_traces'} is not a list.")
    return value


def _field(record: Any, name: str, kind: type, default: Any = None) -> Any:
    if not isinstance(record, dict):
        raise ValueError(f"a record that should hold {name!r} is not a dict.")
    value = record.get(name, default)
    if not isinstance(value, kind) or isinstance(value, bool):
        if value is None or isinstance(value, int | float | str):
            raise ValueError(f"{name}={value!r:.80} is not of type {kind.__name__}.")
        # no text of the value: it may be a list that holds itself a million times
        raise ValueError(f"{name} is a {type(value).__name__}, not of type {kind.__name__}.")
    if kind is int and value.bit_length() > 64:
        raise ValueError(f"{name} is a number of more than 64 bits.")
    return value


def _size(record: Any, name: str = "size") -> int:
    size = _field(record, name, int)
    if not 0 <= size < 1 << 48:
        raise ValueError(f"{name}={size} is not a number of bytes.")
    return size
