"""Indices of pictures: JSON lines that say where a picture is, and what is on it."""

from collections.abc import Mapping
import json
import os
from typing import Any

from etils import epath
import numpy as np


def files_of(where: str) -> list[str]:
  """The files that say what is in a split: indices, and arrays with theirs."""
  files = []
  for path in where.split(","):
    index = index_of(path)
    files += [path, index] if index != path and epath.Path(index).exists() else [path]
  return files


def read_text(record: Mapping[str, Any], text_key: str, name: str) -> list[str]:
  """The texts of a picture, one or more.

  Args:
    record: what is known of it.
    text_key: of `PictureConfig`.
    name: of the picture, for errors.

  Raises:
    ValueError: it has none.
  """
  found: Any = record
  for key in text_key.split("/"):
    if not isinstance(found, Mapping) or key not in found:
      raise ValueError(
        f"every picture must have the field {text_key!r}, got the fields "
        f"{', '.join(record) or 'none'} of {name}."
      )
    found = found[key]
  texts = list(found) if isinstance(found, list | tuple | np.ndarray) else [found]
  texts = [t.decode() if isinstance(t, bytes) else t for t in texts]
  if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
    raise ValueError(
      f"field {text_key!r} must be text, or a list of it, got {found!r} of {name}."
    )
  return texts


def index_of(path: str) -> str:
  """Where the lines of an npz are."""
  return os.path.splitext(path)[0] + ".jsonl"


def read_index(path: str, text_key: str = "") -> list[dict[str, Any]]:
  """The lines of an index.

  Raises:
    ValueError: it is missing, empty, or a line is not a JSON object, or has no text in
      `text_key`, if that is given; names the line.
  """
  try:
    lines = epath.Path(path).read_text().removesuffix("\n").split("\n")
  except (OSError, UnicodeDecodeError) as error:
    raise ValueError(f"cannot read the index {path}: {error}.") from None
  if lines == [""]:
    raise ValueError(f"an index must have a line, got none in {path}.")
  records = []
  for number, line in enumerate(lines, 1):
    try:
      record = json.loads(line)
    except json.JSONDecodeError as error:
      raise ValueError(f"{error.msg!r} in line {number} of {path}.") from None
    if not isinstance(record, dict):
      raise ValueError(
        f"every line of an index must be a JSON object, got {line[:40]!r} in line "
        f"{number} of {path}."
      )
    if text_key:
      read_text(record, text_key, f"line {number} of {path}")
    records.append(record)
  return records
