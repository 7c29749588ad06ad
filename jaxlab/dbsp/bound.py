"""How good a plan can be at most: a lower bound on what limited movement can reach."""

import numpy as np
from jaxtyping import Float, Int

from jaxlab.dbsp.blocks import shards_of
from jaxlab.dbsp.home import Masks, live
from jaxlab.dbsp.plan import Plan

_TANGENTS = 24


def movement_bound(mask: Masks, plan: Plan, *, q_cap: int | float, kv_cap: int | float) -> float:
    """No plan with these heads and this home that moves at most so much is better balanced.

    A linear program relaxes every Ulysses group. Let ``x[i]`` query blocks and ``y[j]`` key blocks
    leave shards ``i`` and ``j``, as many as arrive. A tile of the work table then

    - keeps at least ``T0[i, j]`` less the ``x[i]`` heaviest rows and ``y[j]`` heaviest columns of
      the tile;
    - gains at most the ``x[i]`` heaviest rows and ``y[j]`` heaviest columns of other shards, each
      row with the heaviest columns that could arrive;

    rows of tiles lose and gain at most the heaviest rows of blocks, columns likewise, and the sum
    over all tiles is fixed. The least sum of step maxima under these rules is at most that of any
    plan. Without movement the bound is the imbalance ratio itself.

    Args:
      mask: as in ``plan``.
      plan: fixes heads, home and degrees; its orders do not matter.
      q_cap: largest fraction of query blocks that leave home, in every group.
      kv_cap: the same for key blocks.

    Returns:
      A lower bound on ``imbalance_ratio`` in float64, at least 1. It is not always reached.

    Raises:
      ValueError: a cap is outside [0, 1] or the mask does not fit the plan.

    Source: ours; ``docs/sources/dbsp.md``.
    """
    from jaxlab.dbsp.bits import sum_of_heads

    blocks = live("movement_bound", mask)
    plan.validate(blocks)
    for name, cap in (("q_cap", q_cap), ("kv_cap", kv_cap)):
        if not 0 <= cap <= 1:
            raise ValueError(f"movement_bound: {name} must lie in [0, 1], got {cap}.")
    heads = blocks.shape[-3]
    flat = blocks.reshape(-1, *blocks.shape[-2:])
    sizes = (plan.q_home.size, plan.kv_home.size)
    shards = (shards_of(plan.q_home, plan.ring), shards_of(plan.kv_home, plan.ring))
    caps = (int(q_cap * sizes[0] + 1e-9), int(kv_cap * sizes[1] + 1e-9))
    slowest, total = 0.0, 0
    for members in plan.head_perm.reshape(plan.ulysses, -1):
        of_group = np.flatnonzero(np.isin(np.arange(flat.shape[0]) % heads, members))
        work, _ = sum_of_heads(flat, of_group, *sizes)
        total += int(work.sum())
        if work.any():
            slowest = max(slowest, _critical_path(work, shards, caps, plan.ring))
    return max(1.0, slowest * plan.ulysses * plan.ring / total) if total else 1.0


class _Program:
    """A linear program in the making: variables in arrays, one inequality after the other."""

    def __init__(self) -> None:
        self.variables = 0
        self.limits: list[float] = []
        self.entries: list[tuple[int, int, float]] = []

    def new(self, *shape: int) -> Int[np.ndarray, "..."]:
        """Numbers of new variables, none of them negative."""
        start = self.variables
        self.variables += int(np.prod(shape))
        return np.arange(start, self.variables).reshape(shape)

    def at_most(self, limit: int | float, *terms: tuple[np.integer, int | float]) -> None:
        """Sum of factor times variable, at most ``limit``."""
        self.entries += [(len(self.limits), int(column), factor) for column, factor in terms]
        self.limits.append(limit)

    def at_most_heaviest(
        self, column: np.integer, count: np.integer, values: Float[np.ndarray, " n"]
    ) -> None:
        """A variable is at most the sum of so many of the largest values.

        That sum is concave in the count, so that every line through two neighboring points bounds
        it; a few of the lines are enough, since leaving some out only weakens the bound.
        """
        values = np.sort(values)[::-1]
        sums = np.concatenate([[0], np.cumsum(values)])
        for at in np.unique(np.linspace(0, values.size - 1, _TANGENTS).astype(int))[: values.size]:
            slope = float(values[at])
            self.at_most(float(sums[at]) - slope * int(at), (column, 1), (count, -slope))
        self.at_most(float(sums[-1]), (column, 1))

    def least(self, cost: Int[np.ndarray, " some"], total: tuple[np.ndarray, float]) -> float:
        """The least sum of some variables when some others have a given sum."""
        from scipy.optimize import linprog
        from scipy.sparse import coo_array

        rows, columns, factors = zip(*self.entries, strict=True)
        shape = (len(self.limits), self.variables)
        objective, fixed = np.zeros(self.variables), np.zeros((1, self.variables))
        objective[cost], fixed[0, total[0].reshape(-1)] = 1, 1
        found = linprog(
            objective,
            coo_array((factors, (rows, columns)), shape).tocsr(),
            self.limits,
            fixed,
            [total[1]],
            method="highs",
        )
        if found.status != 0:
            raise RuntimeError(f"movement_bound: the linear program failed: {found.message}")
        return float(found.fun)


def _critical_path(
    work: Int[np.ndarray, "q_blocks kv_blocks"],
    shards: tuple[Int[np.ndarray, " q_blocks"], Int[np.ndarray, " kv_blocks"]],
    caps: tuple[int, int],
    ring: int,
) -> float:
    """The least critical path of one group that the rules leave possible."""
    unit = work.sum() / ring**2
    members = [np.arange(ring)[:, None] == shard for shard in shards]
    program = _Program()
    tiles, slowest = program.new(ring, ring), program.new(ring)
    kept, gained = [], []
    for side, (rows, inside, across) in enumerate(
        ((work / unit, members[0], members[1]), (work.T / unit, members[1], members[0]))
    ):
        own_tiles = tiles if side == 0 else tiles.T
        leaving, lost, won = program.new(ring), program.new(ring, ring), program.new(ring, ring)
        line_lost, line_won = program.new(ring), program.new(ring)
        program.at_most(caps[side], *((column, 1) for column in leaving))
        loads = rows @ across.T
        arriving = loads
        if side == 0:  # rows that arrive meet columns that arrive, counted with the rows
            extra = min(caps[1], across.shape[1] // ring)
            arriving = loads + np.stack(
                [np.sort(rows[:, ~shard], axis=1)[:, ::-1][:, :extra].sum(1) for shard in across], 1
            )
        for i in range(ring):
            here = inside[i]
            line = float(loads[here].sum())
            program.at_most_heaviest(line_lost[i], leaving[i], loads[here].sum(1))
            program.at_most_heaviest(line_won[i], leaving[i], loads[~here].sum(1))
            program.at_most(-line, *((t, -1) for t in own_tiles[i]), (line_lost[i], -1))
            program.at_most(line, *((t, 1) for t in own_tiles[i]), (line_won[i], -1))
            for j in range(ring):
                program.at_most_heaviest(lost[i, j], leaving[i], loads[here, j])
                program.at_most_heaviest(won[i, j], leaving[i], arriving[~here, j])
        kept.append(lost if side == 0 else lost.T)
        gained.append(won if side == 0 else won.T)
    home = members[0] @ (work / unit) @ members[1].T
    for i in range(ring):
        for j in range(ring):
            program.at_most(0, (tiles[i, j], 1), (slowest[(j - i) % ring], -1))
            program.at_most(-home[i, j], (tiles[i, j], -1), *((k[i, j], -1) for k in kept))
            program.at_most(home[i, j], (tiles[i, j], 1), *((g[i, j], -1) for g in gained))
    return program.least(slowest, (tiles, float(ring**2))) * unit
