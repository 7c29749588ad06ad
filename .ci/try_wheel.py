"""Installs a wheel into a fresh environment and uses it outside the checkout."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BORROWER = """
import jax, jax.numpy as jnp
from pathlib import Path
import jaxlab
from jaxlab.blocksparse import BlockMask, block_sparse_attention

assert "site-packages" in jaxlab.__file__, jaxlab.__file__
assert (Path(jaxlab.__file__).parent / "py.typed").exists()
keys = jax.random.split(jax.random.key(0), 4)
q, k, v = (jax.random.normal(key, (1, 100, 2, 8)) for key in keys[:3])
blocks = jax.random.bernoulli(keys[3], 0.5, (2, 7, 4))
mask = BlockMask(blocks, 16, 32, q_len=100, kv_len=100)
out = block_sparse_attention(q, k, v, mask)
plain = block_sparse_attention(q, k, v, mask, implementation="reference")
assert jnp.allclose(out, plain, atol=1e-5), jnp.abs(out - plain).max()
print(f"jaxlab {jaxlab.__version__} installed from its wheel: attention agrees with its reference")
"""


def main(wheel: Path) -> None:
    uv = shutil.which("uv") or str(Path(".tools/bin/uv").resolve())
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder, "env", "bin", "python")
        subprocess.run(
            [uv, "venv", "-q", "--python", sys.executable, Path(folder, "env")], check=True
        )
        locked = Path("requirements.lock").resolve()
        subprocess.run(
            [uv, "pip", "install", "-q", "--python", python, "-c", locked, wheel], check=True
        )
        subprocess.run(
            [python, "-W", "error", "-c", BORROWER],
            check=True,
            cwd=folder,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
