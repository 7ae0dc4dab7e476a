"""Files, as tensorflow's gfile has them: local ones without it, gs:// by it.

Importing tensorflow takes longer than most of what is done with a local file. Whatever
a file system refuses, local or remote, is an OSError.
"""

from collections.abc import Iterator
import contextlib
import glob as _glob
import os
from typing import NamedTuple


class Stat(NamedTuple):
  """What is known of a file."""

  length: int  # bytes


class GFile:
  """A file open for reading, in bytes."""

  def __init__(self, path: str, mode: str = "rb"):
    assert mode == "rb", mode
    self._path = path
    if _is_remote(path):
      with _plain_errors() as tf:
        self._file = tf.io.gfile.GFile(path, mode)
    else:
      self._file = open(path, mode)  # noqa: SIM115

  def __enter__(self) -> "GFile":
    return self

  def __exit__(self, *_) -> None:
    self._file.close()

  def size(self) -> int:
    """Bytes of the file."""
    if not _is_remote(self._path):
      return os.fstat(self._file.fileno()).st_size
    with _plain_errors():
      return self._file.size()

  def read(self, count: int = -1) -> bytes:
    """The next bytes, at most `count`; all that are left without it."""
    with self._errors():
      return self._file.read(count)

  def readline(self) -> bytes:
    """The next bytes, to a line end."""
    with self._errors():
      return self._file.readline()

  def seek(self, offset: int) -> None:
    """Goes to a byte from the start."""
    with self._errors():
      self._file.seek(offset)

  def tell(self) -> int:
    """The place of the next byte."""
    with self._errors():
      return self._file.tell()

  def _errors(self):
    remote = _is_remote(self._path)
    return _plain_errors() if remote else contextlib.nullcontext()


def glob(pattern: str) -> list[str]:
  """Paths that match, in no order."""
  if not _is_remote(pattern):
    return _glob.glob(pattern)
  with _plain_errors() as tf:
    return tf.io.gfile.glob(pattern)


def exists(path: str) -> bool:
  """Whether something is there."""
  if not _is_remote(path):
    return os.path.exists(path)
  with _plain_errors() as tf:
    return tf.io.gfile.exists(path)


def isdir(path: str) -> bool:
  """Whether a folder is there."""
  if not _is_remote(path):
    return os.path.isdir(path)
  with _plain_errors() as tf:
    return tf.io.gfile.isdir(path)


def stat(path: str) -> Stat:
  """What is known of a file."""
  if not _is_remote(path):
    return Stat(os.stat(path).st_size)
  with _plain_errors() as tf:
    return Stat(tf.io.gfile.stat(path).length)


def _is_remote(path: str) -> bool:
  return "://" in path


@contextlib.contextmanager
def _plain_errors() -> Iterator:
  """Gives tensorflow, whose errors become OSErrors."""
  from mhmoe_jax.data.quiet import tf

  try:
    yield tf
  except tf.errors.NotFoundError as error:
    raise FileNotFoundError(error.message) from None
  except tf.errors.OpError as error:
    raise OSError(error.message) from None
