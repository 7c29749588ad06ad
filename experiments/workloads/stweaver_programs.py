"""JAX programs: their order, their arena, their traces, and what XLA says of its temporaries."""

import jax
import numpy as np

from experiments.workloads.training_steps import training_step
from jaxlab.stweaver import (
    check,
    plan,
    reorder,
    run_in_arena,
    trace_jaxpr,
    xla_memory,
)

DONATED = (0, 1)  # parameters and optimizer state
LINE = 64  # bytes between which the arena and this backend place buffers


def order(model: str, batch: int, moves: int, execute: bool, seed: int) -> dict:
    """Searches an order of a training step's equations, and runs it if so asked.

    Returns:
      Peaks in the program's order and ours, the bound over all orders, and, where executed, whether
      our order in the arena gives the bits of the program's own, evaluated equation by equation.
    """
    step = training_step(model, batch)
    found = reorder(step.fn, *step.args, donate_argnums=DONATED, moves=moves, seed=seed)
    result = {
        "model": model,
        "batch": batch,
        "program": found.program_peak,
        "ours": found.peak,
        "bound": found.lower_bound,
        "saving": found.saving,
        "room": found.room,
    }
    if execute:
        args = step.concrete(seed)
        with jax.disable_jit():
            expected = step.fn(*args)
        ours = run_in_arena(found.fn, *args, donate_argnums=DONATED)
        result["identical"] = _same_bits(expected, ours)
    return result


def _same_bits(one: object, other: object) -> bool:
    leaves, others = (jax.tree_util.tree_leaves(tree) for tree in (one, other))
    return len(leaves) == len(others) and all(
        np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in zip(leaves, others, strict=True)
    )


def jaxpr_plan(model: str, batch: int, remat: bool, seconds: float, seed: int) -> dict:
    """Plans the requests of a training step that is evaluated equation by equation."""
    step = training_step(model, batch, remat=remat)
    trace = trace_jaxpr(step.fn, *step.args, donate_argnums=DONATED)
    made = plan(trace, time_limit=seconds, alignment=LINE, seed=seed)
    check(trace, made)
    return {
        "model": model,
        "remat": remat,
        "requests": len(trace),
        "height": made.height,
        "bound": made.lower_bound,
        "gap": made.gap,
    }


def xla_temporaries(model: str, batch: int, remat: bool) -> dict:
    """Compiles a training step and rebuilds its temporary memory value by value.

    Returns:
      The compiler's total, ours (highest end of a value), an error if values or sizes do not match.
    """
    step = training_step(model, batch, remat=remat)
    row = {"model": model, "remat": remat, "stated": 0, "rebuilt": 0, "values": 0, "phi": 0}
    try:
        memory = xla_memory(step.fn, *step.args, donate_argnums=DONATED)
    except RuntimeError as error:
        return {**row, "error": str(error)}
    values = memory.trace("inclusive-except-shared")  # the other convention can be unsound
    made = plan(values, planner="stweaver", alignment=LINE)
    return {
        **row,
        "stated": memory.temp_size,
        "rebuilt": int((memory.offset + memory.size).max(initial=0)),
        "values": len(memory.id),
        "phi": int(memory.phi.sum()),
        "bound": made.lower_bound,
        "planned": made.height,
        "error": "",
    }
