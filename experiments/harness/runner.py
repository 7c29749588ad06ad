"""Running experiments: one into a record, many in a row with their outcome on the terminal."""

import dataclasses
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from experiments.harness.claim import Preset
from experiments.harness.experiment import Checkout, Experiment, load
from experiments.harness.plain import plain, show
from experiments.harness.record import Record, read, record_path, write
from experiments.harness.result import Missing, Unavailable, Value
from experiments.harness.scorecard import Entry, entries, summary
from experiments.harness.steps import Steps, steps_directory

OUTCOME_STYLE = {
    "reproduced": "green",
    "not reproduced": "bold red",
    "not run here": "yellow",
    "not checkable here": "dim",
}


def execute(
    experiment: Experiment, preset: Preset, config: Any = None, steps: Steps | None = None
) -> Record:
    """Run an experiment and record what came out.

    Args:
      experiment: what to run.
      preset: names the size of the run, and which claims it decides.
      config: instead of the preset's own.
      steps: progress and stored steps; none by default.

    Returns:
      The record, checked against the experiment's claims, not yet stored and without figures.

    Raises:
      ValueError: when the result leaves out a claim that the preset decides.
      Exception: whatever the run raises, except `Unavailable`.
    """
    from jaxlab.measure import environment

    config = experiment.config(preset) if config is None else config
    steps = steps or Steps()
    started = datetime.now(UTC).isoformat(timespec="seconds")
    begin = time.monotonic()
    try:
        result = experiment.run(config, steps)
    except Unavailable as error:
        result = experiment.all_missing(str(error) or "not available here")
    seconds = time.monotonic() - begin + steps.reused_seconds
    if steps.reused:
        resumed = f"Resumed after an interruption; kept steps: {', '.join(steps.reused)}."
        result = dataclasses.replace(result, notes=(*result.notes, resumed))
    experiment.check(result, preset)
    record = Record(
        experiment=experiment.name,
        preset=preset,
        config=plain(dataclasses.asdict(config), "config"),
        started=started,
        seconds=round(seconds, 3),
        environment=environment(),
        criteria={claim.id: claim.criterion.text for claim in experiment.claims if claim.criterion},
        result=result,
    )
    entries(experiment, {preset: record})  # a value of the wrong kind fails the run that made it
    return record


def run_experiments(
    names: Sequence[str],
    preset: Preset = "smoke",
    *,
    config: Any = None,
    seed: int | None = None,
    save: bool = False,
    fresh: bool = False,
    process: int | None = None,
    checkout: Checkout | None = None,
    console: Console | None = None,
) -> int:
    """Run experiments one after the other; a failing one does not stop the rest.

    Args:
      names: of experiments, or ``["all"]``.
      preset: size of the runs; ``all`` leaves out experiments that lack it.
      config: instead of the preset's own; for one experiment only.
      seed: instead of the preset's own.
      save: write the committed results instead of local ones.
      fresh: do not use steps kept from an interrupted run.
      process: index of this process among several, of which only number 0 writes and prints;
        None for a run of one process.
      checkout: where experiments and results stand.
      console: where to print.

    Returns:
      An exit status: 0 when every experiment ran, 1 when one failed, 130 when interrupted.

    Raises:
      ValueError: for unknown names, and for ``save`` with a config that is not the preset's.
    """
    checkout = checkout or Checkout()
    console = console or Console(quiet=bool(process))
    everything = list(names) == ["all"]
    names = checkout.names() if everything else list(dict.fromkeys(names))
    if not names:
        raise ValueError("name the experiments to run, or 'all'")
    for name in names:
        checkout.source(name)
    if save and (config is not None or seed is not None):
        raise ValueError("committed results are those of the presets: drop --save or the changes")
    failed = []
    for name in names:
        try:
            experiment = load(name, checkout)
            if everything and preset not in experiment.presets:
                console.print(f"[bold]{name}[/bold] has no preset {preset}: left out")
                continue
            chosen = experiment.config(preset) if config is None else config
            if seed is not None:
                chosen = dataclasses.replace(chosen, seed=seed)
            record = _run_one(experiment, preset, chosen, save, fresh, process, checkout, console)
            console.print(claims_table(experiment, record))
            for note in record.result.notes:
                console.print(f"  note: {note}", markup=False)
        except KeyboardInterrupt:
            console.print(
                f"\ninterrupted in {name}: its finished steps are kept, "
                "run the same command again to go on from there"
            )
            return 130
        except Exception:
            failed.append(name)
            traceback.print_exc()
    if failed:
        Console(stderr=True).print(
            f"failed: {', '.join(failed)} ({len(failed)} of {len(names)})", style="bold red"
        )
    return 1 if failed else 0


def claims_table(experiment: Experiment, record: Record) -> Table:
    """The claims of an experiment as one run answers them, for the terminal."""
    table = scorecard_table(entries(experiment, {record.preset: record}), system=False)
    table.title = f"{experiment.name}: {escape(experiment.title)}"
    table.caption = f"{record.preset}, {record.seconds:.1f} s, {escape(record.machine)}"
    return table


def scorecard_table(found: Sequence[Entry], system: bool = True) -> Table:
    """A scorecard for the terminal.

    Args:
      found: its rows.
      system: whether to name the experiment of each.

    Returns:
      A rich table, its title the counts of the verdicts.
    """
    table = Table(title=summary(found), title_justify="left", caption_justify="left")
    for column in ("system",) * system + ("claim", "paper", "criterion", "measured", "verdict"):
        table.add_column(column, overflow="fold")
    for entry in found:
        claim = entry.claim
        criterion = claim.criterion.text if claim.criterion else "—"
        cells = (entry.experiment,) * system
        cells += (claim.id, show(claim.paper, claim.unit), criterion, entry.measured)
        outcome, reason = entry.verdict
        colored = f"[{OUTCOME_STYLE[outcome]}]{outcome}[/]"
        shown = f"{colored}: {escape(reason)}" if reason else colored
        table.add_row(*(escape(cell) for cell in cells), shown)
    return table


def _run_one(
    experiment: Experiment,
    preset: Preset,
    config: Any,
    save: bool,
    fresh: bool,
    process: int | None,
    checkout: Checkout,
    console: Console,
) -> Record:
    # Kept steps would let one process skip collectives that the others wait in.
    kept = process is None
    sources = checkout.sources(experiment.name)
    directory = steps_directory(checkout.runs, experiment.name, config, sources) if kept else None
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as progress:
        steps = Steps(directory, progress)
        if fresh:
            steps.forget()
        console.print(f"[bold]{experiment.name}[/bold] ({preset}): {escape(experiment.title)}")
        record = execute(experiment, preset, config, steps)
    if not process:
        lost = _lost(record, read(checkout.results, record.experiment, preset)) if save else []
        folder = checkout.results if save and not lost else checkout.runs
        record = _store(experiment, record, folder)
        path = record_path(folder, experiment.name, preset)
        console.print(f"  wrote {path}", style="dim", markup=False, highlight=False, soft_wrap=True)
        steps.forget()
        if lost:
            raise ValueError(
                f"not saved over the committed result, which has values that this run misses: "
                f"{', '.join(lost)}. The run is in {path}; provide what they need, or remove the "
                "committed file first."
            )
    return record


def _lost(record: Record, committed: Record | None) -> list[str]:
    """Claims that the committed record measured and the new one could not."""
    values = committed.result.values if committed is not None else {}
    return [
        f"{name} ({now.reason})"
        for name, now in record.result.values.items()
        if isinstance(now, Missing) and isinstance(values.get(name), Value)
    ]


def _store(experiment: Experiment, record: Record, folder: Path) -> Record:
    """Write the record even when drawing fails: the numbers may have taken hours."""
    drawn: dict[str, str] = {}
    try:
        if experiment.draw is not None and _measured(record):
            from experiments.harness.figures import render

            drawn = render(experiment.draw, record.result)
    finally:
        record = dataclasses.replace(record, figures=tuple(drawn))
        write(record, folder, drawn)
    return record


def _measured(record: Record) -> bool:
    values = record.result.values.values()
    return not values or any(isinstance(value, Value) for value in values)
