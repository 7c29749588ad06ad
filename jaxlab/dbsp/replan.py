"""When to plan again: masks drift over denoising steps, and a plan is kept while it still fits."""

import dataclasses
import math
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64

from jaxlab.blocksparse import BlockMask
from jaxlab.dbsp.heads import expand_kv_groups, head_groups
from jaxlab.dbsp.imbalance import imbalance_ratio, work_table
from jaxlab.dbsp.plan import Plan, spare_heads
from jaxlab.dbsp.planner import plan

type LayerPlanner = Callable[[Bool[np.ndarray, "*batch heads q_blocks kv_blocks"]], Plan]
type HeadPlanner = Callable[[Int64[np.ndarray, " heads"], int], Int64[np.ndarray, "groups room"]]
type Seen = BlockMask | Bool[np.ndarray, "..."] | Int[np.ndarray, "..."]


@typing.no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class ReplanState:
    """What a policy remembers between steps.

    Attributes:
      plans: the plan in use, one a layer.
      fresh: float64 ``[layers]``, imbalance ratio that each plan had on what it was made from; 1
        before the first plan.
      paid: float64 ``[layers]``, excess of the ratio over ``fresh``, summed over the steps since.
      planned: int64 ``[layers]``, plans made so far, adopted or not.
      counts: int64 ``[layers, heads]``, active blocks of every head when last seen, or None.
      steps: updates so far.
    """

    plans: tuple[Plan, ...]
    fresh: Float64[np.ndarray, " layers"]
    paid: Float64[np.ndarray, " layers"]
    planned: Int64[np.ndarray, " layers"]
    counts: Int64[np.ndarray, "layers heads"] | None = None
    steps: int = 0


@typing.no_type_check
@dataclasses.dataclass(frozen=True)
class ReplanPolicy:
    """Plans again when the imbalance ratio passes a threshold.

    ``update`` looks at one step's masks under the plans in use. Called after a step has run, with
    what that step computed, the plans it returns are for the next one: the lag of one step that
    masks known only after attention force. Called before a step whose masks are known, there is no
    lag. A new plan that is no better than the old one is not adopted.

    Attributes:
      initial: the plan of every layer at first, often ``Plan.contiguous``; its degrees stay.
      layers: number of layers, the leading axis of what ``update`` is given; None for one layer
        without that axis, whose plan and flag are then returned bare.
      threshold: P_s, the ratio above which to plan again.
      forecast: part of their last change that counts are moved on by before heads are balanced,
        because the plan is for steps to come; masks are taken as they are. 0, the published rule,
        plans for what was seen.
      scope: ``model`` compares the mean ratio of all layers and plans them together; ``layer``
        decides for every layer by itself.
      planner: makes the plan of one layer from its mask; None is ``plan``, from the initial home.
      head_planner: regroups heads when only their counts are known: block orders then stay.
      sharing: query heads that share a key head; they stay together, in order.

    Raises:
      ValueError: a number out of range.

    Source: db-SP, plan reuse: figure and a deleted script (threshold 1.1, mean over layers, one
    step of lag); see ``docs/sources/dbsp.md``.

    Example:
      >>> home = Plan.contiguous(heads=4, q_blocks=1, kv_blocks=1, ulysses=2, ring=1)
      >>> policy = ReplanPolicy(home)
      >>> state, plan, replanned = policy.update(policy.init(), np.array([4, 8, 0, 4]))
      >>> replanned, plan.head_perm.tolist()
      (True, [1, 2, 0, 3])
    """

    initial: Plan
    layers: int | None = None
    threshold: float = 1.1
    forecast: float = 0.0
    scope: Literal["model", "layer"] = "model"
    planner: LayerPlanner | None = None
    head_planner: HeadPlanner = head_groups
    sharing: int = 1

    def __post_init__(self) -> None:
        _check(self)
        if not (math.isfinite(self.threshold) and self.threshold >= 1):
            raise ValueError(
                f"ReplanPolicy: threshold={self.threshold} must be finite and at least 1, "
                "the ratio of perfect balance."
            )

    def init(self) -> ReplanState:
        """The state before the first step: every layer on the initial plan."""
        return _start(self)

    def update(
        self, state: ReplanState, seen: Seen
    ) -> tuple[ReplanState, Plan | tuple[Plan, ...], bool | Bool[np.ndarray, " layers"]]:
        """Judges the plans in use by a step's masks, and replaces those that no longer fit.

        Args:
          state: from ``init`` or the update before.
          seen: bool masks ``[layers, *batch, heads, q_blocks, kv_blocks]`` in original order, an
            array or the blocks of a BlockMask, or int counts of active blocks ``[layers, heads]``;
            no leading axis if ``layers`` is None.

        Returns:
          The next state; the plan to use from now on, a tuple over the layers unless ``layers`` is
          None; which layers were planned anew.

        Raises:
          ValueError: ``seen`` is of another kind or shape.
        """
        masks = _layered(self, seen)
        ratio = _ratios(masks, state.plans)
        return _advance(self, state, masks, ratio, _pooled(self, ratio) > self.threshold)


@typing.no_type_check
@dataclasses.dataclass(frozen=True)
class DriftPolicy:
    """Plans again when keeping the plan has cost as much as a new one: for masks that drift.

    A plan ages: its ratio rises above the one it was made at. If the excess grows by ``a`` a step
    and a plan costs ``C``, planning every ``T`` steps costs ``C / T + a T / 2`` a step, least where
    the excess paid since the last plan, ``a T^2 / 2``, equals ``C``, however fast the drift. So a
    layer is planned anew when the excess paid and that of one more step exceed ``C``; unless too
    few steps are left to earn it back. A fixed threshold plans too often while masks change fast
    and too rarely while they change slowly.

    Attributes:
      initial: as in ``ReplanPolicy``.
      layers: as in ``ReplanPolicy``.
      cost: of one plan, in steps of perfectly balanced attention; or any other price that makes as
        many plans as one can afford.
      steps: how many steps the run has; None if that is not known.
      forecast: as in ``ReplanPolicy``.
      scope: as in ``ReplanPolicy``.
      planner: as in ``ReplanPolicy``.
      head_planner: as in ``ReplanPolicy``.
      sharing: as in ``ReplanPolicy``.

    Raises:
      ValueError: a number out of range.

    Source: ours.
    """

    initial: Plan
    layers: int | None = None
    cost: float = 0.3
    steps: int | None = None
    forecast: float = 0.5
    scope: Literal["model", "layer"] = "layer"
    planner: LayerPlanner | None = None
    head_planner: HeadPlanner = head_groups
    sharing: int = 1

    def __post_init__(self) -> None:
        _check(self)
        if not (math.isfinite(self.cost) and self.cost >= 0):
            raise ValueError(f"DriftPolicy: cost={self.cost} must be finite and not negative.")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"DriftPolicy: steps={self.steps} must be positive, or None.")

    def init(self) -> ReplanState:
        """The state before the first step: every layer on the initial plan."""
        return _start(self)

    def update(
        self, state: ReplanState, seen: Seen
    ) -> tuple[ReplanState, Plan | tuple[Plan, ...], bool | Bool[np.ndarray, " layers"]]:
        """Plans again where the excess paid since the last plan is worth one.

        Args:
          state: from ``init`` or the step before.
          seen: what this step computes, as in ``ReplanPolicy.update``.

        Returns:
          The next state, the plan of this step, and whether it is new, as ``ReplanPolicy.update``.
        """
        masks = _layered(self, seen)
        ratio = _ratios(masks, state.plans)
        excess = np.maximum(ratio - state.fresh, 0)
        paid = state.paid + excess
        due = _pooled(self, paid + excess) > self.cost
        if self.steps is not None:
            due &= _pooled(self, excess) * (self.steps - state.steps - 1) > self.cost
        return _advance(self, dataclasses.replace(state, paid=paid), masks, ratio, due)


@dataclasses.dataclass(frozen=True, eq=False)
class Replay:
    """What a policy did on a trace.

    Attributes:
      ratio: float64 ``[steps, layers]``, imbalance ratio under the plan that was in use.
      replanned: bool ``[steps, layers]``, plans adopted at the end of a step for the next one, or,
        without lag, at its beginning.
      plans: plans made a layer, adopted or not, mean over the layers; of a policy that decides for
        the whole model, how often it did.
    """

    ratio: Float64[np.ndarray, "steps layers"]
    replanned: Bool[np.ndarray, "steps layers"]
    plans: float

    @property
    def interval(self) -> float:
        """Steps for every plan made, mean; infinite when none was."""
        return len(self.ratio) / self.plans if self.plans else math.inf


def replay(
    policy: ReplanPolicy | DriftPolicy, trace: Iterable[Seen], *, lag: bool = True
) -> Replay:
    """Runs a policy over the masks or counts of many steps.

    Args:
      policy: what decides.
      trace: for every step what ``policy.update`` takes.
      lag: whether a step's masks are known only after it ran. The last step is then followed by
        nothing, and no plan is made for it.

    Returns:
      The ratio of every step and layer, and when plans were made.

    Raises:
      ValueError: an empty trace, or as ``policy.update``.
    """
    steps = list(trace)
    if not steps:
        raise ValueError("replay: the trace holds no step.")
    state, ratios, replanned = policy.init(), [], []
    for place, seen in enumerate(steps):
        planned = np.zeros(len(state.plans), bool)
        masks = _layered(policy, seen)
        before = state.plans
        if not lag or place + 1 < len(steps):
            state, _, flags = policy.update(state, seen)
            planned = np.atleast_1d(flags)
        in_use = before if lag else state.plans
        ratios.append(_ratios(masks, in_use))
        replanned.append(planned)
    return Replay(np.array(ratios), np.array(replanned), float(state.planned.mean()))


def _check(policy: ReplanPolicy | DriftPolicy) -> None:
    name = type(policy).__name__
    if policy.layers is not None and policy.layers < 1:
        raise ValueError(f"{name}: layers={policy.layers} must be positive, or None for one layer.")
    if not (math.isfinite(policy.forecast) and policy.forecast >= 0):
        raise ValueError(f"{name}: forecast={policy.forecast} must be finite and not negative.")
    if policy.scope not in ("model", "layer"):
        raise ValueError(f"{name}: scope={policy.scope!r} must be 'model' or 'layer'.")
    if policy.sharing < 1 or policy.initial.head_perm.size % policy.sharing:
        raise ValueError(
            f"{name}: sharing={policy.sharing} must divide the plan's "
            f"{policy.initial.head_perm.size} heads."
        )


def _start(policy: ReplanPolicy | DriftPolicy) -> ReplanState:
    layers = policy.layers or 1
    return ReplanState(
        (policy.initial,) * layers, np.ones(layers), np.zeros(layers), np.zeros(layers, np.int64)
    )


def _layered(policy: ReplanPolicy | DriftPolicy, seen: BlockMask | np.ndarray) -> list[np.ndarray]:
    """One mask, or one vector of counts for all heads of the plan, for every layer."""
    seen = np.asarray(seen.live_blocks() if isinstance(seen, BlockMask) else seen)
    layered = seen if policy.layers is not None else seen[None]
    heads = policy.initial.head_perm.size
    if layered.shape[:1] != (policy.layers or 1,):
        raise ValueError(f"update: seen has shape {seen.shape}, not {policy.layers} layers.")
    if layered.dtype == np.bool_ and layered.ndim >= 4:
        _check_heads(policy, layered.shape[-3])
        return list(layered)
    if np.issubdtype(layered.dtype, np.integer) and layered.ndim == 2:
        if layered.min(initial=0) < 0:
            raise ValueError("update: counts must not be negative.")
        _check_heads(policy, layered.shape[1])
        padded = np.pad(layered.astype(np.int64), [(0, 0), (0, heads - layered.shape[1])])
        return list(padded)
    raise ValueError(
        "update: seen must be bool masks [layers, *batch, heads, q_blocks, kv_blocks] or int "
        f"counts [layers, heads], without the first axis if layers is None; got "
        f"{seen.dtype} {seen.shape}."
    )


def _check_heads(policy: ReplanPolicy | DriftPolicy, heads: int) -> None:
    plan = policy.initial
    if not 0 <= plan.head_perm.size - heads <= spare_heads(plan.ulysses, policy.sharing):
        raise ValueError(
            f"update: seen has {heads} heads, the initial plan places {plan.head_perm.size} with "
            f"padding, sharing={policy.sharing}; pass heads // kv_heads as sharing, or a plan for "
            "these heads."
        )


def _ratios(masks: Sequence[np.ndarray], plans: Sequence[Plan]) -> np.ndarray:
    """rho_s of every layer's mask; of counts what is known of it, the balance between groups."""
    layers = zip(masks, plans, strict=True)
    if masks[0].ndim > 1:
        return np.array([imbalance_ratio(work_table(mask, plan)) for mask, plan in layers])
    placed = np.stack([counts[plan.head_perm] for counts, plan in layers])
    load = placed.reshape(len(plans), plans[0].ulysses, -1).sum(2)
    return np.where(load.any(1), load.max(1) / np.maximum(load.mean(1), 1e-300), 1.0)


def _ratio(mask: np.ndarray, plan: Plan) -> float:
    return float(_ratios([mask], [plan])[0])


def _ahead(
    policy: ReplanPolicy | DriftPolicy, state: ReplanState, masks: list[np.ndarray]
) -> list[np.ndarray]:
    """What to plan for: masks as they are, counts moved on by a part of their last change."""
    if not policy.forecast or masks[0].ndim > 1 or state.counts is None:
        return masks
    change = (policy.forecast * (np.stack(masks) - state.counts)).astype(np.int64)
    return list(np.maximum(np.stack(masks) + change, 0))


def _pooled(policy: ReplanPolicy | DriftPolicy, values: np.ndarray) -> np.ndarray:
    return values if policy.scope == "layer" else np.full_like(values, values.mean())


def _plan(policy: ReplanPolicy | DriftPolicy, mask: np.ndarray, current: Plan) -> Plan:
    if mask.ndim == 1:
        groups = policy.head_planner(mask.reshape(-1, policy.sharing).sum(1), current.ulysses)
        return dataclasses.replace(current, head_perm=expand_kv_groups(groups, policy.sharing))
    if policy.planner is None:
        return plan(
            mask,
            ulysses=current.ulysses,
            ring=current.ring,
            home=(current.q_home, current.kv_home),
            kv_heads=mask.shape[-3] // policy.sharing,
        )
    return policy.planner(mask)


def _advance(
    policy: ReplanPolicy | DriftPolicy,
    state: ReplanState,
    masks: list[np.ndarray],
    ratio: np.ndarray,
    due: np.ndarray,
) -> tuple[ReplanState, Plan | tuple[Plan, ...], bool | np.ndarray]:
    """Plans the layers that are due, for what lies ahead, and keeps what is no worse."""
    plans, fresh, paid = list(state.plans), state.fresh.copy(), state.paid.copy()
    ahead = _ahead(policy, state, masks)
    replanned = np.zeros(len(plans), bool)
    for layer in np.flatnonzero(due):
        target = ahead[layer]
        candidate = _plan(policy, target, plans[layer])
        reached = _ratio(target, candidate)
        if reached < (ratio[layer] if ahead is masks else _ratio(target, plans[layer])):
            plans[layer], fresh[layer], replanned[layer] = candidate, reached, True
        else:
            fresh[layer] = max(fresh[layer], ratio[layer])
        paid[layer] = 0.0
    counts = np.stack(masks) if masks[0].ndim == 1 else None
    planned = state.planned + due
    state = ReplanState(tuple(plans), fresh, paid, planned, counts, state.steps + 1)
    if policy.layers is None:
        return state, plans[0], bool(replanned[0])
    return state, state.plans, replanned
