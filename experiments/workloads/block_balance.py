"""How balanced block plans are, and how much they move, on families of masks."""

from collections.abc import Mapping

import numpy as np

from experiments.workloads.mask_families import family_mask
from jaxlab.dbsp import fit_home, imbalance_ratio, plan, work_table

GREEDY_REWARDS = (0, 1, 2, 10)
CAPS = (0.02, 0.05, 0.1)


def balance_of(
    family: str, seed: int, *, ring: int, n: int, heads: int, evaluations: int, fitted: int = 4
) -> Mapping[str, tuple[float, float, float]]:
    """Plans one unseen layer in every way.

    Homes are fitted to other layers at step 0; the layer judged is seen at step 2, and a plan that
    moves 5 % of it is judged again at step 5.

    Args:
      family: of masks.
      seed: of the family.
      ring: R, with one Ulysses group.
      n: nominal blocks.
      heads: of the layer.
      evaluations: of the refined plans.
      fitted: layers that the home is fitted to.

    Returns:
      By plan: imbalance ratio, and the parts of the query and key blocks that leave their home.
    """
    draw = {"seed": seed, "n": n, "heads": heads}
    blocks, later = (family_mask(family, layer=0, step=step, **draw) for step in (2, 5))
    others = [family_mask(family, layer=1 + layer, **draw) for layer in range(fitted)]
    home = fit_home(others, ring=ring, seed=seed)
    common = {"ulysses": 1, "ring": ring, "seed": seed, "evaluations": evaluations}
    near = {
        f"refined, {cap:.0%} from fitted home": plan(
            blocks, **common, home=home, q_cap=cap, kv_cap=cap
        )
        for cap in CAPS
    }
    plans = {
        "none": plan(blocks, **common, blocks="none"),
        "striped": plan(blocks, **common, blocks="none", home="striped"),
        "fitted home": plan(blocks, **common, blocks="none", home=home),
        **{
            f"greedy, reward {reward}": plan(blocks, **common, blocks="greedy", home_reward=reward)
            for reward in GREEDY_REWARDS
        },
        "refined from contiguous": plan(blocks, **common),
        **near,
    }
    found = {
        name: (imbalance_ratio(work_table(blocks, one)), one.q_moved, one.kv_moved)
        for name, one in plans.items()
    }
    kept = near["refined, 5% from fitted home"]
    ratio = imbalance_ratio(work_table(later, kept))
    return {**found, "the same, later step": (ratio, kept.q_moved, kept.kv_moved)}


def mean_and_worst(rows: list[Mapping[str, tuple[float, float, float]]]) -> dict[str, list[float]]:
    """By plan: mean ratio, worst ratio and mean parts moved, over several layers."""
    return {
        name: [
            float(np.mean([row[name][0] for row in rows])),
            float(np.max([row[name][0] for row in rows])),
            *(float(np.mean([row[name][side] for row in rows])) for side in (1, 2)),
        ]
        for name in rows[0]
    }
