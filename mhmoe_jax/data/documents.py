"""Documents one by one, for evaluation: what a record, a paragraph or a line says.

Training reads plain text as one document a file; here every document is read by itself,
and has a label, the name of its file without directory and ending: the language, if
there is a file for each.
"""

from collections.abc import Iterator, Sequence
import io
import os
from typing import NamedTuple

from mhmoe_jax.data.files import kind_of
from mhmoe_jax.data.jsonl import read_documents
from mhmoe_jax.data.spans import cut_spans, read_span

UNITS = ("paragraph", "line")
# A file without empty lines would be one document, too large for the memory.
_MAX_PARAGRAPH_BYTES = 2**18


class Document(NamedTuple):
  """A text that a model sees by itself."""

  label: str  # of its file
  text: str


def iterate_documents(
  paths: Sequence[str], unit: str, text_key: str
) -> Iterator[Document]:
  """Yields the documents of files, in order and in constant memory.

  Args:
    paths: of `files.find_files`. Lines of *.jsonl are records, a document each.
    unit: in other files a document is a "paragraph", lines between empty ones and at
      most 256 KiB of them, or a "line", cut where it is longer. Neither has a line end
      at its end.
    text_key: the field of a record that holds the text.

  Raises:
    ValueError: a text is not UTF-8, a record has no text, or the unit is another.
  """
  if unit not in UNITS:
    raise ValueError(f"unit must be one of {', '.join(UNITS)}, got unit={unit!r}.")
  for path in paths:
    label = os.path.splitext(os.path.basename(path))[0]
    if kind_of(path) == "jsonl":
      spans = cut_spans([path], 1)
      texts = (text for span in spans for text in read_documents(span, text_key))
    elif unit == "line":
      lines = (line.removesuffix(b"\n") for line in _read_lines(path))
      texts = filter(bytes.strip, lines)
    else:
      texts = _read_paragraphs(path)
    yield from (Document(label, text.decode()) for text in texts if text)


def _read_lines(path: str) -> Iterator[bytes]:
  """Yields lines with their ends, and long ones in the pieces that spans have."""
  for span in cut_spans([path], 1):
    yield from io.BytesIO(read_span(span).text)


def _read_paragraphs(path: str) -> Iterator[bytes]:
  lines, size = [], 0
  for line in _read_lines(path):
    length = len(line.removesuffix(b"\n"))
    if line.strip() and size + length <= _MAX_PARAGRAPH_BYTES:
      lines.append(line)
      size += length + 1
      continue
    yield b"".join(lines).removesuffix(b"\n")
    lines, size = ([line], length + 1) if line.strip() else ([], 0)
  yield b"".join(lines).removesuffix(b"\n")
