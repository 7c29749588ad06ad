import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """These tests look at numbers, not at times: most of theirs is compilation."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield
