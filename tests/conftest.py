"""A stricter world than the real one: eight devices, no silent broadcasting."""

import os
import pathlib
import tempfile

# Before jax starts. Child processes of the tests inherit all.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
# The suite compiles much and computes little: optimising the code only costs time.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
# Many tests compile the same programs, in several processes.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  _cache = tempfile.TemporaryDirectory(prefix="mhmoe_jax_cache_")
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture(autouse=True, scope="session")
def _eight_devices():
  assert jax.device_count() == 8, jax.devices()


@pytest.fixture(autouse=True, scope="module")
def _few_programs_at_once():
  """Drops compiled programs before there are too many.

  Each holds memory maps. Linux gives a process 65,530 of them, and XLA ends it where
  there are no more.
  """
  yield
  maps = pathlib.Path("/proc/self/maps")
  if maps.exists() and maps.read_bytes().count(b"\n") > 15_000:
    jax.clear_caches()


@pytest.fixture
def key():
  return jax.random.key(0)
