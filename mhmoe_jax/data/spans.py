"""Files of text, checked at the door and read in spans of whole lines.

A span is what is shuffled and dealt to streams. It is a range of bytes, made from the
size of the file alone; the lines that start in it belong to it. So a stream reads no
more than its share, and one large file can feed a whole pod.

seqio's TextLineDataSource deals whole files, drops carriage returns, adds a last line
end and does not know where a file stops.
"""

import codecs
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from mhmoe_jax.data import gfile

if TYPE_CHECKING:
  from mhmoe_jax.data.quiet import seqio

# How much of the files is checked before training starts: this much of them together,
# but at least a chunk of each. The rest is checked when it is read.
_CHECKED_BYTES = 64 * 2**20
_CHUNK_BYTES = 2**20
# Long, because the last window of a span is short; but SentencePiece needs twice the
# time per byte for a text four times as long.
_MAX_SPAN_BYTES = 2**18
_MAX_SPAN_RECORDS = 2**8
# A stream that shuffles its share should have several spans to shuffle.
_SPANS_PER_STREAM = 16


class Span(NamedTuple):
  """The lines of a file that start at a byte from `start` to `end` - 1."""

  path: str
  start: int
  end: int


class Lines(NamedTuple):
  """The text of a span."""

  text: bytes
  offset: int  # Of the first line, in bytes from the start of the file.
  is_last: bool  # Whether the file ends with these lines.


def find_files(patterns: str) -> list[str]:
  """Returns the files that match a path, a glob, or several with commas between them.

  Args:
    patterns: local or gs://. The files of one glob are sorted.

  Raises:
    ValueError: a pattern matches no file, or a file is empty or not UTF-8.
  """
  paths = []
  for pattern in patterns.split(","):
    matches = match_files(pattern)
    if not matches:
      raise ValueError(f"Every pattern must match a file, got none for {pattern!r}.")
    paths += matches
  for path in paths:
    check_utf8(path, _CHECKED_BYTES // len(paths))
  return paths


def match_files(pattern: str) -> list[str]:
  """Returns the files that match a path or a glob, sorted; they may be none."""
  return sorted(p for p in gfile.glob(pattern) if not gfile.isdir(p))


def check_utf8(path: str, length: int) -> None:
  """Raises ValueError if a file is empty or its first `length` bytes are not UTF-8."""
  decoder = codecs.getincrementaldecoder("utf-8")()
  offset = 0
  with gfile.GFile(path, "rb") as file:
    if not file.size():
      raise ValueError(f"A file of text must not be empty, got 0 bytes in {path}.")
    while offset == 0 or offset < min(length, file.size()):
      chunk = file.read(_CHUNK_BYTES)
      # A character may begin in one chunk and end in the next.
      pending = len(decoder.getstate()[0])
      try:
        decoder.decode(chunk, final=offset + len(chunk) == file.size())
      except UnicodeDecodeError as error:
        raise _not_utf8(error, path, offset - pending) from None
      offset += len(chunk)


def cut_spans(paths: Sequence[str], least: int) -> list[Span]:
  """Cuts files into at least so many spans, if they have the bytes, of at most 256 KiB.

  Read in order, the spans are exactly the files.
  """
  sizes = [gfile.stat(path).length for path in paths]
  step = span_bytes(sum(sizes), least)
  return [
    Span(path, start, min(start + step, size))
    for path, size in zip(paths, sizes, strict=True)
    for start in range(0, size, step)
  ]


def span_bytes(size: int, least: int) -> int:
  """Returns the bytes of a span, of files of `size` bytes in `least` spans or more."""
  return min(max(size // least, 1), _MAX_SPAN_BYTES)


def span_records(size: int, least: int) -> int:
  """Returns the records of a span, of `size` records in `least` spans or so."""
  return min(max(size // least, 1), _MAX_SPAN_RECORDS)


def least_spans(shard_info: "seqio.ShardInfo | None") -> int:
  """Returns how many spans a split is cut into at least, dealt to streams or whole."""
  return _SPANS_PER_STREAM * shard_info.num_shards if shard_info else 1


def read_span(span: Span) -> Lines:
  """Reads a span; its text is empty if all of it belongs to a line that starts before.

  Raises:
    ValueError: the text is not UTF-8.
  """
  with gfile.GFile(span.path, "rb") as file:
    start, end = (_find_line(file, offset) for offset in (span.start, span.end))
    file.seek(start)
    text = file.read(end - start)
    try:
      text.decode()
    except UnicodeDecodeError as error:
      raise _not_utf8(error, span.path, start) from None
    return Lines(text, start, end == file.size())


def _find_line(file: gfile.GFile, offset: int) -> int:
  """Returns where the first line starts that does not start before an offset."""
  if offset == 0:
    return 0
  # From one byte back, because a line may start just here.
  file.seek(offset - 1)
  file.readline()
  return file.tell()


def _not_utf8(error: UnicodeDecodeError, path: str, offset: int) -> ValueError:
  return ValueError(
    f"A file of text must be UTF-8, got {error.reason} at byte {offset + error.start} "
    f"of {path}."
  )
