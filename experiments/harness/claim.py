"""Claims, declared before they are measured, and the verdicts computed from them."""

import math
import re
from dataclasses import KW_ONLY, dataclass
from typing import Literal, NamedTuple, get_args

from experiments.harness.criterion import Criterion
from experiments.harness.plain import Plain

Preset = Literal["smoke", "paper", "gpu"]
Obtained = Literal["exact", "measured", "modelled"]
Outcome = Literal["reproduced", "not reproduced", "not run here", "not checkable here"]

PRESETS: tuple[Preset, ...] = get_args(Preset)
OBTAINED: tuple[Obtained, ...] = get_args(Obtained)
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

_ID = re.compile(r"[a-z0-9]+([._-][a-z0-9]+)*")


@dataclass(frozen=True)
class Claim:
    """One sentence of a paper (or a goal of ours) that a number can confirm or contradict.

    Attributes:
      id: short name, unique in its experiment, such as ``imbalance-before``.
      sentence: the claim in our own words.
      source: where the paper says so (``abstract``, ``Table 3``), or ``goal``.
      quantity: what is measured, such as ``time of dense attention / time of ours``.
      unit: unit of the quantity; ``x`` for a ratio, empty for a bare number or a statement.
      paper: the paper's own value; None where it gives none.
      criterion: what a measured value must satisfy; None only with a ``reason``.
      obtained: ``exact`` (computed), ``measured`` (wall clock, a ratio in one run) or
        ``modelled`` (a simulator or cost model).
      preset: the smallest preset that decides it.
      reason: why it cannot be checked here at all; None for claims that can.
      goal: whether it goes beyond the paper.

    Example:
      >>> from experiments.harness import at_least
      >>> claim = Claim("speed", sentence="Skipping blocks saves time.", source="Table 3",
      ...               quantity="dense time / sparse time", unit="x", paper=3.1,
      ...               criterion=at_least(2), obtained="measured", preset="paper")
      >>> verdict(claim, 2.4, "paper").outcome
      'reproduced'
      >>> verdict(claim, 2.4, "smoke")
      Verdict(outcome='not run here', reason='needs --preset paper')
    """

    id: str
    _: KW_ONLY
    sentence: str
    source: str
    quantity: str
    unit: str
    paper: float | str | None
    criterion: Criterion | None
    obtained: Obtained
    preset: Preset
    reason: str | None = None
    goal: bool = False

    def __post_init__(self):
        if not _ID.fullmatch(self.id):
            raise ValueError(
                f"claim id {self.id!r}: use lower-case words joined by '-', '.' or '_'"
            )
        for name in ("sentence", "source", "quantity"):
            if not getattr(self, name).strip():
                raise ValueError(f"claim {self.id!r}: {name} is empty")
        for name, allowed in (("obtained", OBTAINED), ("preset", PRESETS)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"claim {self.id!r}: {name}={getattr(self, name)!r} is not one of "
                    f"{', '.join(allowed)}"
                )
        if isinstance(self.paper, float) and not math.isfinite(self.paper):
            raise ValueError(f"claim {self.id!r}: paper={self.paper} is not finite")
        if self.reason is not None and not self.reason.strip():
            raise ValueError(f"claim {self.id!r}: reason is empty: say why, or leave it out")
        if self.criterion is None and self.reason is None:
            raise ValueError(
                f"claim {self.id!r} has no criterion: give one, or the reason why the claim "
                "cannot be checked here"
            )


class Verdict(NamedTuple):
    """An outcome and, where nothing was decided, the reason."""

    outcome: Outcome
    reason: str | None = None


def verdict(
    claim: Claim, value: Plain | None, preset: Preset, reason: str | None = None
) -> Verdict:
    """Judge a claim by its own criterion.

    Args:
      claim: what was declared.
      value: what was measured, in the claim's unit; None when nothing was.
      preset: the preset that the value was measured at.
      reason: why nothing was measured, where that is known.

    Returns:
      ``not checkable here`` when the claim says so; ``not run here`` without a value or below
      the claim's preset; otherwise ``reproduced`` or ``not reproduced``. A NaN or an infinity
      never reproduces anything.

    Raises:
      TypeError: when the value is not of the kind that the criterion is about.
      ValueError: for an unknown preset.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset={preset!r} is not one of {', '.join(PRESETS)}")
    if claim.reason is not None:
        return Verdict("not checkable here", claim.reason)
    if PRESETS.index(preset) < PRESETS.index(claim.preset):
        return Verdict("not run here", f"needs --preset {claim.preset}")
    if value is None:
        return Verdict("not run here", reason)
    try:
        accepted = claim.criterion.accepts(value)
    except TypeError as error:
        raise TypeError(f"claim {claim.id!r}: {error}") from error
    return Verdict("reproduced" if accepted else "not reproduced")
