"""Test-wide settings: several virtual devices, strict dtypes, explicit keys."""

import gc
import os
from collections.abc import Iterator

# Before jax starts its backend: eight devices, so that sharded = unsharded is a test.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import jax
import numpy as np
import psutil
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261122)


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)


@pytest.fixture(scope="module")
def quick_compilation() -> Iterator[None]:
    """Leaves out most optimizations: for many programs that each run for an instant."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


# Thousands of compiled programs in one process make everything after them slower.
_MOST_MEMORY = 2 << 30


@pytest.fixture(scope="module", autouse=True)
def forget_programs() -> Iterator[None]:
    """Drops compiled programs between files once they fill memory."""
    yield
    if psutil.Process().memory_info().rss > _MOST_MEMORY:
        jax.clear_caches()
        gc.collect()
