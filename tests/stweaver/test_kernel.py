"""The cache of compiled code notices an edit to any kernel."""

import os
import pathlib
import subprocess
import sys

from jaxlab.stweaver import kernel

CALLEE = "from kernel import kernel_part\n\n\n@kernel_part\ndef bytes_of(n):\n    return {} * n\n"
CALLER = (
    "import callee\nfrom kernel import kernel\n\n\n"
    "@kernel\ndef run(n):\n    return callee.bytes_of(n)\n\n\nprint(run(3))\n"
)


def test_an_edited_callee_is_compiled_again(tmp_path: pathlib.Path) -> None:
    source = pathlib.Path(kernel.__file__).read_text()
    (tmp_path / "kernel.py").write_text(source)
    (tmp_path / "caller.py").write_text(CALLER)
    environment = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
        "PYTHONPATH": str(tmp_path),
    }
    shown = []
    for factor in (5, 5, 7):
        (tmp_path / "callee.py").write_text(CALLEE.format(factor))
        done = subprocess.run(
            [sys.executable, "caller.py"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        shown.append(int(done.stdout))
    assert shown == [15, 15, 21]
