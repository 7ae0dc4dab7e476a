"""Compiled programs are kept on disk, so that a command compiles only what is new.

jax does it (its persistent compilation cache); here is where. jax's own variables set
another folder, local or gs://, JAX_COMPILATION_CACHE_DIR, or turn it off,
JAX_ENABLE_COMPILATION_CACHE=false. They are read when jax is imported.
"""

import contextlib
import hashlib
import os
import platform
import time

# Less is compiled sooner than read.
_LEAST_SECONDS = "0.1"
_CPU = "/proc/cpuinfo"
_KEPT_SECONDS = 30 * 24 * 3600


def keep(workdir: str | None) -> None:
  """Chooses the folder of compiled programs; before jax is imported.

  It is the user's choice; else, of a run in a bucket, beside the run, where a machine
  that replaces a preempted one finds it; else a folder in the user's cache directory.
  If that cannot be written, nothing is kept.

  Args:
    workdir: of the run to train, if one is trained.
  """
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", _LEAST_SECONDS)
  if "JAX_COMPILATION_CACHE_DIR" in os.environ:
    return
  if workdir is not None and "://" in workdir:
    folder = f"{workdir}/compiled/{_machine()}"
  else:
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not os.path.isabs(caches):  # A user without a home.
      return
    folder = os.path.join(caches, "mhmoe_jax", _machine())
    try:
      os.makedirs(folder, mode=0o700, exist_ok=True)
      _forget(folder)
    except OSError:
      return
    if not os.access(folder, os.W_OK):
      return
  os.environ["JAX_COMPILATION_CACHE_DIR"] = folder


def _machine() -> str:
  """The kind of this machine's CPU: code compiled for one may crash another."""
  features = platform.processor()
  with (
    contextlib.suppress(OSError),
    open(_CPU, encoding="utf-8", errors="replace") as file,
  ):
    named = (line for line in file if line.startswith(("flags", "Features")))
    features = next(named, features)
  return f"{platform.machine()}_{hashlib.sha256(features.encode()).hexdigest()[:8]}"


def _forget(folder: str) -> None:
  """Removes what was compiled a month ago: the folder does not grow for ever."""
  with os.scandir(folder) as entries:
    for entry in entries:
      if entry.stat().st_mtime < time.time() - _KEPT_SECONDS:
        with contextlib.suppress(FileNotFoundError):  # Another process was faster.
          os.unlink(entry)
