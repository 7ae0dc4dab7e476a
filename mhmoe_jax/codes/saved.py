"""A visual vocabulary in a folder, with a checksum over all of it.

    vocabulary.json  what is fixed, what it was fitted to, what it is worth, checksum
    arrays.npz       what was fitted

The checksum is the vocabulary's fingerprint, too: a run records it, because the ids of
another vocabulary mean something else.
"""

from collections.abc import Mapping
import dataclasses
import hashlib
import io
import json
from typing import Any, NamedTuple

from etils import epath
import jax
import numpy as np

from mhmoe_jax.codes.measure import Statistics
from mhmoe_jax.codes.vocabulary import Arrays, VisualVocabulary, array_shapes

_FACTS, _ARRAYS = "vocabulary.json", "arrays.npz"


class Saved(NamedTuple):
  """A vocabulary, and where it comes from."""

  vocabulary: VisualVocabulary
  arrays: Arrays  # of numpy
  fitted_to: Mapping[str, Any]  # JSON, as `save` was given it
  statistics: Statistics
  fingerprint: str  # 16 hexadecimal digits
  directory: str


def exists(directory: str) -> bool:
  """Whether a folder has a vocabulary, damaged or not; one half written is none."""
  return (epath.Path(directory) / _FACTS).exists()


def check_free(directory: str) -> None:
  """Raises ValueError if a folder has a vocabulary already, which runs may need."""
  if exists(directory):
    raise ValueError(
      f"a visual vocabulary must have a folder of its own, got {directory}, which has "
      "one; remove that, or write elsewhere."
    )


def save(
  directory: str,
  vocabulary: VisualVocabulary,
  arrays: Arrays,
  fitted_to: Mapping[str, Any],
  statistics: Statistics,
) -> str:
  """Writes a vocabulary; returns its fingerprint.

  Args:
    directory: local or in a bucket; made if it is not there.
    vocabulary: what is fixed.
    arrays: what was fitted.
    fitted_to: JSON; which pictures.
    statistics: of `fit`.

  Raises:
    ValueError: the folder has one already.
  """
  check_free(directory)
  packed = io.BytesIO()
  np.savez(packed, **_flatten(arrays))
  content = packed.getvalue()
  facts = {
    "vocabulary": dataclasses.asdict(vocabulary),
    "fitted_to": dict(fitted_to),
    "statistics": statistics._asdict(),
  }
  facts["fingerprint"] = _fingerprint(facts, content)
  folder = epath.Path(directory)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / _ARRAYS).write_bytes(content)
  (folder / _FACTS).write_text(_to_text(facts))  # Last: with it the folder is whole.
  return facts["fingerprint"]


def load(directory: str) -> Saved:
  """Reads a vocabulary.

  Raises:
    ValueError: there is none, or a byte of it is not as it was written.
  """
  folder = epath.Path(directory)
  if not exists(directory):
    raise ValueError(
      f"a visual vocabulary must be a folder with {_FACTS} and {_ARRAYS}, as "
      f"the verb image-tokenizer writes it, got {directory}."
    )
  try:
    content, text = (folder / _ARRAYS).read_bytes(), (folder / _FACTS).read_text()
    facts = json.loads(text)
    found = facts.pop("fingerprint")
    # Spaces count, too: nothing may have changed.
    is_whole = _to_text(facts | {"fingerprint": found}) == text
    is_whole &= found == _fingerprint(facts, content)
  except OSError as error:
    raise ValueError(f"cannot read {directory}: {error.strerror}.") from None
  except (UnicodeDecodeError, ValueError, LookupError, AttributeError, TypeError):
    is_whole = False  # not text, not JSON, or other JSON
  if not is_whole:
    raise ValueError(
      "a visual vocabulary must be as it was written, got another checksum: "
      f"{directory} is damaged; fit it again, or copy it again."
    )
  vocabulary = VisualVocabulary(**facts["vocabulary"])
  with np.load(io.BytesIO(content)) as packed:
    arrays = _unflatten(packed)
  shapes = [
    jax.tree.map(lambda x: x.shape, x) for x in (arrays, array_shapes(vocabulary))
  ]
  if shapes[0] != shapes[1]:
    raise ValueError(
      f"the arrays of {directory} must be of this version's networks; fit it again."
    )
  return Saved(
    vocabulary,
    arrays,
    facts["fitted_to"],
    Statistics(**facts["statistics"]),
    found,
    directory,
  )


def check(
  saved: Saved,
  *,
  patch_size: int,
  num_codes: int,
  fingerprint: str | None = None,
) -> None:
  """Refuses a vocabulary that a run cannot use.

  Args:
    saved: the vocabulary.
    patch_size: of the run.
    num_codes: of the run's head.
    fingerprint: that the run recorded, if it did.

  Raises:
    ValueError: it has other patches or another number of codes, or is another one.
  """
  has = saved.vocabulary
  if has.patch_size != patch_size:
    raise ValueError(
      "a visual vocabulary must have the patches of the model, got "
      f"patch_size={has.patch_size} in {saved.directory}, patch_size={patch_size}."
    )
  if has.num_codes != num_codes:
    raise ValueError(
      "a visual vocabulary must have as many codes as the model's head, got "
      f"num_codes={has.num_codes} in {saved.directory}, num_codes={num_codes}."
    )
  if fingerprint not in (None, saved.fingerprint):
    raise ValueError(
      "a run must go on with the visual vocabulary that it began with, got "
      f"{saved.fingerprint} in {saved.directory}, {fingerprint} in the run."
    )


def _fingerprint(facts: Mapping[str, Any], content: bytes) -> str:
  written = {name: x for name, x in facts.items() if name != "fingerprint"}
  return hashlib.sha256(_to_text(written).encode() + content).hexdigest()[:16]


def _to_text(facts: Mapping[str, Any]) -> str:
  return json.dumps(facts, indent=2, sort_keys=True) + "\n"


def _flatten(arrays: Arrays) -> dict[str, np.ndarray]:
  """Nested arrays to arrays by path, such as "encoder/block_0/w_LDF"."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(arrays)
  return {"/".join(key.key for key in path): np.asarray(x) for path, x in leaves}


def _unflatten(packed: Mapping[str, np.ndarray]) -> dict[str, Any]:
  arrays: dict[str, Any] = {}
  for name in packed:
    *folders, last = name.split("/")
    inner = arrays
    for folder in folders:
      inner = inner.setdefault(folder, {})
    inner[last] = packed[name]
  return arrays
