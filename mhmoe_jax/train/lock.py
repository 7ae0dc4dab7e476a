"""One run, one start at a time: whoever trains holds the run's folder.

In a file system the hold is a flock of `<workdir>/lock`, which the system takes back
when its process ends, however it ends.  A bucket has no such thing: there the file is
an object that only one can create, and that its holder writes anew every few seconds.
Who finds one watches whether it changes: if not, its holder is gone.  No clock of
another machine is asked.

Whoever only reads a run needs no hold.
"""

from collections.abc import Iterator
import contextlib
import datetime
import errno
import fcntl
import json
import logging
import os
import pathlib
import socket
import threading
import time

from etils import epath
import jax

from mhmoe_jax.train import processes

_log = logging.getLogger(__name__)

BEAT = 10.0  # seconds between two writes of the holder in a bucket
EXPIRY = 60.0  # seconds without one, after which the holder is taken for dead
_PATTERNS = "*?["
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of some file systems


@contextlib.contextmanager
def hold(workdir: epath.PathLike) -> Iterator[None]:
  """Holds the folder of a run, created if missing, while the body runs.

  Every process of the run calls it; process 0 holds the folder for all.

  Raises:
    ValueError: another start holds it, it cannot be written, or not read again under
      this name; on every process.
  """
  with contextlib.ExitStack() as held:
    with processes.all_or_none():
      if jax.process_index() == 0:
        held.enter_context(_hold(workdir))
    yield


def _hold(workdir: epath.PathLike) -> contextlib.AbstractContextManager[None]:
  is_bucket = "://" in str(workdir)
  try:
    whole = str(workdir) if is_bucket else os.path.abspath(workdir)
    if set(whole) & set(_PATTERNS):
      # Orbax looks for what it wrote by a pattern, finds nothing, and loses it all.
      raise ValueError(f"a run's folder must have none of {_PATTERNS}, got {whole}.")
    epath.Path(workdir).mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ValueError(
      f"cannot write to {workdir}: {error.strerror or error}."
    ) from error
  if is_bucket:
    return _leased(f"{workdir}/")
  return _locked(pathlib.Path(workdir) / "lock")


def _me() -> str:
  """What another start is told."""
  now = datetime.datetime.now().astimezone()
  since = now.isoformat(" ", "seconds")
  return json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": since})


def _held_by(other: str, where: str) -> ValueError:
  try:
    holder = "host {host}, process {pid}, since {since}".format(**json.loads(other))
  except (ValueError, TypeError, KeyError):  # It has not yet written who it is.
    holder = "another process"
  return ValueError(
    f"one process at a time may train a run, {where} is held by {holder}."
  )


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
  """A lock of the system's, with the file there only while it is held."""
  while True:
    try:
      file = path.open("a+")  # which changes nothing of another's
    except OSError as error:
      raise ValueError(
        f"cannot write to {path.parent}: {error.strerror or error}."
      ) from error
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      with file:
        file.seek(0)
        raise _held_by(file.read(), str(path.parent)) from None
    except OSError as error:
      if error.errno not in _NO_LOCKS:
        file.close()
        raise
      _log.warning("%s cannot be locked (%s): start one run once.", path, error)
    if _is_at(file.fileno(), path):
      break
    file.close()  # Its holder has removed it since it was opened.
  with file:
    file.truncate(0)
    file.write(_me())
    file.flush()
    try:
      yield
    finally:
      path.unlink(missing_ok=True)


def _is_at(descriptor: int, path: pathlib.Path) -> bool:
  try:
    return os.path.samestat(os.fstat(descriptor), path.stat())
  except FileNotFoundError:
    return False


@contextlib.contextmanager
def _leased(folder: str) -> Iterator[None]:
  """The object `lock` in `folder`, a URL that ends with a slash."""
  import tensorstore  # which takes a second to load

  store = tensorstore.KvStore.open(folder).result()
  me = _me()
  generation = _take(store, folder, me)
  done = threading.Event()

  def beat() -> None:
    nonlocal generation
    while not done.wait(BEAT):
      try:
        generation = _renew(store, me, generation)
      except (ValueError, OSError) as error:  # The network may come back.
        _log.warning("cannot renew the hold of %s: %s", folder, str(error)[:200])
        continue
      if not generation:
        # The other start took this one for dead, and so it has to be.
        _log.error("another start has taken over %s: this one ends.", folder)
        os._exit(1)

  beating = threading.Thread(target=beat, name="hold", daemon=True)
  beating.start()
  try:
    yield
  finally:
    done.set()
    beating.join()
    with contextlib.suppress(ValueError, OSError):  # It would expire by itself.
      store.write("lock", None, if_equal=generation).result()


def _take(store, folder: str, me: str) -> bytes:
  """Writes the object if nobody else does; returns its generation."""
  found = store.read("lock").result()
  if found.state == "value":
    _log.warning("%slock is there: waiting %g s for a sign of life.", folder, EXPIRY)
    end = time.monotonic() + EXPIRY
    while time.monotonic() < end:
      time.sleep(min(1.0, EXPIRY / 10))
      now = store.read("lock").result()
      if now.stamp.generation != found.stamp.generation:
        if now.state == "value":
          raise _held_by(now.value.decode(), folder)
        found = now  # It was removed: its holder has ended.
        break
  taken = store.write("lock", me, if_equal=found.stamp.generation).result()
  if not taken.generation:  # Another start was quicker.
    raise _held_by(store.read("lock").result().value.decode(), folder)
  return taken.generation


def _renew(store, me: str, generation: bytes) -> bytes:
  """Writes the object anew; returns its generation, empty if it is another's now."""
  renewed = store.write("lock", me, if_equal=generation).result()
  if renewed.generation:
    return renewed.generation
  # Or a write before has arrived of which the answer was lost.
  found = store.read("lock").result()
  return found.stamp.generation if found.value.decode() == me else b""
