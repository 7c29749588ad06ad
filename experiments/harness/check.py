"""Checking that the committed results and the README still tell the truth."""

import dataclasses
import traceback
from collections.abc import Mapping, Sequence

from rich.console import Console

from experiments.harness.claim import PRESETS, Preset
from experiments.harness.experiment import Checkout, Experiment, load
from experiments.harness.plain import Plain, plain, show
from experiments.harness.readme import readme_is_stale
from experiments.harness.record import Record, RecordError, read
from experiments.harness.result import Missing, Value, differs
from experiments.harness.runner import execute
from experiments.harness.scorecard import entries, records


@dataclasses.dataclass(frozen=True)
class Findings:
    """What a check found: differences fail it, warnings do not."""

    differences: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def compare(experiment: Experiment, new: Record, old: Record | None) -> Findings:
    """Compare a fresh smoke record with the committed one.

    Exact and deterministic values must agree; the criteria of timed values are evaluated again.

    Args:
      experiment: that both are of.
      new: of now.
      old: the committed one, None where there is none.

    Returns:
      The findings, each naming the claim.
    """
    again = f"python -m experiments run {experiment.name} --preset smoke --save"
    if old is None:
        return Findings((f"there is no committed smoke result: {again}",))
    differences, warnings = changed(experiment, old, new.config), []
    before = {
        entry.claim.id: entry.verdict.outcome for entry in entries(experiment, {"smoke": old})
    }
    for entry in entries(experiment, {"smoke": new}):
        claim_id = entry.claim.id
        now, then = new.result.values.get(claim_id), old.result.values.get(claim_id)
        text = entry.claim.criterion.text if entry.claim.criterion else None
        if (now is None) != (then is None):
            differences.append(f"{claim_id}: a value stands on one side only: {again}")
        elif isinstance(now, Missing) and isinstance(then, Value):
            warnings.append(f"{claim_id}: not run here: {now.reason}")
        elif isinstance(now, Value) and isinstance(then, Missing):
            warnings.append(f"{claim_id}: was missing at the committed run: {then.reason}")
        elif isinstance(now, Value) and isinstance(then, Value):
            if now.kind != "timed" or then.kind != "timed":
                difference = differs(now, then)
                outcome = entry.verdict.outcome
                if difference:
                    differences.append(f"{claim_id}: {difference}")
                elif outcome != before[claim_id]:
                    differences.append(f"{claim_id}: {outcome} now, was {before[claim_id]}")
            elif entry.verdict.outcome == "not reproduced":
                warnings.append(f"{claim_id}: {entry.measured} is not {text} in this run")
    return Findings(tuple(differences), tuple(warnings))


def changed(experiment: Experiment, record: Record, config: Mapping[str, Plain]) -> list[str]:
    """Say where a committed record belongs to other declarations than today's.

    Its values would be shown beside criteria, and under a config, that they were not measured with.

    Args:
      experiment: as declared now.
      record: the committed one.
      config: of today at the record's preset, as plain values.

    Returns:
      One sentence a config field, criterion or claim that differs, each with the remedy.
    """
    preset = record.preset
    again = f"python -m experiments run {experiment.name} --preset {preset} --save"
    now, then = _fields(config), _fields(record.config)
    found = [
        f"the {preset} config has changed since the committed run: {name} is "
        f"{show(now[name]) if name in now else 'gone'} now, "
        f"was {show(then[name]) if name in then else 'absent'}: {again}"
        for name in sorted({*now, *then})
        if name not in now or name not in then or now[name] != then[name]
    ]
    for claim in experiment.claims:
        decided = PRESETS.index(claim.preset) <= PRESETS.index(preset) and claim.reason is None
        text = claim.criterion.text if claim.criterion else None
        declared = record.criteria.get(claim.id)
        # a GPU is not always at hand: what its run left out binds no criterion
        missing = preset == "gpu" and isinstance(record.result.values.get(claim.id), Missing)
        if (decided or claim.id in record.result.values) and not missing and declared != text:
            found.append(
                f"{claim.id}: the criterion is {text!r} now, was {declared!r} at the committed "
                f"{preset} run: {again}"
            )
    gone = sorted(set(record.result.values) - {claim.id for claim in experiment.claims})
    return found + [f"{claim_id}: committed, but no longer a claim: {again}" for claim_id in gone]


def outdated(experiment: Experiment, stored: Mapping[Preset, Record]) -> list[str]:
    """Say where committed records beyond smoke belong to other declarations than today's."""
    found = []
    for preset, record in stored.items():
        if preset == "smoke":
            continue  # compared with the run of now
        if preset not in experiment.presets:
            found.append(f"a {preset} result is committed, but PRESETS has no {preset!r}")
            continue
        config = plain(dataclasses.asdict(experiment.config(preset)), "config")
        found += changed(experiment, record, config)
    return found


def _fields(config: Mapping[str, Plain], above: str = "") -> dict[str, Plain]:
    """Fields by dotted name, those of nested configs too."""
    found: dict[str, Plain] = {}
    for name, value in config.items():
        inner = isinstance(value, dict) and value
        found |= _fields(value, f"{above}{name}.") if inner else {f"{above}{name}": value}
    return found


def unexplained(experiment: Experiment, stored: Mapping[Preset, Record]) -> list[str]:
    """Name the claims that the committed results do not reproduce and REASONS does not explain."""
    return [
        f"{entry.claim.id}: not reproduced, and REASONS does not say why"
        for entry in entries(experiment, stored)
        if entry.verdict.outcome == "not reproduced" and entry.verdict.reason is None
    ]


def check(
    names: Sequence[str] = (),
    checkout: Checkout | None = None,
    console: Console | None = None,
    *,
    local: bool = False,
) -> int:
    """Run experiments at smoke size and compare them with what is committed.

    Args:
      names: of experiments; all by default.
      checkout: where experiments and results stand.
      console: where to print.
      local: take the last local smoke runs instead of running again.

    Returns:
      An exit status: 1 when an exact or deterministic value differs, a committed result of any
      preset was measured with another config or criterion than is declared now, an experiment or
      a committed file is broken, a failed claim has no reason, or the README's scorecard is stale;
      else 0.

    Raises:
      ValueError: for an unknown name.
    """
    checkout, console = checkout or Checkout(), console or Console()
    names = list(names) or checkout.names()
    for name in names:
        checkout.source(name)
    wrong = False
    for name in names:
        try:
            experiment = load(name, checkout)
            old = read(checkout.results, name, "smoke")
            new = read(checkout.runs, name, "smoke") if local else execute(experiment, "smoke")
            if new is None:
                raise RecordError(f"no local run: python -m experiments run {name}")
            found = compare(experiment, new, old)
            stored = records(checkout.results, name)
            more = (*outdated(experiment, stored), *unexplained(experiment, stored))
            found = dataclasses.replace(found, differences=(*found.differences, *more))
        except RecordError as error:
            found = Findings((str(error),))
        except Exception:
            traceback.print_exc()
            found = Findings(("the experiment failed",))
        wrong |= bool(found.differences)
        for label, lines in (("differs", found.differences), ("warning", found.warnings)):
            for line in lines:
                console.print(
                    f"{name}: {label}: {line}", markup=False, highlight=False, soft_wrap=True
                )
        if not found.differences:
            console.print(f"{name}: agrees with the committed smoke result")
    try:
        stale = readme_is_stale(checkout)
        command = "python -m experiments scorecard --readme"
        why = f"README.md does not show the committed results: {command}"
    except (OSError, ValueError, TypeError) as error:
        stale, why = True, f"README.md cannot be checked: {error}"
    if stale:
        console.print(why, markup=False, highlight=False, soft_wrap=True)
    return 1 if wrong or stale else 0
