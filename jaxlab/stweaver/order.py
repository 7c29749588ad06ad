"""The order of a program's equations: how low can the peak of live bytes go?"""

import contextlib
import dataclasses
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.source_info_util import user_context
from jaxtyping import Int64

from jaxlab.stweaver.jaxpr import Program
from jaxlab.stweaver.order_graph import Graph
from jaxlab.stweaver.script import Apply, Slot

_ALIGNMENT = 64


@typing.no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """An order of a program's equations, and how far its peak is from the best possible.

    Attributes:
      order: int64 ``[equations]``, equations of the flat program in the order in which to run.
      peak: peak of live bytes in this order, arguments and the inside of loops included.
      program_peak: the same in the order of the program.
      lower_bound: bytes below which no order comes.
      fn: the function with its equations in this order; calls are inlined, results are the same.
    """

    order: Int64[np.ndarray, " equations"]
    peak: int
    program_peak: int
    lower_bound: int
    fn: Callable[..., Any]

    @property
    def saving(self) -> float:
        """``1 - peak / program_peak``."""
        return 1 - self.peak / self.program_peak if self.program_peak else 0.0

    @property
    def room(self) -> float:
        """``1 - lower_bound / program_peak``: what no order can exceed as a saving."""
        return 1 - self.lower_bound / self.program_peak if self.program_peak else 0.0

    @property
    def proven_optimal(self) -> bool:
        """Whether the peak equals the lower bound."""
        return self.peak == self.lower_bound


def reorder(
    fn: Callable[..., Any],
    *args: Any,
    donate_argnums: Iterable[int] = (),
    width: int = 24,
    moves: int = 50_000,
    seed: int = 0,
) -> Schedule:
    """Searches an order of a function's equations with a low peak of live bytes.

    Nested calls are inlined; a loop or branch moves as one. Programs of few orders are solved
    exactly, by dynamic programming over the sets of equations that can come first. Else the best
    is taken of the program's own order, a depth-first order from the results, and beams from
    either end, each improved by moving what is live at the peak, with its forebears or heirs,
    across it. Equations with side effects keep their order.

    Args:
      fn: the function.
      *args: its arguments, arrays or ``jax.ShapeDtypeStruct``; nothing is computed.
      donate_argnums: as for ``trace_jaxpr``.
      width: orders that the beam search keeps.
      moves: moves to try from each start.
      seed: of the moves.

    Returns:
      The best order found, never worse than the program's own.

    Raises:
      ValueError: ``width`` is not positive or ``moves`` is negative.

    Source: beyond the paper; reconstructed, see docs/sources/stweaver.md, importers.
    """
    from jaxlab.stweaver.order_bound import exact_order, order_bound
    from jaxlab.stweaver.order_search import order_peak, search

    if width < 1 or moves < 0:
        raise ValueError(f"reorder: width={width} must be positive, moves={moves} not negative.")
    graph = Graph.of(Program.of(fn, args, donate_argnums, "loops", _ALIGNMENT))
    own = np.arange(len(graph))
    program_peak = order_peak(graph, own)
    order = exact_order(graph)
    bound = order_peak(graph, order) if order is not None else order_bound(graph)
    if order is None:
        order = own if bound == program_peak else search(graph, bound, width, moves, seed)
    flat = Program.of(fn, args, donate_argnums, "calls", _ALIGNMENT)
    return Schedule(order, order_peak(graph, order), program_peak, bound, _ordered(flat, order))


def _ordered(program: Program, order: Sequence[int] | np.ndarray) -> Callable[..., Any]:
    actions = [program.script.steps[row].action for row in order]

    def ordered(*args: Any) -> Any:
        leaves = [*program.constants, *jax.tree_util.tree_leaves(args)]
        values = dict(zip(program.arguments, leaves, strict=True))

        def read(operand: Any) -> Any:
            return values[operand] if isinstance(operand, Slot) else operand.val

        for action in actions:
            assert isinstance(action, Apply)
            eqn = action.eqn
            layer = action.writes[0].layer if action.writes else ""
            with (
                user_context(eqn.source_info.traceback),
                jax.named_scope(layer) if layer else contextlib.nullcontext(),
                eqn.ctx.manager,
            ):
                results = eqn.primitive.bind(
                    *map(read, action.reads), **eqn.primitive.get_bind_params(eqn.params)
                )
            results = results if eqn.primitive.multiple_results else [results]
            values.update(zip(action.writes, results, strict=True))
        return jax.tree_util.tree_unflatten(program.tree, [read(o) for o in program.results])

    return ordered
