"""Measure what the papers claim.

python -m experiments list | run | report | check | scorecard
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments.harness import Checkout, load
from experiments.harness.claim import Preset

PROG = "python -m experiments"


@dataclass(frozen=True)
class List:
    """Show the experiments."""


@dataclass(frozen=True)
class RunOptions:
    """How to run."""

    preset: Preset = "smoke"
    """Size of the run: smoke (seconds), paper (minutes), gpu (what a GPU adds)."""

    save: bool = False
    """Write the committed results in experiments/results instead of local ones in runs."""

    fresh: bool = False
    """Do every step again, also those that an interrupted run has finished."""

    distributed: bool = False
    """Join other processes through jax.distributed before any device is touched."""

    coordinator_address: str | None = None
    """host:port of process 0, where jax does not find it by itself."""

    num_processes: int | None = None
    """How many processes take part."""

    process_id: int | None = None
    """Index of this process, from 0; only process 0 writes files."""


@dataclass(frozen=True)
class RunSeveral(RunOptions):
    """How to run."""

    seed: int | None = None
    """Instead of the seed of each experiment's preset."""


@dataclass(frozen=True)
class Report:
    """Write the report, one HTML page that needs neither network nor script."""

    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="DIR")] = None
    """Folder for index.html; report/ in the repository by default."""


@dataclass(frozen=True)
class Check:
    """Run at smoke size and compare with the committed results; also check the README."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Experiments; all by default."""

    local: bool = False
    """Take the last local smoke runs instead of running again."""


@dataclass(frozen=True)
class Scorecard:
    """Show every claim with the paper's value, ours and the verdict, as committed."""

    json: bool = False
    """Print a JSON list instead of a table."""

    readme: bool = False
    """Rewrite the scorecard in README.md instead of printing it."""


def main(argv: Sequence[str] | None = None, checkout: Checkout | None = None) -> int:
    """Run the command line; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    checkout = checkout or Checkout()
    try:
        command = _parse(argv, checkout)
        if isinstance(command, List):
            return _list(checkout)
        if isinstance(command, Report):
            return _report(command, checkout)
        if isinstance(command, Check):
            from experiments.harness.check import check

            return check(command.names, checkout, local=command.local)
        if isinstance(command, Scorecard):
            return _scorecard(command, checkout)
        return _run(command, checkout)
    except ValueError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
        return 2


def _parse(argv: list[str], checkout: Checkout) -> Any:
    run = tyro.conf.subcommand("run", description=_run_help(checkout))
    commands = (
        Annotated[List, tyro.conf.subcommand("list")]
        | Annotated[_run_command(argv, checkout), run]
        | Annotated[Report, tyro.conf.subcommand("report")]
        | Annotated[Check, tyro.conf.subcommand("check")]
        | Annotated[Scorecard, tyro.conf.subcommand("scorecard")]
    )
    return tyro.cli(
        commands,
        args=argv,
        prog=PROG,
        description=(
            "Measure what the papers claim. Start with: run all, then report.\n\n"
            f"Help on one command: {PROG} run --help"
        ),
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def _run_command(argv: list[str], checkout: Checkout) -> type:
    """The options of ``run``: with one experiment named, its config fields as well."""
    names_help = tyro.conf.arg(help="Experiments, or: all.", metavar="NAME...")
    names = Annotated[tyro.conf.Positional[tuple[str, ...]], names_help]
    known = checkout.names()
    first = list(takewhile(lambda word: not word.startswith("-"), argv[1:]))
    named = first or [word for word in argv[1:] if word in known]
    if argv[:1] == ["run"] and len(named) == 1 and named != ["all"]:
        words = [word for word in argv[1:] if word not in ("-h", "--help", named[0])]
        config = load(named[0], checkout).config(_preset(words))
        groups = {"run": RunOptions(), "config": config}
    else:
        groups = {"run": RunSeveral()}
    flat = [
        (
            name,
            Annotated[type(default), tyro.conf.arg(name="")],
            field(default=default),
        )
        for name, default in groups.items()
    ]
    return make_dataclass("Run", [("names", names, field(default=())), *flat], frozen=True)


def _preset(words: list[str]) -> Preset:
    """The preset among the words: the defaults of the config fields depend on it."""
    options, _ = tyro.cli(
        RunOptions,
        args=words,
        prog=f"{PROG} run",
        return_unknown_args=True,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    return options.preset


def _run_help(checkout: Checkout) -> str:
    return (
        "Run experiments and show what becomes of their claims. With one NAME, every field of "
        f"its Config is an option: {PROG} run NAME --help lists them.\n\n"
        f"Experiments: {', '.join(checkout.names()) or 'none'}"
    )


def _run(command: Any, checkout: Checkout) -> int:
    options: RunOptions = command.run
    process = None
    addressed = (options.coordinator_address, options.num_processes, options.process_id)
    if options.distributed:
        from experiments.harness.processes import join_processes

        process = join_processes(*addressed)
    elif any(value is not None for value in addressed):
        raise ValueError(
            "--coordinator-address, --num-processes and --process-id need --distributed"
        )
    from experiments.harness.runner import run_experiments

    config = getattr(command, "config", None)
    if config is not None and config == load(command.names[0], checkout).config(options.preset):
        config = None
    return run_experiments(
        command.names,
        options.preset,
        config=config,
        seed=getattr(options, "seed", None),
        save=options.save,
        fresh=options.fresh,
        process=process,
        checkout=checkout,
    )


def _list(checkout: Checkout) -> int:
    table = Table(box=None, show_header=False)
    for name in checkout.names():
        table.add_row(f"[bold]{name}[/]", escape(checkout.title(name)))
    Console().print(table if table.row_count else "no experiments yet")
    return 0


def _report(command: Report, checkout: Checkout) -> int:
    from experiments.harness.report import write_report

    if command.output is not None and command.output.is_file():
        raise ValueError(f"--output {command.output} is a file: name a folder")
    path = write_report(checkout, command.output)
    Console().print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _scorecard(command: Scorecard, checkout: Checkout) -> int:
    from experiments.harness import scorecard

    if command.readme and command.json:
        raise ValueError("--readme rewrites README.md and --json prints: choose one")
    if command.readme:
        from experiments.harness.readme import update_readme

        changed = update_readme(checkout)
        Console().print(f"README.md {'rewritten' if changed else 'is up to date'}")
        return 0
    found = scorecard.committed(checkout)
    if command.json:
        sys.stdout.write(json.dumps(scorecard.rows(found), indent=1, allow_nan=False) + "\n")
        return 0
    from experiments.harness.runner import scorecard_table

    Console().print(scorecard_table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
