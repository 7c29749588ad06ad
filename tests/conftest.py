"""Process-wide test set-up: eight virtual CPU devices, fixed before jax starts."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # several workers compile for TPU
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    ).strip()

import hypothesis

hypothesis.settings.register_profile("jaxlab", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("jaxlab")
