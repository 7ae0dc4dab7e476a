"""JSON lines to documents. TensorFlow has no parser for JSON, so Python does it."""

import json

from mhmoe_jax.data.files import count_lines
from mhmoe_jax.data.spans import Span, read_span


def read_documents(span: Span, text_key: str, size: int | None = None) -> list[bytes]:
  """Reads the documents of a span of a JSONL file. Blank lines are skipped.

  Args:
    span: which lines.
    text_key: the field that holds the document.
    size: of the file when it was cut into spans; None for its size now.

  Returns:
    UTF-8.

  Raises:
    ValueError: a line is not a JSON object with a string in that field; names the line.
  """
  lines = read_span(span, size, whole=True)
  documents = []
  for index, line in enumerate(lines.text.split(b"\n")):
    if not line.strip():
      continue
    try:
      documents.append(_parse(line, text_key))
    except ValueError as error:
      number = count_lines(span.path, lines.offset) + index + 1
      raise ValueError(
        f"Every line must be a JSON object with a string in {text_key!r}, got {error} "
        f"in line {number} of {span.path}."
      ) from None
  return documents


def _parse(line: bytes, text_key: str) -> bytes:
  try:
    record = json.loads(line)
  except json.JSONDecodeError as error:
    raise ValueError(f"{error.msg!r} at column {error.colno}") from None
  except RecursionError:
    raise ValueError("lists or objects nested too deep") from None
  if not isinstance(record, dict):
    raise ValueError(f"a {type(record).__name__}")
  if text_key not in record:
    raise ValueError(f"the fields {sorted(record)}")
  text = record[text_key]
  if not isinstance(text, str):
    raise ValueError(f"a {type(text).__name__}")
  # Half of a surrogate pair is valid JSON but not a character: UnicodeEncodeError.
  return text.encode()
