"""The report: one HTML page of all claims and all experiments, complete in itself."""

import dataclasses
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from experiments.harness import figures
from experiments.harness.claim import OUTCOMES, Preset
from experiments.harness.experiment import Checkout, Experiment
from experiments.harness.plain import plain, show
from experiments.harness.record import Record, figure_path, read_bounded
from experiments.harness.result import Table
from experiments.harness.scorecard import Entry, entries, load_all, records, summary
from experiments.harness.steps import write_atomically


@dataclasses.dataclass(frozen=True)
class Section:
    """One experiment on the page.

    Attributes:
      experiment: what it is.
      entries: its claims by the committed results.
      local: its claims by the runs of this machine, in the same order; empty without any.
      runs: those that figures, tables and notes are taken from: ``paper`` and ``gpu``, else
        ``smoke``; each with its figures, inlined SVG with the name of each.
      are_local: whether those runs are local ones, for want of committed ones.
      changes: by preset, the config fields of the local run that are not the preset's.
    """

    experiment: Experiment
    entries: list[Entry]
    local: list[Entry]
    runs: list[tuple[Record, list[tuple[str, Markup]]]]
    are_local: bool
    changes: dict[Preset, list[str]]


def write_report(checkout: Checkout, folder: Path | None = None) -> Path:
    """Write ``index.html`` from the committed results, with local ones in a column beside.

    Args:
      checkout: where experiments and results stand.
      folder: where the page goes; ``report/`` in the repository by default.

    Returns:
      The path of the page.

    Raises:
      ValueError: when a stored result or figure cannot be used.
    """
    path = (folder or checkout.report) / "index.html"
    write_atomically(path, page([section(found, checkout) for found in load_all(checkout)]))
    return path


def section(experiment: Experiment, checkout: Checkout) -> Section:
    """Gather what the page says about one experiment."""
    kept = records(checkout.results, experiment.name)
    local = records(checkout.runs, experiment.name)
    shown, source = (kept, checkout.results) if kept else (local, checkout.runs)
    wanted: tuple[Preset, ...] = ("paper", "gpu") if {"paper", "gpu"} & set(shown) else ("smoke",)
    runs = [shown[preset] for preset in wanted if preset in shown]
    return Section(
        experiment=experiment,
        entries=entries(experiment, kept),
        local=entries(experiment, local) if local else [],
        runs=[(record, _figures(record, source)) for record in runs],
        are_local=bool(runs) and not kept,
        changes={preset: _changes(experiment, found) for preset, found in local.items()},
    )


def page(sections: list[Section]) -> str:
    """Render the page.

    Args:
      sections: the experiments in order.

    Returns:
      HTML that loads nothing and needs no script.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["show"] = show
    environment.filters["column_kinds"] = _column_kinds
    environment.filters["paragraphs"] = _paragraphs
    found = [entry for one in sections for entry in one.entries]
    counts = Counter(entry.verdict.outcome for entry in found)
    return environment.get_template("report.html.jinja").render(
        sections=sections,
        summary=summary(found),
        counts=[(outcome, counts[outcome]) for outcome in OUTCOMES if counts[outcome]],
        has_local=any(one.local for one in sections),
        palette=figures,
    )


def _figures(record: Record, folder: Path) -> list[tuple[str, Markup]]:
    drawn = []
    for name in record.figures:
        path = figure_path(folder, record.experiment, record.preset, name)
        label = f"{record.experiment}: {name.replace('-', ' ').replace('_', ' ')}"
        try:
            svg = figures.inline(
                read_bounded(path), f"{record.experiment}-{record.preset}-{name}-", label
            )
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be shown: {error}") from error
        drawn.append((name.replace("-", " ").replace("_", " "), Markup(svg)))
    return drawn


def _changes(experiment: Experiment, record: Record) -> list[str]:
    own = experiment.presets.get(record.preset)
    declared: Any = {} if own is None else plain(dataclasses.asdict(own))
    return [
        f"{key} = {show(value)}"
        for key, value in record.config.items()
        if key not in declared or declared[key] != value
    ]


def _column_kinds(table: Table) -> list[str]:
    """``number`` for columns of nothing but numbers and gaps, else ``text``: how to align."""
    columns = zip(*table.rows, strict=True) if table.rows else [() for _ in table.columns]
    return [
        "number" if all(type(cell) in (int, float, type(None)) for cell in column) else "text"
        for column in columns
    ]


def _paragraphs(text: str) -> list[tuple[str, str]]:
    """Blocks of a docstring: indented ones are shown as they stand."""
    blocks = [block for block in text.split("\n\n") if block.strip()]
    tags = ["pre" if block.startswith("    ") else "p" for block in blocks]
    return [
        (tag, textwrap.dedent(block).strip("\n")) for tag, block in zip(tags, blocks, strict=True)
    ]
