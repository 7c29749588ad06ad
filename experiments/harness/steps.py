"""Long runs: progress on the terminal, and finished steps kept across an interruption."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.harness.plain import Plain, plain

if TYPE_CHECKING:
    from rich.progress import Progress


class Steps:
    """Hands a run its progress display and a store for finished steps.

    ``Steps()`` shows and stores nothing, so that ``run(Config())`` works in a notebook.

    Args:
      directory: where finished steps are kept; None keeps nothing.
      progress: a started rich progress display; None shows nothing.

    Example:
      >>> steps = Steps()
      >>> steps.do("squares", lambda n: [i**2 for i in steps.track(range(n), "square")], 4)
      [0, 1, 4, 9]
    """

    def __init__(self, directory: Path | None = None, progress: "Progress | None" = None):
        self._directory = directory
        self._progress = progress
        self._seen: set[str] = set()
        self.reused: list[str] = []
        self.reused_seconds = 0.0

    def do(self, name: str, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Plain:
        """Run one step, or take its result from the interrupted run that finished it.

        Args:
          name: unique in the run; names the stored result.
          fn: what to do; its result must be plain (numbers, strings, lists, dicts, arrays).
          *args: handed to fn.
          **kwargs: handed to fn.

        Returns:
          fn's result as `plain` gives it (tuples and arrays are lists), stored or not.

        Raises:
          ValueError: when results are kept and the name was used before in this run.
          TypeError: when the result is not plain.
        """
        if self._directory is not None:
            if name in self._seen:
                raise ValueError(f"step {name!r} was done before in this run: rename one of them")
            self._seen.add(name)
        stored = self._read(name)
        if stored is not None:
            self.reused.append(name)
            self.reused_seconds += stored["seconds"]
            self._say(f"{name}: kept from the interrupted run")
            return stored["result"]
        started = time.monotonic()
        with self._task(name, total=None):
            result = plain(fn(*args, **kwargs), f"the result of step {name!r}")
        seconds = time.monotonic() - started
        if self._directory is not None:
            write_atomically(
                self._path(name),
                json.dumps({"step": name, "seconds": seconds, "result": result}),
            )
        self._say(f"{name}: {seconds:.1f} s")
        return result

    def track[T](self, iterable: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
        """Yield from an iterable with a progress bar.

        Args:
          iterable: what to go through.
          label: shown beside the bar.
          total: number of items, where ``len`` does not know.

        Yields:
          The items.
        """
        if self._progress is None:
            yield from iterable
            return
        if total is None and hasattr(iterable, "__len__"):
            total = len(iterable)
        with self._task(label, total) as task:
            for item in iterable:
                yield item
                self._progress.update(task, advance=1, refresh=True)

    def forget(self) -> None:
        """Remove the stored steps, once the result they led to is safe."""
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    @contextlib.contextmanager
    def _task(self, label: str, total: int | None) -> Iterator[Any]:
        """A line on the display, redrawn on change only: no thread disturbs measurements."""
        if self._progress is None:
            yield None
            return
        task = self._progress.add_task(label, total=total)
        self._progress.refresh()
        try:
            yield task
        finally:
            self._progress.remove_task(task)

    def _path(self, name: str) -> Path:
        slug = "".join(c if c.isalnum() or c in "-_" else "-" for c in name)[:60]
        return self._directory / f"{slug}-{hashlib.sha256(name.encode()).hexdigest()[:8]}.json"

    def _read(self, name: str) -> dict[str, Any] | None:
        if self._directory is None or not self._path(name).is_file():
            return None
        try:
            stored = json.loads(self._path(name).read_text(encoding="utf-8"))
            usable = stored["step"] == name and stored["seconds"] >= 0 and "result" in stored
        except (ValueError, TypeError, KeyError, RecursionError):
            usable = False
        if not usable:
            self._say(f"{name}: the stored step is damaged and is done again")
            return None
        return stored

    def _say(self, line: str) -> None:
        if self._progress is not None:
            self._progress.console.print(f"  {line}", style="dim", markup=False, highlight=False)


def steps_directory(runs: Path, name: str, config: Any, sources: Iterable[Path]) -> Path:
    """Where the steps of one run are kept: nothing that could change them is shared.

    Args:
      runs: folder of local runs.
      name: of the experiment.
      config: its frozen dataclass, seed included.
      sources: files whose text the steps depend on; folders stand for the Python files inside.

    Returns:
      ``runs/<name>/steps-<digest>``, the digest over config, sources, jax version, platform
      and XLA's flags.
    """
    digest = hashlib.sha256()
    digest.update(json.dumps(plain(asdict(config), "config"), sort_keys=True).encode())
    set_for = [os.environ.get(name, "") for name in ("JAX_PLATFORMS", "XLA_FLAGS")]
    digest.update(json.dumps([version("jax"), *set_for]).encode())
    for source in sources:
        for path in sorted(source.rglob("*.py")) if source.is_dir() else [source]:
            text = path.read_bytes()
            digest.update(f"{path.name} {len(text)} ".encode())
            digest.update(text)
    return runs / name / f"steps-{digest.hexdigest()[:16]}"


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that readers find the old content or the new, never a part.

    Args:
      path: the file; its folder is made where missing.
      text: the whole content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
