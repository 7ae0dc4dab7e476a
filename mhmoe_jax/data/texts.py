"""Which files a split has, and the texts in them: without tensorflow."""

import importlib.resources

from mhmoe_jax.data.config import DataConfig
from mhmoe_jax.data.files import find_files, kind_of
from mhmoe_jax.data.jsonl import read_documents
from mhmoe_jax.data.spans import Span, read_span


def find_texts(cfg: DataConfig, split: str) -> list[str]:
  """Returns the files of a split, "train" or "validation", of a source of files.

  Raises:
    ValueError: a file is missing, empty, not UTF-8 or of another source.
  """
  name = "train" if split == "train" else "valid"
  if cfg.source == "bundled":
    corpus = importlib.resources.files("mhmoe_jax.data") / "corpus"
    return find_files(str(corpus / f"tinyshakespeare_{name}.txt"))
  paths = find_files(getattr(cfg, name))
  for path in paths:
    if cfg.source == "text" and kind_of(path) == "jsonl":
      raise ValueError(
        "a .jsonl file must be read with source='jsonl', as every verb does, got "
        f"source='text' for {path}."
      )
  return paths


def read_texts(
  span: Span, text_key: str | None, size: int | None = None
) -> tuple[list[bytes], bool]:
  """Returns the texts of a span, and whether a document ends with each of them.

  Args:
    span: of a file.
    text_key: the field of a JSONL line that holds its document; None for plain text,
      where a file is one document.
    size: of the file when it was cut into spans; None for its size now.
  """
  if text_key is not None:
    return read_documents(span, text_key, size), True
  lines = read_span(span, size)
  return [lines.text] if lines.text else [], lines.is_last
