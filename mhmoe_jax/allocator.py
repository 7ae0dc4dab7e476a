"""Memory of a step that runs on a CPU."""

import ctypes

import jax

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of mallopt(3)


def keep_freed_memory() -> None:
  """Lets the C library keep what a program on a CPU frees, for its next step.

  XLA takes a step's arrays from the C library and frees them after it. GNU's gives
  large ones back to Linux, which clears every page anew at the next step; those that a
  thread with an arena of its own takes, whatever else is asked of it. So the threads
  that start from here on share one. Elsewhere, and on accelerators, whose arrays are
  not in this memory, nothing changes.
  """
  mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
  # Asking for the backend starts its threads, which is too late for some.
  if mallopt and (jax.config.jax_platforms or jax.default_backend()) == "cpu":
    mallopt(_ARENA_MAX, 1)
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, -1)
