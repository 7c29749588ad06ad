"""How well heads can be grouped at best: an integer program beside what a search has found."""

import numpy as np
from jaxtyping import Int
from scipy import optimize


def head_bound(weights: Int[np.ndarray, " heads"], groups: int, nodes: int = 200) -> float:
    """No split of heads into equal groups is better balanced.

    The integer program says how many heads of each weight a group gets, so that equal heads are
    not told apart; it is left after some nodes, with what is proven by then. Since a ring waits at
    least as long as its group has work for each of its devices, no plan of blocks can be better
    either.

    Args:
      weights: int ``[heads]``, work of every head.
      groups: number of groups; divides the heads.
      nodes: of the search tree.

    Returns:
      A lower bound on heaviest group over mean group, at least 1.
    """
    mean = weights.sum() / groups
    if not mean or groups == 1:
        return 1.0
    kinds, copies = np.unique(weights, return_counts=True)
    every_group, every_kind = np.ones(groups), np.ones(kinds.size)
    loads = np.kron(np.eye(groups), kinds / mean)
    heaviest = np.append(np.zeros(groups * kinds.size), 1)
    found = optimize.milp(
        heaviest,
        integrality=1 - heaviest,
        bounds=optimize.Bounds(0, np.append(np.kron(every_group, copies), np.inf)),
        constraints=[
            optimize.LinearConstraint(
                _with(0, np.kron(every_group, np.eye(kinds.size))), copies, copies
            ),
            optimize.LinearConstraint(
                _with(0, np.kron(np.eye(groups), every_kind)),
                *[np.full(groups, weights.size // groups)] * 2,
            ),
            optimize.LinearConstraint(_with(-1, loads), -np.inf, 0),
        ],
        options={"node_limit": nodes, "mip_rel_gap": 1e-5},
    )
    return max(1.0, float(found.mip_dual_bound or 1.0))


def _with(factor: int, rows: np.ndarray) -> np.ndarray:
    """Rows of a constraint with the factor of the heaviest load behind them."""
    return np.append(rows, np.full((len(rows), 1), factor), 1)
