"""Files as people have them: found, and refused in one line.

Whatever a file system says, local or remote, becomes a ValueError that names the path.
A text is kept as it is, byte for byte: carriage returns, zero bytes and a missing last
line end belong to it. Only a byte order mark at its start is left out (spans.py). What
is not UTF-8 is refused and not guessed at.
"""

import codecs
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
import contextlib
import os
import stat
import sys

from mhmoe_jax.data import gfile

# How much of the files is checked before training starts: this much of them together,
# but at least a chunk of each. The rest is checked when it is read.
_CHECKED_BYTES = 64 * 2**20
_CHUNK_BYTES = 2**20
# A remote file answers late, so many are asked at once.
THREADS = 16

# How a file begins that is not plain text, and what makes plain text of it.
_OTHER_KINDS = {
  b"\x1f\x8b": ("gzip", "gzip -dk"),
  b"\xfd7zXZ\0": ("xz", "xz -dk"),
  b"\x28\xb5\x2f\xfd": ("zstd", "zstd -d"),
  b"BZh": ("bzip2", "bzip2 -dk"),
  b"PK\x03\x04": ("zip", "unzip"),
  b"PAR1": ("Parquet", "a program that writes JSON lines"),
  b"\xff\xfe": ("UTF-16", "iconv -f UTF-16 -t UTF-8"),
  b"\xfe\xff": ("UTF-16", "iconv -f UTF-16 -t UTF-8"),
  b"version https://git-lfs": ("a pointer of Git LFS", "git lfs pull"),
}


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
  """Raises ValueError, naming the path, for what a file system refuses."""
  with _naming("read", path):
    yield


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
  """Raises ValueError, naming the path, for what a file system refuses."""
  with _naming("write", path):
    yield


def check_writable(path: str) -> None:
  """Makes the folder of a file, and raises ValueError if it could not be written."""
  from mhmoe_jax.data.quiet import tf

  with writing(path):
    if tf.io.gfile.isdir(path):
      raise ValueError(f"cannot write {path}: a folder.")
    tf.io.gfile.makedirs(os.path.dirname(path) or ".")
    with tf.io.gfile.GFile(path + ".begun", "wb") as file:
      file.write(b"")  # It opens now.
    tf.io.gfile.remove(path + ".begun")


@contextlib.contextmanager
def _naming(verb: str, path: str) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise ValueError(f"cannot {verb} {path}: {error.strerror or error}.") from None
  except _tensorflow_errors() as error:
    # "path; reason", or several lines of what a server said.
    reason = " ".join(error.message.rpartition("; ")[2].split())
    raise ValueError(f"cannot {verb} {path}: {reason[:300]}.") from None


def _tensorflow_errors() -> tuple[type[Exception], ...]:
  """What tensorflow raises, if it is loaded."""
  tf = sys.modules.get("tensorflow")
  return (tf.errors.OpError,) if tf else ()


def kind_of(path: str) -> str:
  """Returns the source that reads a file: "jsonl" if it ends so, else "text"."""
  return "jsonl" if path.lower().endswith(".jsonl") else "text"


def find_files(patterns: str) -> list[str]:
  """Returns the files that match a path, a glob, or several with commas between them.

  Args:
    patterns: local or gs://, see `match_files`. The files of one glob are sorted.

  Raises:
    ValueError: a pattern matches no file, or a file cannot be read, is empty or not
      UTF-8.
  """
  paths = _match_all(patterns)
  with ThreadPoolExecutor(THREADS) as pool:
    for _ in pool.map(lambda x: check_utf8(x, _CHECKED_BYTES // len(paths)), paths):
      pass
  return paths


def match_files(patterns: str) -> list[str]:
  """Returns the files of patterns that are there, unread; they may be none.

  What is there under a name is meant by that name, commas, brackets and all. Else
  commas part patterns, ~ is the home, and *, ? and [] match as in a shell: files that
  begin with a dot only if the pattern does. Of a glob, empty files are left out.
  """
  if _is_there(patterns):
    return [patterns]
  return [path for x in _split(patterns) for path in _match(x)]


def _match_all(patterns: str) -> list[str]:
  paths = []
  for pattern in [patterns] if _is_there(patterns) else _split(patterns):
    matches = _match(pattern)
    if not matches:
      raise ValueError(f"Every pattern must match a file, got none for {pattern!r}.")
    paths += matches
  return paths


def _split(patterns: str) -> list[str]:
  return [x if _is_there(x) else x.strip() for x in patterns.split(",")]


def _match(pattern: str) -> list[str]:
  for path in (pattern, os.path.expanduser(pattern)):
    if _is_there(path):
      return [path]
  with reading(pattern):
    paths = gfile.glob(os.path.expanduser(pattern))
    if not os.path.basename(pattern).startswith("."):
      paths = [x for x in paths if not os.path.basename(x).startswith(".")]
    with ThreadPoolExecutor(THREADS) as pool:
      is_file = pool.map(lambda path: not gfile.isdir(path), paths)
      paths = [x for x, keep in zip(paths, is_file, strict=True) if keep]
      has_text = pool.map(lambda path: not _is_empty(path), paths)
      return sorted(x for x, keep in zip(paths, has_text, strict=True) if keep)


def _is_there(path: str) -> bool:
  # A link that leads nowhere is there, and what is wrong with it is said on reading.
  with reading(path):
    return bool(path) and (gfile.exists(path) or os.path.lexists(path))


def _is_empty(path: str) -> bool:
  try:
    return gfile.stat(path).length == 0 and _is_regular(path)
  except OSError:
    return False  # Said on reading.


def _is_regular(path: str) -> bool:
  return "://" in path or stat.S_ISREG(os.stat(path).st_mode)


def file_sizes(paths: Sequence[str]) -> list[int]:
  """Returns the bytes of files.

  Raises:
    ValueError: the file system does not tell; names the path.
  """

  def size(path):
    with reading(path):
      return gfile.stat(path).length

  with ThreadPoolExecutor(THREADS) as pool:
    return [*pool.map(size, paths)]


def check_utf8(path: str, length: int) -> None:
  """Checks a file and the first `length` bytes of its text.

  Raises:
    ValueError: it cannot be read, is no file, is empty, of another kind or not UTF-8.
  """
  decoder = codecs.getincrementaldecoder("utf-8")()
  offset = 0
  with reading(path):
    if gfile.isdir(path):
      raise ValueError(f"cannot read {path}: a folder; {path.rstrip('/')}/* is files.")
    if not _is_regular(path):
      raise ValueError(
        f"cannot read {path}: text is read in parts and again, so it must be a regular "
        "file."
      )
    with gfile.GFile(path, "rb") as file:
      if not file.size():
        raise ValueError(f"A file of text must not be empty, got 0 bytes in {path}.")
      while offset == 0 or offset < min(length, file.size()):
        chunk = file.read(_CHUNK_BYTES)
        if offset == 0:
          _check_kind(chunk, path)
        # A character may begin in one chunk and end in the next.
        pending = len(decoder.getstate()[0])
        try:
          decoder.decode(chunk, final=offset + len(chunk) >= file.size())
        except UnicodeDecodeError as error:
          raise not_utf8(error, path, offset - pending) from None
        offset += len(chunk)


def _check_kind(head: bytes, path: str) -> None:
  for mark, (kind, command) in _OTHER_KINDS.items():
    if head.startswith(mark):
      raise ValueError(
        f"A file of text must be plain UTF-8, got {kind} in {path}: convert it first, "
        f"with `{command}`."
      )
  if head.count(0) > len(head) // 4:
    raise ValueError(
      f"A file of text must be plain UTF-8, got {head.count(0)} zero bytes among the "
      f"first {len(head)} of {path}: UTF-16, perhaps."
    )


def not_utf8(error: UnicodeDecodeError, path: str, offset: int) -> ValueError:
  """Returns what to raise for bytes that start at an offset of a file."""
  at = offset + error.start
  return ValueError(
    f"A file of text must be UTF-8, got {error.reason} at byte {at}, line "
    f"{count_lines(path, at) + 1}, of {path}."
  )


def count_lines(path: str, end: int) -> int:
  """Returns the number of line ends before a byte of a file."""
  count = 0
  with reading(path), gfile.GFile(path, "rb") as file:
    while file.tell() < end:
      count += file.read(min(_CHUNK_BYTES, end - file.tell())).count(b"\n")
  return count
