"""The scorecard in README.md: who stands how, what failed, and every claim behind a fold."""

from collections import Counter
from collections.abc import Iterable
from itertools import groupby

from experiments.harness.claim import OUTCOMES
from experiments.harness.experiment import Checkout
from experiments.harness.plain import show
from experiments.harness.scorecard import Entry, committed, summary
from experiments.harness.steps import write_atomically

README_BEGIN, README_END = "<!-- scorecard:begin -->", "<!-- scorecard:end -->"

_COLUMNS = ("Claim", "Source", "Paper", "Criterion", "Measured", "Obtained", "Verdict")


def markdown(found: list[Entry]) -> str:
    """The scorecard as Markdown.

    Args:
      found: entries in the order of their experiments.

    Returns:
      Counts by experiment, the claims that failed, then all claims of each experiment behind a
      fold, and the machines.
    """
    lines = [f"{summary(found)}."]
    if not found:
        return lines[0]
    by_experiment = {name: list(group) for name, group in groupby(found, lambda e: e.experiment)}
    lines += ["", *_table(("System", *OUTCOMES), map(_counts, by_experiment.items()))]
    failed = [entry for entry in found if entry.verdict.outcome == "not reproduced"]
    if failed:
        rows = ((e.experiment, *_cells(e)[:-2], e.verdict.reason or "—") for e in failed)
        head = ("System", *_COLUMNS[:-2], "Why")
        lines += ["", "Not reproduced:", "", *_table(head, rows)]
    for name, group in by_experiment.items():
        head = f"<details>\n<summary>{name}: {summary(group)}</summary>"
        lines += ["", head, "", *_table(_COLUMNS, map(_cells, group)), "", "</details>"]
    machines = Counter(entry.record.machine for entry in found if entry.record and entry.value)
    if machines:
        lines += ["", f"Measured on: {_escaped('; '.join(sorted(machines)))}."]
    return "\n".join(lines)


def with_scorecard(readme: str, table: str) -> str:
    """Put a scorecard between the markers of a README.

    Raises:
      ValueError: unless each marker stands in it once, in order.
    """
    start, end = readme.find(README_BEGIN), readme.find(README_END)
    once = readme.count(README_BEGIN) == 1 == readme.count(README_END)
    if not once or start > end:
        raise ValueError(
            f"README.md needs the line {README_BEGIN} once, and after it {README_END} once"
        )
    return f"{readme[: start + len(README_BEGIN)]}\n\n{table}\n\n{readme[end:]}"


def update_readme(checkout: Checkout) -> bool:
    """Rewrite the README's scorecard from the committed results; say whether it changed."""
    old = checkout.readme.read_text(encoding="utf-8")
    new = with_scorecard(old, markdown(committed(checkout)))
    if new != old:
        write_atomically(checkout.readme, new)
    return new != old


def readme_is_stale(checkout: Checkout) -> bool:
    """Say whether the README shows anything but the committed results."""
    readme = checkout.readme.read_text(encoding="utf-8")
    return with_scorecard(readme, markdown(committed(checkout))) != readme


def _counts(one: tuple[str, list[Entry]]) -> tuple[str, ...]:
    name, group = one
    counts = Counter(entry.verdict.outcome for entry in group)
    return (name, *(str(counts[outcome] or "") for outcome in OUTCOMES))


def _cells(entry: Entry) -> tuple[str, ...]:
    claim = entry.claim
    return (
        claim.sentence,
        claim.source,
        show(claim.paper, claim.unit),
        claim.criterion.text if claim.criterion else "—",
        entry.measured,
        claim.obtained,
        entry.verdict.outcome,
    )


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(_escaped(cell) for cell in cells)} |"

    head = tuple(head)
    return [line(head), f"|{' --- |' * len(head)}", *map(line, rows)]


def _escaped(text: str) -> str:
    """Text that a Markdown table shows as it is."""
    for character in "\\|<>*_`[]":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())
