"""Text in spans of whole lines.

A span is what is shuffled and dealt to streams. It is a range of bytes, made from the
size of the file alone; the lines that start in it belong to it. So a stream reads no
more than its share, and one large file can feed a whole pod. A line that goes on for 64
KiB behind the end of a span is cut there, for else it would be read by every span that
it covers, and be the share of one stream alone.

seqio's TextLineDataSource deals whole files, drops carriage returns, adds a last line
end and does not know where a file stops.
"""

import codecs
from collections.abc import Sequence
import functools
from typing import TYPE_CHECKING, NamedTuple

from mhmoe_jax.data import gfile
from mhmoe_jax.data.files import file_sizes, not_utf8, reading

if TYPE_CHECKING:
  from mhmoe_jax.data.quiet import seqio

# Long, because the last window of a span is short; but SentencePiece needs twice the
# time per byte for a text four times as long.
_MAX_SPAN_BYTES = 2**18
_MAX_SPAN_RECORDS = 2**8
# A stream that shuffles its share should have several spans to shuffle.
_SPANS_PER_STREAM = 16
# Where a line is cut that goes on for so long.
_LONG_BYTES = 2**16
# Records are not cut. This much, parsed and tokenised, is some gigabytes of memory.
_MAX_RECORD_BYTES = 2**28
_BLOCK_BYTES = 2**20


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


def cut_spans(paths: Sequence[str], least: int) -> list[Span]:
  """Cuts files into at least so many spans, if they have the bytes, of at most 256 KiB.

  Read in order, the spans are exactly the files.
  """
  sizes = file_sizes(paths)
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


def read_span(span: Span, size: int | None = None, whole: bool = False) -> Lines:
  """Reads a span; its text is empty if all of it belongs to a line that starts before.

  A byte order mark at the start of the file is left out.

  Args:
    span: which lines.
    size: of the file when it was cut into spans; None for its size now.
    whole: whether long lines are left whole, for records.

  Raises:
    ValueError: the file cannot be read or has another size now, the text is not UTF-8,
      or a record is too long.
  """
  path = span.path
  with reading(path), gfile.GFile(path, "rb") as file:
    if size not in (None, file.size()):
      raise ValueError(
        f"A file of text must stay as it is while it is read, got {size} bytes at "
        f"first and {file.size()} now in {path}."
      )
    size = file.size()
    start = _find_line(file, path, span.start, size, whole)
    if start >= span.end:
      return Lines(b"", start, start == size)
    end = _find_line(file, path, span.end, size, whole)
    if end - start > _MAX_RECORD_BYTES:
      raise ValueError(
        f"A line of JSONL must have at most {_MAX_RECORD_BYTES} bytes, got more behind "
        f"byte {start} of {path}."
      )
    file.seek(start)
    text = file.read(end - start)
    if start == 0 and text.startswith(codecs.BOM_UTF8):
      start, text = len(codecs.BOM_UTF8), text.removeprefix(codecs.BOM_UTF8)
    try:
      text.decode()
    except UnicodeDecodeError as error:
      raise not_utf8(error, path, start) from None
    return Lines(text, start, end == size)


def _find_line(
  file: gfile.GFile, path: str, offset: int, size: int, whole: bool
) -> int:
  """Returns where the first line starts that does not start before an offset."""
  if offset == 0:
    return 0
  # From one byte back, because a line may start just here.
  file.seek(offset - 1)
  head = file.read(_LONG_BYTES + 1)
  if (at := head.find(b"\n")) >= 0:
    return offset + at
  if offset + _LONG_BYTES >= size:
    return size
  if not whole:
    # Past the rest of a character: at most three bytes, which begin with bits 10.
    rest = (at for at in range(3) if head[1 + at] & 0xC0 != 0x80)
    return offset + next(rest, 3)
  offset += _LONG_BYTES
  first, part = divmod(offset, _BLOCK_BYTES)
  if (at := file.read(_BLOCK_BYTES - part).find(b"\n")) >= 0:
    return offset + at + 1
  for block in range(first + 1, -(-size // _BLOCK_BYTES)):
    if (at := _find_in_block(path, size, block)) >= 0:
      return block * _BLOCK_BYTES + at + 1
  return size


# Every span that a record covers looks for its end. With this, each byte is looked at
# once. Part of the key is `size`, for a file that has changed.
@functools.lru_cache(2**16)
def _find_in_block(path: str, size: int, block: int) -> int:
  """Returns where the first line end is in a block of a file, -1 without one."""
  del size
  with gfile.GFile(path, "rb") as file:
    file.seek(block * _BLOCK_BYTES)
    return file.read(_BLOCK_BYTES).find(b"\n")
