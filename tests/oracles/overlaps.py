"""Whether two live ranges ever share a byte: one sorted list, walked event by event."""

import bisect

from jaxlab.stweaver import Replay, Trace


def collision(trace: Trace, replay: Replay) -> tuple[int, int] | None:
    """The first two requests that share a byte while both are live, or None."""
    size, address = trace.size.tolist(), replay.address.tolist()
    live: list[tuple[int, int]] = []
    for row, is_malloc in zip(replay.request.tolist(), replay.malloc.tolist(), strict=True):
        if address[row] < 0:
            continue
        entry = (address[row], row)
        place = bisect.bisect_left(live, entry)
        if not is_malloc:
            assert live.pop(place) == entry
            continue
        if place and live[place - 1][0] + size[live[place - 1][1]] > address[row]:
            return live[place - 1][1], row
        if place < len(live) and address[row] + size[row] > live[place][0]:
            return live[place][1], row
        live.insert(place, entry)
    return None
