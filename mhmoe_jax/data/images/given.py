"""Pictures that a user names: PNG and JPEG files, indices, arrays, or the generator's.

Unlike a training set, they need not all be readable: what is not is told, and the
others go on.
"""

from collections.abc import Callable, Iterator, Mapping
import glob
import os
from typing import Any, NamedTuple

from mhmoe_jax.data import gfile
from mhmoe_jax.data.images.decoding import read
from mhmoe_jax.data.images.index import read_text
from mhmoe_jax.data.images.sources import FilesSource, NpzSource, ShapesSource

_MANY = {".jsonl": FilesSource, ".npz": NpzSource}  # pictures in one file


class Given(NamedTuple):
  """A picture to look at."""

  label: str  # the folder of a file, the name of an index or of arrays, or "shapes"
  name: str  # of the picture, for errors and reports
  pixels: Any  # uint8 (height, width, 3)
  text: str  # that belongs to it; "" where none was asked for
  record: Mapping[str, Any]  # what else is known


def find_pictures(patterns: str, text_key: str = "") -> list[str]:
  """The files of a path, a glob, or several with commas between them.

  Args:
    patterns: local or gs://, of PNG, JPEG, .jsonl or .npz. The files of a glob are
      sorted, and each is there once.
    text_key: the field of their texts, if pictures shall have one.

  Raises:
    ValueError: a pattern matches no file, or a file can have no text and needs one.
  """
  paths = []
  for pattern in [patterns] if gfile.exists(patterns) else patterns.split(","):
    pattern = os.path.expanduser(pattern.strip())
    # A name without a pattern is said to be missing when it is read, as others are.
    found = [pattern] if gfile.exists(pattern) else sorted(gfile.glob(pattern))
    if pattern and not glob.has_magic(pattern):
      found = [pattern]
    if not found:
      raise ValueError(
        f"pictures must be files that are there, got none for {pattern!r}."
      )
    paths += found
  paths = list(dict.fromkeys(paths))
  for path in paths:
    if text_key and _ending(path) not in _MANY:
      raise ValueError(
        "pictures with a text must be in an index (.jsonl) or arrays (.npz) with one, "
        f"got {path}."
      )
  return paths


def iterate_pictures(
  paths: list[str], text_key: str, on_error: Callable[[str], None]
) -> Iterator[Given]:
  """Yields pictures in order.

  Args:
    paths: of `find_pictures`.
    text_key: the field of their texts; "": they have none. Of several the first.
    on_error: called with a line for what cannot be read, which is left out.
  """
  for path in paths:
    many = _MANY.get(_ending(path))
    if many is None:
      label = os.path.basename(os.path.dirname(os.path.abspath(path)))
      try:
        yield Given(label, path, read(path), "", {})
      except ValueError as error:
        on_error(str(error))
      continue
    label = os.path.splitext(os.path.basename(path))[0]
    try:
      source = many(path, text_key)
    except ValueError as error:
      on_error(str(error))
      continue
    for i in range(len(source)):
      try:
        yield _with_text(label, source[i], text_key)
      except ValueError as error:
        on_error(str(error))


def iterate_shapes(
  seed: int, count: int, size: int, with_texts: bool
) -> Iterator[Given]:
  """Yields the first pictures of the generator's validation split."""
  source = ShapesSource(seed, "validation", count, size)
  for i in range(count):
    yield _with_text("shapes", source[i], "caption" if with_texts else "")


def _with_text(label: str, picture, text_key: str) -> Given:
  record = picture.record
  text = read_text(record, text_key, picture.name)[0] if text_key else ""
  return Given(label, picture.name, picture.pixels, text, record)


def _ending(path: str) -> str:
  return os.path.splitext(path)[1].lower()
