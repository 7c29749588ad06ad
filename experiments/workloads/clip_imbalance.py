"""How unequal the work of devices is on the masks of a clip, before and after regrouping."""

import dataclasses
import itertools

import jax
import numpy as np
from jaxtyping import Bool, Int

from experiments.workloads.video_attention import PUBLISHED
from experiments.workloads.video_window import Window
from jaxlab.blocksparse import sparge_mask
from jaxlab.dbsp import Plan, head_groups, imbalance_ratio, work_table


def clip_imbalance(
    window: Window,
    name: str,
    *,
    layers: int,
    heads: int,
    dim: int,
    devices: int,
    seed: int,
    sharpness: tuple[float, float] = PUBLISHED,
) -> list[dict[str, object]]:
    """Scores the masks of a sliding window for every factoring of the devices.

    Args:
      window: what slides over the clip.
      name: of the clip.
      layers: how many layers look at each position of the window.
      heads: of a layer.
      dim: head size.
      devices: how many share the work.
      seed: of the layers.
      sharpness: of the heads, see ``attention_inputs``.

    Returns:
      A row for every layer and step: the mask's density, the work of its heads, and the imbalance
      ratios ``[original heads, greedy heads]`` of every factoring.

    Raises:
      AssetUnavailable: the clip is not to be had.
    """
    video = window.video(name)
    rows = []
    for layer, step in itertools.product(range(layers), range(window.steps)):
        key = jax.random.fold_in(jax.random.key(seed), layer)
        q, k, _ = window.inputs(video, step, key=key, heads=heads, dim=dim, sharpness=sharpness)
        blocks = np.asarray(sparge_mask(q, k).blocks)[0]
        work = blocks.sum((1, 2))
        by_density = np.argsort(work)
        factorings = {
            f"U{u}R{devices // u}": [
                _imbalance(blocks, u, devices // u, regrouped) for regrouped in (False, True)
            ]
            for u in range(devices, 0, -1)
            if devices % u == 0 and heads % u == 0
        }
        before, after = factorings[f"U{devices}R1"]
        rows.append(
            {
                "clip": name,
                "layer": layer,
                "step": step,
                "density": blocks.mean(),
                "variation": work.std() / work.mean(),
                "head_work": work,
                "before": before,
                "after": after,
                "factorings": factorings,
                "pictures": [
                    _thumbnail(blocks[by_density[place]]) for place in (0, len(work) // 2, -1)
                ]
                if layer == step == 0
                else [],
            }
        )
    return rows


def _thumbnail(
    blocks: Bool[np.ndarray, "q_blocks kv_blocks"], size: int = 64
) -> Int[np.ndarray, "rows columns"]:
    """Percentage of active blocks in each cell of a picture of at most ``size`` cells a side."""
    edges = [np.linspace(0, n, min(n, size) + 1).astype(int)[:-1] for n in blocks.shape]
    active, every = (
        np.add.reduceat(np.add.reduceat(x.astype(int), edges[0], 0), edges[1], 1)
        for x in (blocks, np.ones_like(blocks))
    )
    return np.rint(100 * active / every).astype(int)


def _imbalance(
    blocks: Bool[np.ndarray, "heads q_blocks kv_blocks"], ulysses: int, ring: int, regrouped: bool
) -> float:
    heads, q_blocks, kv_blocks = blocks.shape
    plan = Plan.contiguous(
        heads=heads, q_blocks=q_blocks, kv_blocks=kv_blocks, ulysses=ulysses, ring=ring
    )
    if regrouped:
        groups = head_groups(blocks.sum((1, 2)), ulysses)
        plan = dataclasses.replace(plan, head_perm=groups.reshape(-1))
    return imbalance_ratio(work_table(blocks, plan))
