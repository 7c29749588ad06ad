"""The scorecard: every claim with the paper's value, ours and the verdict."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.harness.claim import OUTCOMES, PRESETS, Claim, Preset, Verdict, verdict
from experiments.harness.experiment import Checkout, Experiment, load
from experiments.harness.plain import to_json
from experiments.harness.record import Record, read
from experiments.harness.result import Missing, Value


@dataclass(frozen=True)
class Entry:
    """One row of the scorecard.

    Attributes:
      experiment: name of the experiment.
      claim: what was declared.
      value: what was measured; None where nothing decides the claim.
      verdict: computed from the two.
      record: the run that the value comes from.
      declared: the criterion's text at the time of the run, where it reads differently now.
    """

    experiment: str
    claim: Claim
    value: Value | None
    verdict: Verdict
    record: Record | None
    declared: str | None = None

    @property
    def measured(self) -> str:
        """The value for the reader, with unit and spread."""
        return "—" if self.value is None else self.value.show(self.claim.unit)


def records(folder: Path, name: str) -> dict[Preset, Record]:
    """The stored records of one experiment by preset."""
    found = {preset: read(folder, name, preset) for preset in PRESETS}
    return {preset: record for preset, record in found.items() if record is not None}


def entries(experiment: Experiment, stored: Mapping[Preset, Record]) -> list[Entry]:
    """Judge every claim of an experiment by its stored records.

    A claim that needs a GPU is read from the ``gpu`` record first, any other from ``paper``.

    Args:
      experiment: whose claims.
      stored: records by preset.

    Returns:
      One entry a claim, in the order of declaration.
    """
    return [_entry(experiment, claim, stored) for claim in experiment.claims]


def load_all(checkout: Checkout) -> list[Experiment]:
    """Every experiment of a checkout."""
    return [load(name, checkout) for name in checkout.names()]


def committed(checkout: Checkout) -> list[Entry]:
    """Entries of every experiment from the committed results."""
    return [
        entry
        for experiment in load_all(checkout)
        for entry in entries(experiment, records(checkout.results, experiment.name))
    ]


def rows(found: Iterable[Entry]) -> list[dict[str, Any]]:
    """The scorecard for machines.

    Returns:
      One dict an entry with the keys system, id, claim, source, paper, criterion, measured,
      obtained, verdict and machine; numbers stay numbers (of the claim's unit), and what is
      not known is None.
    """
    return [
        {
            "system": entry.experiment,
            "id": entry.claim.id,
            "claim": entry.claim.sentence,
            "source": entry.claim.source,
            "paper": entry.claim.paper,
            "criterion": entry.claim.criterion.text if entry.claim.criterion else None,
            "measured": None if entry.value is None else to_json(entry.value.value),
            "obtained": entry.claim.obtained,
            "verdict": entry.verdict.outcome,
            "machine": entry.record.machine if entry.record and entry.value else None,
        }
        for entry in found
    ]


def summary(found: Iterable[Entry]) -> str:
    """How many claims have which verdict, in one line."""
    counts = Counter(entry.verdict.outcome for entry in found)
    if not counts:
        return "no claims yet"
    total = sum(counts.values())
    parts = [f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts[outcome]]
    return f"{total} claim{'s' if total != 1 else ''}: {', '.join(parts)}"


def _entry(experiment: Experiment, claim: Claim, stored: Mapping[Preset, Record]) -> Entry:
    order = ("gpu", "paper", "smoke") if claim.preset == "gpu" else ("paper", "gpu", "smoke")
    reason = f"needs --preset {claim.preset}"
    source = None
    for record in (stored[preset] for preset in order if preset in stored):
        decided = PRESETS.index(record.preset) >= PRESETS.index(claim.preset)
        value = record.result.values.get(claim.id)
        if decided and isinstance(value, Value) and claim.reason is None:
            now = claim.criterion.text if claim.criterion else None
            declared = record.criteria.get(claim.id)
            judged = verdict(claim, value.value, record.preset)
            if judged.outcome == "not reproduced":
                judged = judged._replace(reason=experiment.reasons.get(claim.id))
            return Entry(
                experiment.name,
                claim,
                value,
                judged,
                record,
                declared if declared != now else None,
            )
        if decided and isinstance(value, Missing) and source is None:
            source, reason = record, value.reason
    return Entry(experiment.name, claim, None, verdict(claim, None, claim.preset, reason), source)
