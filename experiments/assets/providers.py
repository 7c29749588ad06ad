"""Ask a package provider's own client for one archive.

The ordinary clients know the user's mirrors, proxies and credentials; nothing here does.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from experiments.assets.asset import Archive

TIMEOUT = 1800.0  # seconds a client may take


class ProviderError(RuntimeError):
    """A provider could not supply an archive; the message says what its client said."""


def download(archive: Archive, output: Path) -> None:
    """Have the archive's provider write it to a file.

    Args:
      archive: what to ask for.
      output: path of the file to write. Its content is not checked here.

    Raises:
      ProviderError: the client is not installed, refuses, or delivers something else than one file.
    """
    with tempfile.TemporaryDirectory(prefix="jaxlab-") as scratch:
        folder = Path(scratch) / "download"
        folder.mkdir()
        CLIENTS[archive.provider](archive.requirement, folder)
        files = [path for path in folder.iterdir() if path.is_file()]
        if len(files) != 1:
            raise ProviderError(f"{archive.provider} left {len(files)} files instead of one")
        shutil.move(files[0], output)


def run(command: Sequence[str], folder: Path) -> None:
    """Run a client in a folder.

    Args:
      command: program and arguments.
      folder: its working folder.

    Raises:
      ProviderError: the program is missing, takes too long or fails.
    """
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
        )
    except FileNotFoundError:
        raise ProviderError(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise ProviderError(f"{command[0]} did not finish within {TIMEOUT:.0f} s") from None
    if done.returncode:
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise ProviderError(
            f"{Path(command[0]).name} ended with status {done.returncode}: {' / '.join(said[-3:])}"
        )


def _pip(requirement: str, folder: Path) -> None:
    arguments = ["download", "--no-deps", "--only-binary=:all:", "--retries=1", "--timeout=15"]
    run([*_pip_program(folder.parent), *arguments, "--dest=.", requirement], folder)


def _pip_program(scratch: Path) -> list[str]:
    """Our own pip, or else one in a throw-away environment, or else one that uv runs."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    environment = scratch / "environment"
    try:
        run([sys.executable, "-m", "venv", str(environment)], scratch)
    except ProviderError as error:
        uv = os.environ.get("UV") or shutil.which("uv")
        if uv is None:
            raise ProviderError(
                f"this Python has no pip, cannot make an environment that has it ({error}), and uv "
                "is not on the PATH"
            ) from error
        return [uv, "tool", "run", "pip"]
    return [str(environment / ("Scripts" if os.name == "nt" else "bin") / "python"), "-m", "pip"]


def _npm(requirement: str, folder: Path) -> None:
    run(["npm", "pack", "--ignore-scripts", "--fetch-retries=1", requirement], folder)


def _apt(requirement: str, folder: Path) -> None:
    try:
        run(["apt-get", "-q", "-o", "Acquire::Retries=1", "download", requirement], folder)
    except ProviderError as error:
        raise ProviderError(
            f"{error} (this needs Debian or a system derived from it; a package or version that "
            "is not found may mean stale lists: run `apt-get update` as root)"
        ) from error


CLIENTS: Mapping[str, Callable[[str, Path], None]] = {"pip": _pip, "npm": _npm, "apt": _apt}
