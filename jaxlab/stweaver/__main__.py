"""Look at, plan and compare the memory of a recorded program.

python -m jaxlab.stweaver report FILE | plan FILE -o PLAN.csv | compare FILE
"""

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxlab.stweaver import (
    Plan,
    Trace,
    memory_report,
    plan,
    read_csv,
    read_minimalloc,
    read_torch_snapshot,
    read_xla_dump,
    simulate,
    unroll,
)
from jaxlab.stweaver.occupancy import draw_occupancy
from jaxlab.stweaver.planning import PLANNERS
from jaxlab.stweaver.xla import CONVENTIONS

_FILES = """\
FILE is one of
  a CSV trace    columns size, start, end and more, or MiniMalloc's id, lower, upper, size
  a .pickle      a snapshot of torch.cuda.memory._dump_snapshot (read without running any of it)
  a folder       what XLA wrote for XLA_FLAGS="--xla_dump_to=FOLDER --xla_dump_hlo_as_text"
"""
_COMPARED = ("caching", "expandable", "gmlake", "bfc", "tflite", "best_fit", "buddy", "bump")
_PERIODS = 3  # of a periodic trace that the allocators replay
_TFLITE_REQUESTS = 50_000


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    options = _parser().parse_args(argv)
    try:
        return options.run(options)
    except (ValueError, OSError, ImportError, MemoryError, RecursionError) as error:
        sys.stderr.write(f"error: {str(error) or type(error).__name__}\n")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jaxlab.stweaver",
        description="Look at, plan and compare the memory of a recorded program.",
        epilog=_FILES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("report", _report, "what is alive at the peak, who allocated it, what could be saved"),
        ("plan", _plan, "give every request an address and say how good the plan is"),
        ("compare", _compare, "replay today's allocators beside a plan"),
    ):
        command = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=_FILES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=run)
        command.add_argument("file", metavar="FILE", type=Path, help="the trace; see below")
        command.add_argument("--device", type=int, help="of a PyTorch snapshot of several devices")
        command.add_argument("--module", default="", help="of an XLA dump of several programs")
        command.add_argument(
            "--convention", default=CONVENTIONS[1], choices=CONVENTIONS,
            help=f"when values of an XLA dump end ({CONVENTIONS[1]}, which is safe; the other is "
            "so only where every operation works in place)",
        )  # fmt: skip
        command.add_argument("--json", type=Path, metavar="OUT", help="also write a JSON file")
        command.add_argument(
            "--picture", type=Path, metavar="OUT", help="also draw the plan, .svg or .png"
        )
        command.add_argument("--planner", default="portfolio", choices=PLANNERS)
        command.add_argument("--time-limit", type=float, metavar="SECONDS", help="of the planner")
        if name == "report":
            command.add_argument("--top", type=int, default=12, help="origins to list (12)")
        if name == "plan":
            command.add_argument("-o", "--output", type=Path, required=True, metavar="PLAN.csv")
            command.add_argument("--capacity", type=int, help="be content with this many bytes")
            command.add_argument("--alignment", type=int, default=1, help="bytes (1)")
        if name == "compare":
            command.add_argument(
                "--allocators", nargs="+", default=None, choices=_COMPARED, metavar="NAME",
                help=f"of {', '.join(_COMPARED)}",
            )  # fmt: skip
    return parser


def _load(options: argparse.Namespace) -> tuple[Trace, int | None]:
    """The trace of the file, and the bytes that the program uses today where the file says so."""
    path: Path = options.file
    if path.is_dir():
        memory = read_xla_dump(path, options.module)
        _say([f"Values end by the convention {options.convention!r}; placed without alignment."])
        return memory.trace(options.convention), memory.temp_size
    with path.open("rb") as binary:
        pickled = binary.read(1) == b"\x80"
    if pickled or path.suffix in (".pickle", ".pkl"):
        return read_torch_snapshot(path, device=options.device), None
    with path.open(encoding="utf-8", errors="replace") as file:
        header = file.readline(4096)
    return (read_minimalloc if "lower" in header else read_csv)(path), None


def _made(options: argparse.Namespace, trace: Trace, **more: Any) -> Plan:
    made = plan(trace, planner=options.planner, time_limit=options.time_limit, **more)
    if options.picture:
        draw_occupancy(trace, made, options.picture)
    return made


def _report(options: argparse.Namespace) -> int:
    if options.top < 0:
        raise ValueError(f"--top {options.top} must not be negative.")
    trace, current = _load(options)
    made = _made(options, trace)
    report = memory_report(trace, plan=made, current=current)
    _say(report.lines(options.top))
    _write(
        options.json,
        {
            "requests": report.requests,
            "total": report.total,
            "peak": report.peak,
            "time": report.time,
            "lower_bound": report.lower_bound,
            "height": report.height,
            "current": report.current,
            "saving": report.saving,
            "holders": [vars(holder) for holder in report.holders],
        },
    )
    return 0


def _plan(options: argparse.Namespace) -> int:
    trace, _ = _load(options)
    made = _made(options, trace, capacity=options.capacity, alignment=options.alignment)
    made.save(options.output, trace)
    facts = {**_facts(made), "proven_optimal": made.proven_optimal, "requests": len(trace)}
    _table(["plan", "value"], [[name, str(value)] for name, value in facts.items()])
    _write(options.json, facts)
    return 0


def _compare(options: argparse.Namespace) -> int:
    trace, current = _load(options)
    made = _made(options, trace)
    rows: list[dict[str, Any]] = [
        {"name": f"plan ({made.planner})", "reserved": made.height, "allocated": None}
    ]
    if current is not None:
        rows.append({"name": "XLA, as compiled", "reserved": current, "allocated": None})
    run = unroll(trace, _PERIODS)
    for allocator in options.allocators or _COMPARED:
        if allocator == "tflite" and (reason := _no_tflite(trace, options.allocators)):
            _say([f"tflite is left out: {reason}."])
            continue
        replay = simulate(run, allocator)
        rows.append(
            {
                "name": allocator,
                "reserved": replay.peak_reserved,
                "allocated": replay.peak_allocated,
            }
        )
    if trace.period is not None:
        _say([f"The trace is periodic: the allocators replay {_PERIODS} periods of it."])
    for row in rows:
        row["gap"] = row["reserved"] / made.lower_bound - 1 if made.lower_bound else 0.0
    _table(
        ["allocator", "reserved bytes", "allocated bytes", "above the lower bound"],
        [
            [
                row["name"],
                f"{row['reserved']:,}",
                "" if row["allocated"] is None else f"{row['allocated']:,}",
                f"{row['gap']:.2%}",
            ]
            for row in rows
        ],
    )
    _say([f"No packing needs less than {made.lower_bound:,} bytes."])
    _write(options.json, {"lower_bound": made.lower_bound, "rows": rows})
    return 0


def _no_tflite(trace: Trace, named: list[str] | None) -> str:
    """Why TensorFlow Lite's planner is not asked; empty if it is."""
    if trace.period is not None:
        return "it plans no periodic trace"
    if named is None and len(trace) > _TFLITE_REQUESTS:
        return f"its time is quadratic in {len(trace)} requests; name it in --allocators to wait"
    return ""


def _facts(made: Plan) -> dict[str, Any]:
    names = ("planner", "height", "lower_bound", "gap", "seconds")
    return {name: getattr(made, name) for name in names}


def _table(header: list[str], rows: list[list[str]]) -> None:
    if importlib.util.find_spec("rich") is not None:
        from rich.console import Console
        from rich.table import Table

        table = Table(*header[:1])
        for name in header[1:]:
            table.add_column(name, justify="right")
        for row in rows:
            table.add_row(*row)
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    _say(["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
          for row in (header, *rows)])  # fmt: skip


def _say(lines: list[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def _write(path: Path | None, content: dict[str, Any]) -> None:
    if path is None:
        return
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)


if __name__ == "__main__":
    sys.exit(main())
