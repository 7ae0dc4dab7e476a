"""What a step on a CPU frees stays for the next one."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource
import jax, numpy as np
from mhmoe_jax import allocator

def faults(count):
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  for _ in range(count):
    np.empty(2**26, np.uint8).fill(1)
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

fresh = faults(4)
allocator.keep_freed_memory()
faults(1)
print(fresh, faults(4))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of GNU's C library on Linux")
def test_memory_is_cleared_once():
  """64 MiB four times over: thousands of pages anew each time, or none."""
  run = subprocess.run(
    [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
  )
  fresh, kept = map(int, run.stdout.split())
  assert fresh > 100 > kept
