"""Writing a trace as a program runs: allocations and frees in the phase and module they fall in."""

import numpy as np

from jaxlab.stweaver.trace import Trace


class Tape:
    """Allocations and frees in time order, with the phase and module that they fall in."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.rows: list[list[int]] = []  # size, start, end, phases, iteration, layers, dynamic
        self.live: dict[int, None] = {}
        self.codes: tuple[dict[str, int], dict[str, int]] = {}, {}
        self.time = 0
        self.enter("init", -1)

    def enter(self, phase: str, iteration: int) -> None:
        """Goes on in a phase of an iteration, outside of any module."""
        self.phase, self.iteration = phase, iteration
        self.phase_code = self.codes[0].setdefault(phase, len(self.codes[0]))
        self.inside("")

    def inside(self, module: str, dynamic: bool = False) -> None:
        """Goes on in a module of the phase; in none if the name is empty."""
        self.layer_code, self.dynamic = -1, dynamic
        if module:
            name = f"{self.phase}/{module}"
            self.layer_code = self.codes[1].setdefault(name, len(self.codes[1]))

    def allocate(self, name: str, size: int) -> int:
        """Asks for bytes; returns the number of the request."""
        number = len(self.rows)
        row = [size, self.time, 0, self.phase_code, 0, self.iteration, self.layer_code, 0]
        self.rows.append([*row, int(self.dynamic)])
        self.names.append(f"{number}.{name}")
        self.live[number] = None
        self.time += 1
        return number

    def free(self, number: int) -> None:
        """Frees a request."""
        del self.live[number]
        row = self.rows[number]
        row[2], row[4], row[7] = self.time, self.phase_code, self.layer_code
        self.time += 1

    def trace(self) -> Trace:
        """Frees what is still live, in a phase "exit", and returns the trace."""
        self.enter("exit", self.iteration + 1)
        for number in list(self.live):
            self.free(number)
        columns = np.asarray(self.rows, np.int64).T
        phases, layers = (tuple(codes) for codes in self.codes)
        return Trace(
            id=np.asarray(self.names),
            size=columns[0],
            start=columns[1],
            end=columns[2],
            phase_start=columns[3],
            phase_end=columns[4],
            iteration=columns[5],
            layer_start=columns[6],
            layer_end=columns[7],
            dynamic=columns[8].astype(bool),
            stream=np.zeros(len(self.rows), np.int64),
            phases=phases,
            layers=layers,
        )
