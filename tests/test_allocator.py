"""What a step on a CPU frees stays for the next one."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes
import resource
import threading

from mhmoe_jax import allocator

SIZE = 2**27  # bytes, more than a heap of a thread's own holds
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p

def fill():
  for _ in range(4):
    array = ctypes.c_void_p(libc.malloc(SIZE))
    libc.memset(array, 1, SIZE)
    libc.free(array)

def faults(in_thread):
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  if in_thread:
    thread = threading.Thread(target=fill)
    thread.start()
    thread.join()
  else:
    fill()
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

fresh = faults(False)
allocator.keep_freed_memory()
faults(False)
print(fresh, faults(False), faults(True))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of GNU's C library on Linux")
def test_memory_is_cleared_once():
  """128 MiB four times over: pages anew each time, or none, in any thread."""
  run = subprocess.run(
    [sys.executable, "-c", PROGRAM],
    capture_output=True,
    text=True,
    check=True,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
  )
  fresh, kept, in_thread = map(int, run.stdout.split())
  assert fresh > 100 > max(kept, in_thread)
