"""Random traces for the tests: ragged, touching, empty, wrapping."""

import pathlib

import numpy as np
from hypothesis import strategies as st

from jaxlab.stweaver import Trace

MINIMALLOC = pathlib.Path(__file__).parents[1] / "data" / "minimalloc"
LETTERS = "ABCDEFGHIJK"


@st.composite
def traces(draw, largest=12, periodic=None, sizes=None, phases=True):
    """Traces of up to ``largest`` requests over a few integer times, so that ends touch."""
    count = draw(st.integers(0, largest))
    stop = draw(st.integers(2, 14))
    wraps = draw(st.booleans()) if periodic is None else periodic
    sizes = st.integers(0, 9) if sizes is None else sizes
    size, start, end = [], [], []
    for _ in range(count):
        size.append(draw(sizes))
        start.append(draw(st.integers(0, stop if wraps else stop - 1)))
        end.append(start[-1] + draw(st.integers(0, stop)))
    names = ("init", "0F", "1F", "0B", "1B")
    codes = st.lists(st.integers(-1, len(names) - 1), min_size=count, max_size=count)
    columns = {"phase_start": draw(codes), "phase_end": draw(codes)} if phases else {}
    return Trace.of(size, start, end, phases=names, period=stop if wraps else None, **columns)


def training(microbatches=4, layers=3, inflight=2, seed=0):
    """A periodic training step with forward and backward phases, in first-out order per phase."""
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 400, 8) * 512
    rows, phases, alive, clock = [], [], {}, 0
    schedule, forward, backward = [], 0, 0
    while backward < microbatches:
        ahead = forward < microbatches and forward - backward < inflight
        schedule.append(("F", forward) if ahead else ("B", backward))
        forward, backward = forward + ahead, backward + (not ahead)
    for phase, (kind, number) in enumerate(schedule):
        phases.append(f"{number}{kind}")
        if kind == "F":
            saved = []
            for layer in range(layers):
                for tensor in range(3):
                    saved.append((int(sizes[tensor]) + 512 * int(random.integers(4)), clock))
                    rows.append(
                        (int(sizes[3 + (layer + tensor) % 3]), clock + 1, clock + 4, phase, phase)
                    )
                    clock += 3
            alive[number] = saved, phase
        else:
            saved, born = alive.pop(number)
            for size, start in reversed(saved):
                rows.append((int(sizes[6]), clock, clock + 3, phase, phase))
                rows.append((size, start, clock + 2, born, phase))
                clock += 2
    clock += 4
    rows += [(int(size), 0, clock, -1, -1) for size in sizes]
    rows += [(int(sizes[7]), clock - 3, clock + 2, -1, -1)]
    size, start, end, born, freed = zip(*rows, strict=True)
    return Trace.of(
        size, start, end, phase_start=born, phase_end=freed, phases=tuple(phases), period=clock
    )
