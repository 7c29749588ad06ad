"""Process-wide test set-up: eight virtual CPU devices, fixed before jax starts."""

import os

import hypothesis
import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # several workers compile for TPU
flags = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in flags:
    flags += " --xla_force_host_platform_device_count=8"
if "xla_cpu_multi_thread_eigen" not in flags:  # XLA's pool of threads hangs once in a long while
    flags += " --xla_cpu_multi_thread_eigen=false"
os.environ["XLA_FLAGS"] = flags.strip()

hypothesis.settings.register_profile("jaxlab", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("jaxlab")


@pytest.fixture(autouse=True)
def process_as_it_was():
    """Fails a test that leaves a mode of the process behind: the next ones would be others."""
    import jax

    yield
    assert not jax.config.values["jax_enable_x64"]
    assert jax.sharding.get_abstract_mesh().empty
