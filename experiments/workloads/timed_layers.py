"""Layers on eight devices under every plan that is compared, their kernels timed."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments.workloads.attention_timing import Timing, missing_for_kernel
from experiments.workloads.mask_families import family_mask
from experiments.workloads.parallel_attention import (
    Kernels,
    Setting,
    padded_mask,
    step_seconds,
)
from jaxlab.dbsp import (
    CostModel,
    Links,
    Plan,
    fit_home,
    imbalance_ratio,
    layer_time,
    plan,
    select,
    work_table,
)

DEGREES = ((8, 1), (4, 2), (2, 4), (1, 8))


@dataclasses.dataclass(frozen=True)
class Layers:
    """The layers.

    Attributes:
      families: of masks, see ``family_mask``.
      seeds: of each family; the first half fits the cost model, the rest judges.
      n: nominal blocks a side.
      heads: of a layer.
      kernels: how they are timed.
      fitted: masks that a home is fitted to.
      evaluations: of the refined plans.
      true_to_size: whether layers have the setting's size and are timed by a GPU's own kernels:
        the setting's links are then taken as they are, else slowed as kernels are.
    """

    families: tuple[str, ...] = ("gen", "svg-orig", "radial-var")
    seeds: int = 4
    n: int = 64
    heads: int = 16
    kernels: Kernels = dataclasses.field(default_factory=Kernels)
    fitted: int = 4
    evaluations: int = 500_000
    true_to_size: bool = False

    def __post_init__(self) -> None:
        if self.seeds < 2 or not self.families:
            raise ValueError(f"seeds={self.seeds}: one to fit and one to judge, of some family.")
        if self.heads % 8 or self.n % 8:
            raise ValueError(f"heads={self.heads} and n={self.n} must divide over 8 devices.")

    @property
    def share(self) -> dict[str, Any]:
        """What one of eight devices computes outside attention: its tokens, of all heads."""
        return {
            "tokens": self.n * self.kernels.block // 8,
            "heads": self.heads,
            "dim": self.kernels.dim,
            "dtype": self.kernels.dtype,
        }

    def missing_for_kernels(self) -> str | None:
        """Why a GPU's own kernels cannot run here, or None where they can."""
        if jax.default_backend() != "gpu":
            return f"needs a CUDA GPU, this is {jax.default_backend()}"
        timing = Timing(
            tokens=self.kernels.block,
            heads=self.heads,
            dim=self.kernels.dim,
            dtype=self.kernels.dtype,
        )
        return missing_for_kernel(timing, (self.kernels.block, self.kernels.block))

    def links(self, setting: Setting, rows: Sequence[dict]) -> Links:
        """Links beside the timed kernels."""
        if self.true_to_size:
            return setting.links
        kernels = [np.sum(row["plans"]["none U8R1"]["seconds"]) for row in rows]
        tensor_bytes = self.kernels.tensor_bytes(self.heads, self.n)
        return setting.links_for(float(np.mean(kernels)) / 8, tensor_bytes)


def plans_of(
    blocks: np.ndarray, others: list[np.ndarray], evaluations: int, model: CostModel
) -> Mapping[str, Plan]:
    """Every plan by name: ``kind UxRy``.

    Refined plans move at most 5 % of the blocks from the fitted home, or none where the model says
    that moving takes longer than it saves.

    Args:
      blocks: bool ``[heads, n, n]``.
      others: masks of other layers at an earlier step, to fit homes to.
      evaluations: of the refined plans.
      model: of a layer of the size that is stood for.
    """
    plans = {}
    home = fit_home(others, ring=8)  # one order of tokens for all layers, whatever their degrees
    for ulysses, ring in DEGREES:
        degrees = {"ulysses": ulysses, "ring": ring}
        name = f"U{ulysses}R{ring}"
        plans[f"none {name}"] = plan(blocks, **degrees, heads="none", blocks="none")
        plans[f"db-SP {name}"] = plan(blocks, **degrees, heads="greedy", blocks="greedy")
        plans[f"striped {name}"] = plan(
            blocks, **degrees, heads="greedy", blocks="none", home="striped"
        )
        refined = (
            plan(blocks, **degrees, home=home, blocks="none"),
            plan(blocks, **degrees, home=home, q_cap=0.05, kv_cap=0.05, evaluations=evaluations),
        )
        plans[f"refined {name}"] = min(
            refined, key=lambda one: model.predict(work_table(blocks, one), one)
        )
    plans["snake U8R1"] = plan(blocks, ulysses=8, ring=1, heads="snake", blocks="none")
    return plans


def timed_layer(layers: Layers, family: str, seed: int) -> dict[str, object]:
    """Plans one layer in every way and times its kernels under each.

    Returns:
      ``family``, ``seed``, ``density`` and by plan: the ``plan``, ``work`` ``[U, R, R]``,
      ``ratio``, ``seconds`` ``[U, steps, ranks]`` and, for a single group, ``placed``: a picture of
      the mask, summed over heads, in the order of the shards.
    """
    draw = {"seed": seed, "n": layers.n, "heads": layers.heads}
    blocks = family_mask(family, layer=0, step=1, **draw)
    others = [
        family_mask(family, layer=1 + layer, step=0, **draw) for layer in range(layers.fitted)
    ]
    setting = Setting()
    model = setting.model(block=setting.tokens / layers.n)
    plans = plans_of(blocks, others, layers.evaluations, model)
    implementation = "pallas" if layers.true_to_size else None
    seconds = step_seconds(layers.kernels, blocks, plans, implementation)
    rows = {}
    for name, one in plans.items():
        work = work_table(blocks, one)
        rows[name] = {
            "plan": dataclasses.asdict(one),
            "work": work,
            "ratio": imbalance_ratio(work),
            "seconds": seconds[name],
            "placed": _placed(blocks, one) if one.ulysses == 1 else [],
        }
    return {"family": family, "seed": seed, "density": blocks.mean(), "plans": rows}


def pictured(plans: dict) -> dict[str, dict]:
    """Work and placed masks of the plans that the pictures show."""
    return {
        name: {part: plans[name][part] for part in ("work", "placed")}
        for name in ("none U1R8", "db-SP U1R8", "refined U1R8")
    }


def _placed(blocks: np.ndarray, one: Plan, size: int = 64) -> np.ndarray:
    """Percentage of active blocks in each cell of a picture, shard after shard."""
    sizes = one.head_perm.size, one.q_order.shape[1], one.kv_order.shape[1]
    placed = padded_mask(blocks, sizes).mean(0)[np.ix_(one.q_order[0], one.kv_order[0])]
    cell = max(
        cell for cell in range(1, max(len(placed) // size, 1) + 1) if len(placed) % cell == 0
    )
    cells = placed.reshape(len(placed) // cell, cell, -1, cell).mean((1, 3))
    return np.rint(100 * cells).astype(int)


@dataclasses.dataclass(frozen=True)
class Judged:
    """Seconds of layers on eight devices.

    Attributes:
      seconds: by plan, one a layer.
      chosen: by kind of plan, its seconds where the cost model chose the degrees, one a held-out
        layer.
      least: the same with the degrees that are best for each layer.
      fixed: the same with the one pair of degrees that is best for all.
      model: the cost model, fitted to the other layers.
      held_out: numbers of the layers that it was not fitted to.
    """

    seconds: Mapping[str, np.ndarray]
    chosen: Mapping[str, np.ndarray]
    least: Mapping[str, np.ndarray]
    fixed: Mapping[str, np.ndarray]
    model: CostModel
    held_out: np.ndarray


def judge(layers: Layers, rows: Sequence[dict], setting: Setting) -> Judged:
    """Adds links to the kernels, fits the cost model to half of the seeds and selects by it.

    Args:
      layers: that were timed.
      rows: from ``timed_layer``.
      setting: what the links are like.
    """
    tensor_bytes = layers.kernels.tensor_bytes(layers.heads, layers.n)
    links = layers.links(setting, rows)
    placed = [
        {
            name: (np.array(one["work"]), rebuilt(one["plan"]), np.array(one["seconds"]))
            for name, one in row["plans"].items()
        }
        for row in rows
    ]
    seconds = {
        name: np.array([_seconds(row[name], tensor_bytes, links) for row in placed])
        for name in placed[0]
    }
    held_out = np.array([row["seed"] >= (layers.seeds + 1) // 2 for row in rows])
    points = [
        (one[0], one[1], seconds[name][number])
        for number, row in enumerate(placed)
        if not held_out[number]
        for name, one in row.items()
    ]
    model = CostModel.fit(points, tensor_bytes=tensor_bytes, links=links)
    chosen, least, fixed = {}, {}, {}
    for kind in ("none", "db-SP", "striped", "refined"):
        names = {degrees: f"{kind} U{degrees[0]}R{degrees[1]}" for degrees in DEGREES}
        every = np.array([seconds[name][held_out] for name in names.values()])
        least[kind], fixed[kind] = every.min(0), every[every.sum(1).argmin()]
        picks = []
        for number in np.flatnonzero(held_out):
            work, plans = (
                {degrees: placed[number][name][part] for degrees, name in names.items()}
                for part in (0, 1)
            )
            degrees, _ = select(work, model, plans=plans)
            picks.append(seconds[names[degrees]][number])
        chosen[kind] = np.array(picks)
    return Judged(seconds, chosen, least, fixed, model, np.flatnonzero(held_out))


def kernel_lines(rows: Sequence[dict]) -> dict[str, dict[str, float]]:
    """Least-squares lines of kernel times over active blocks.

    Args:
      rows: from ``timed_layer``.

    Returns:
      By degrees: ``constant``, seconds of a kernel without blocks; ``block``, seconds a block;
      ``r_squared``, how well the times lie on the line.
    """
    lines = {}
    for ulysses, ring in DEGREES:
        counts, times = [], []
        for row in rows:
            for kind in ("none", "db-SP", "refined"):
                one = row["plans"][f"{kind} U{ulysses}R{ring}"]
                rank, work = np.arange(ring), np.array(one["work"])
                counts += [work[:, rank, (rank + step) % ring].ravel() for step in range(ring)]
                times += list(np.array(one["seconds"]).swapaxes(0, 1).reshape(ring, -1))
        x, y = np.concatenate(counts), np.concatenate(times)
        block, constant = np.polyfit(x, y, 1)
        lines[f"U{ulysses}R{ring}"] = {
            "constant": float(constant),
            "block": float(block),
            "r_squared": float(np.corrcoef(x, y)[0, 1] ** 2),
        }
    return lines


def _seconds(placed: tuple[np.ndarray, Plan, np.ndarray], tensor_bytes: int, links: Links) -> float:
    _, one, kernels = placed
    return layer_time(kernels, one, tensor_bytes=tensor_bytes, links=links).seconds


def rebuilt(record: dict) -> Plan:
    """The plan of a stored row."""
    return Plan(**{name: np.array(x) if isinstance(x, list) else x for name, x in record.items()})
