"""How balanced block plans are, and how much they move, on families of masks and on a clip's."""

import concurrent.futures
import dataclasses
import functools
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Bool

from experiments.workloads.head_bound import head_bound
from experiments.workloads.mask_families import FAMILIES, GEOMETRIES, family_mask
from experiments.workloads.video_window import Window
from jaxlab.blocksparse import sparge_mask
from jaxlab.dbsp import fit_home, head_groups, imbalance_ratio, movement_bound, plan, work_table
from jaxlab.dbsp.heads import HeadMethod

DEGREES = ((2, 4), (1, 8))
"""Ulysses and ring degrees: eight devices; two groups of heads are planned each by itself."""

GREEDY_REWARDS = (0, 1, 2, 10)
CONTIGUOUS, NEAR, LATER = (
    "refined, 20% from contiguous",
    "refined, 5% from fitted home",
    "the same, later step",
)
WHERE_FITTED = "fitted home, layers unseen, positions fitted to"
"""On clips a home is also judged where the window stood when it was fitted."""

HEADS = "heads alone, lower bound"
"""How balanced groups of heads can be at best, and no block plan better."""

FRONT = {"contiguous": (0.02, 0.05, 0.1, 0.4), "fitted home": (0.02, 0.1)}
"""Caps on the moved query blocks that are tried beside those of the bars."""

BOUNDED = (0.02, 0.05, 0.1, 0.2)
"""Caps from contiguous shards for which lower bounds are computed; key blocks move 1.25 times as
much."""

type Row = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Which layers are planned.

    Attributes:
      n: nominal blocks of a mask.
      families: of masks, see ``family_mask``.
      seeds: of each family, from ``first`` upward.
      first: seed.
      fronts: for how many of the seeds all caps are tried and lower bounds computed.
      heads: of a layer.
      fitted: layers that a home is fitted to.
      evaluations: of the refined plans that the bars are about; the others have a fifth.
    """

    n: int = 256
    families: tuple[str, ...] = FAMILIES
    seeds: int = 20
    first: int = 1000
    fronts: int = 2
    heads: int = 40
    fitted: int = 4
    evaluations: int = 500_000

    def __post_init__(self) -> None:
        for family in self.families:
            if family not in FAMILIES:
                raise ValueError(f"families: {family!r} is unknown; choose from {FAMILIES}.")
        if self.n not in GEOMETRIES:
            raise ValueError(f"n={self.n} must be one of {tuple(GEOMETRIES)}.")
        for name in ("seeds", "heads", "fitted"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")


def family_balance(config: Blocks, family: str) -> dict[str, dict[str, list[float]]]:
    """Plans one unseen layer for every seed and ring degree, two seeds at a time.

    Homes are fitted to other layers at steps 0 and 1; the layer judged is seen at step 2, and a
    plan that moves 5 % of it is judged again at step 5.

    Args:
      config: which layers.
      family: of masks.

    Returns:
      By degrees (``U2R4``, ``U1R8``) and plan: mean ratio, worst ratio, mean parts of the query and
      key blocks that leave their home, and over how many seeds.
    """

    def of_seed(seed: int) -> list[dict[str, Row]]:
        draw = {"seed": config.first + seed, "n": config.n, "heads": config.heads}
        judged, later = (family_mask(family, layer=0, step=step, **draw) for step in (2, 5))
        others = [
            family_mask(family, layer=1 + one, step=step, **draw)
            for one in range(config.fitted)
            for step in (0, 1)
        ]
        return [
            balance_of(
                judged,
                later,
                fit_home(others, ulysses=ulysses, ring=ring, seed=seed),
                degrees=(ulysses, ring),
                evaluations=config.evaluations,
                seed=seed,
                front=seed < config.fronts,
            )
            for ulysses, ring in DEGREES
        ]

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = list(pool.map(of_seed, range(config.seeds)))
    return {
        f"U{ulysses}R{ring}": mean_and_worst([one[number] for one in found])
        for number, (ulysses, ring) in enumerate(DEGREES)
    }


def balance_of(
    judged: Bool[np.ndarray, "heads q_blocks kv_blocks"],
    later: Bool[np.ndarray, "heads q_blocks kv_blocks"],
    home: np.ndarray,
    *,
    degrees: tuple[int, int],
    evaluations: int,
    seed: int,
    front: bool,
) -> dict[str, Row]:
    """Plans one layer in every way, its heads regrouped by ``refined``.

    Args:
      judged: the layer's mask.
      later: its mask some steps later.
      home: order fitted to other layers.
      degrees: U and R.
      evaluations: of the refined plans of the bars.
      seed: of the refined plans.
      front: also try other caps, and compute lower bounds.

    Returns:
      By plan: imbalance ratio, and the parts of the query and key blocks that leave their home.
    """
    ulysses, ring = degrees
    make = functools.partial(plan, judged, ulysses=ulysses, ring=ring, seed=seed)
    searched = functools.partial(make, movement_weight=0)
    refined = functools.partial(searched, evaluations=evaluations)
    quick = functools.partial(searched, evaluations=evaluations // 5)
    plans = {
        "none": make(blocks="none"),
        "striped": make(blocks="none", home="striped"),
        "fitted home": make(blocks="none", home=home),
        **{
            f"greedy, reward {reward}": make(blocks="greedy", home_reward=reward)
            for reward in GREEDY_REWARDS
        },
        CONTIGUOUS: refined(q_cap=0.2, kv_cap=0.25),
        NEAR: refined(home=home, q_cap=0.05, kv_cap=0.05),
    }
    if front:
        homes = {"contiguous": ("contiguous", 1.25), "fitted home": (home, 1.0)}
        for name, caps in FRONT.items():
            start, wider = homes[name]
            for cap in caps:
                moved = {"q_cap": cap, "kv_cap": wider * cap}
                plans[f"refined, {cap:.0%} from {name}"] = quick(home=start, **moved)
    found = {
        name: (imbalance_ratio(work_table(judged, one)), one.q_moved, one.kv_moved)
        for name, one in plans.items()
    }
    found[HEADS] = (_heads_alone(judged, ulysses), 0.0, 0.0)
    near = plans[NEAR]
    found[LATER] = (imbalance_ratio(work_table(later, near)), near.q_moved, near.kv_moved)
    if front:
        for cap in BOUNDED:
            least = movement_bound(judged, plans[CONTIGUOUS], q_cap=cap, kv_cap=1.25 * cap)
            where = f"{cap:.0%} from contiguous"
            found[f"lower bound, {where}"] = (least, cap, 1.25 * cap)
            found[f"bound over plan, {where}"] = (
                least / found[f"refined, {where}"][0],
                cap,
                1.25 * cap,
            )
    return found


def mean_and_worst(rows: Sequence[Mapping[str, Row]]) -> dict[str, list[float]]:
    """By plan: mean and worst ratio, mean parts moved, and the number of layers that have it."""
    found = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        ratios, q_moved, kv_moved = np.transpose([row[name] for row in rows if name in row])
        found[name] = [ratios.mean(), ratios.max(), q_moved.mean(), kv_moved.mean(), ratios.size]
    return found


def clip_balance(
    window: Window,
    name: str,
    *,
    heads: int,
    dim: int,
    layers: int,
    blocks: tuple[int, int],
    evaluations: int,
    seed: int,
) -> dict[str, object]:
    """Plans the layers that look at a real clip, their homes fitted to other layers before.

    Args:
      window: slides over the clip; a layer is judged at its last position but one, later at its
        last; homes are fitted at the positions before.
      name: of the clip.
      heads: of a layer.
      dim: head size.
      layers: how many are fitted to, and as many others judged.
      blocks: tokens of a query block and of a key block.
      evaluations: of the refined plans.
      seed: of the layers.

    Returns:
      ``heads``: mean ratio of 8 groups by method; ``U2R4`` and ``U1R8`` as from ``family_balance``;
      the mean ``density``.

    Raises:
      AssetUnavailable: the clip is not to be had.
    """
    video = window.video(name)

    @functools.cache
    def drawn(layer: int, step: int) -> np.ndarray:
        key = jax.random.fold_in(jax.random.key(seed), layer)
        q, k, _ = window.inputs(video, step, key=key, heads=heads, dim=dim)
        mask = sparge_mask(q, k, q_block=blocks[0], kv_block=blocks[1])
        return np.asarray(mask.blocks)[0]

    early = range(max(window.steps - 2, 1))
    others = [drawn(layer, step) for layer in range(layers) for step in early]
    unseen = [[drawn(layers + layer, step) for step in early] for layer in range(layers)]
    judged = [
        tuple(drawn(layers + layer, window.steps - back) for back in (2, 1))
        for layer in range(layers)
    ]
    found: dict[str, object] = {
        "density": float(np.mean([one.mean() for one, _ in judged])),
        "heads": {
            method: float(np.mean([_of_groups(one, method) for one, _ in judged]))
            for method in ("none", "snake", "greedy", "refined")
        },
    }
    for ulysses, ring in DEGREES:
        home = fit_home(others, ulysses=ulysses, ring=ring, seed=seed)
        kept = functools.partial(
            plan, ulysses=ulysses, ring=ring, blocks="none", home=home, seed=seed
        )
        rows = []
        for number, (masks, pair) in enumerate(zip(unseen, judged, strict=True)):
            rows.append(
                balance_of(
                    *pair,
                    home,
                    degrees=(ulysses, ring),
                    evaluations=evaluations,
                    seed=seed,
                    front=number == 0,
                )
            )
            there = [imbalance_ratio(work_table(mask, kept(mask))) for mask in masks]
            rows[-1][WHERE_FITTED] = (float(np.mean(there)), 0.0, 0.0)
        found[f"U{ulysses}R{ring}"] = mean_and_worst(rows)
    return found


def _heads_alone(blocks: np.ndarray, groups: int) -> float:
    """The bound on groups of heads; 1 where the search has come too near to it to look for one."""
    near = _of_groups(blocks, "refined", groups) < 1.0005
    return 1.0 if near else head_bound(blocks.sum((1, 2)), groups)


def _of_groups(blocks: np.ndarray, method: HeadMethod, groups: int = 8) -> float:
    counts = blocks.sum((1, 2))
    load = counts[head_groups(counts, groups, method=method)].sum(1)
    return float(imbalance_ratio(load[:, None, None]))
