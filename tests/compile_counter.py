"""Counting compilations, to test that new data of the same shape compiles nothing new.

with count_compilations("block_sparse_attention") as compiled:
    block_sparse_attention(q, k, v, one_mask)
    block_sparse_attention(q, k, v, another_mask)
assert compiled.count == 1
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax.monitoring

_COMPILED = "/jax/core/compile/backend_compile_duration"


@dataclasses.dataclass
class Compilations:
    """What was compiled: one name an executable, as jax names it (``jit(f)``), in order."""

    names: list[str]

    @property
    def count(self) -> int:
        return len(self.names)


@contextlib.contextmanager
def count_compilations(function: str | None = None) -> Iterator[Compilations]:
    """Counts what XLA compiles inside the block, in any thread.

    Args:
      function: count only executables of this jitted function, by its ``__name__``; None counts
        everything, also the small operations that jax compiles where code runs outside ``jit``.

    Yields:
      The compilations so far.
    """
    compilations = Compilations([])

    def listen(event: str, _: float, **details: Any) -> None:
        if event == _COMPILED:
            name = details["fun_name"]
            if function is None or name in (function, f"jit({function})"):
                compilations.names.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compilations
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
