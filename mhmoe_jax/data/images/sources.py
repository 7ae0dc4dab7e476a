"""Where pictures come from; every source gives picture i and what is known of it.

* "shapes": generated, needs no files (shapes.py).
* "files": PNG and JPEG, and an index of JSON lines, {"image": path, ...}.
* "npz": uint8 pictures of one size, and JSON lines beside them, NAME.npz, NAME.jsonl,
  one for each picture; or lines that tell the number of theirs, {"image": 17, ...}.
* "tfds": a set of TensorFlow Datasets with an image, in a format of random access.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any
import zipfile
import zlib

from etils import epath
import numpy as np

from mhmoe_jax.data.images import sentences, shapes
from mhmoe_jax.data.images.decoding import read
from mhmoe_jax.data.images.index import index_of, read_index
from mhmoe_jax.data.images.picture import Picture, Source
from mhmoe_jax.data.images.tfds_pictures import TfdsSource

SOURCES = ("shapes", "files", "npz", "tfds")
SPLITS = ("train", "validation")
_SECOND = 2**31  # from the number of generated shapes to that of their second picture


@dataclasses.dataclass(frozen=True)
class PictureConfig:
  """A set of pictures.

  Attributes:
    source: one of `SOURCES`.
    name: of a TFDS set with its version, such as "coco_captions/2014:1.1.0".
    train: for files and npz the path of an index (.jsonl) or of pictures (.npz), or
      several with commas between them; for tfds a split; of shapes ignored.
    valid: the same for validation.
    text_key: the field of the text that belongs to a picture, a string or a list of
      which training draws one; fields in fields have a slash between them.
    num_train: pictures of generated shapes.
    num_valid: the same for validation.
    seed: of generated shapes.
  """

  source: str
  name: str
  train: str
  valid: str
  text_key: str
  num_train: int
  num_valid: int
  seed: int

  def __post_init__(self):
    if self.source not in SOURCES:
      raise ValueError(
        f"source must be one of {', '.join(SOURCES)}, got source={self.source!r}."
      )
    if self.source == "shapes":
      for name in ("num_train", "num_valid"):
        if getattr(self, name) < 1:
          raise ValueError(
            f"{name} must be at least 1, got {name}={getattr(self, name)}."
          )
      if not 0 <= self.seed < 2**32:
        raise ValueError(f"seed must be in [0, 2**32), got seed={self.seed}.")
    elif not (self.train and self.valid):
      raise ValueError(
        f"source={self.source!r} needs train and valid, got train={self.train!r}, "
        f"valid={self.valid!r}."
      )
    if self.source == "tfds" and ":" not in self.name:
      raise ValueError(
        "name must be a TFDS name with its version, such as caltech101:3.0.2, got "
        f"name={self.name!r}."
      )


def open_source(cfg: PictureConfig, split: str, size: int) -> Source:
  """The pictures of a split.

  Args:
    cfg: of the set.
    split: "train" or "validation".
    size: at which shapes are drawn; other pictures have their own.

  Raises:
    ValueError: a file is missing, or not what it should be.
  """
  if cfg.source == "shapes":
    count = cfg.num_train if split == "train" else cfg.num_valid
    return ShapesSource(cfg.seed, split, count, size, cfg.text_key)
  where = cfg.train if split == "train" else cfg.valid
  if cfg.source == "tfds":
    return TfdsSource(cfg.name, where)
  kind = FilesSource if cfg.source == "files" else NpzSource
  return JoinedSource([kind(path, cfg.text_key) for path in where.split(",")])


class ShapesSource:
  """Generated pictures, each with "caption", "question", "answer" and "scene".

  And with what `text_key` asks for: "statement" about it, or "comparison" with a second
  picture, and whether that is true.
  """

  def __init__(self, seed: int, split: str, count: int, size: int, text_key: str = ""):
    self._seed, self._split, self._count, self._size = seed, split, count, size
    self._text_key = text_key

  def __len__(self) -> int:
    return self._count

  def __getitem__(self, index: int) -> Picture:
    record, name = self.record(index)
    return Picture(shapes.render(record["scene"], self._size), record, name)

  def record(self, index: int) -> tuple[Mapping[str, Any], str]:
    scene = self._scene(index)
    draw = shapes.random_state(self._seed, SPLITS.index(self._split), index, 1)
    asked = sentences.question(scene, draw)
    record = {
      "caption": sentences.caption(scene, draw),
      "question": asked.question,
      "answer": asked.answer,
      "answer_type": asked.kind,
      "scene": scene,
    }
    claim = None
    if self._text_key == "statement":
      claim = sentences.statement(scene, draw)
    elif self._text_key == "comparison":
      claim = sentences.compare(scene, self._scene(index + _SECOND), draw)
    if claim:
      record |= {self._text_key: claim.sentence, "label": claim.label}
    return record, f"picture {index} of the {self._split} shapes"

  def second(self, index: int, key: str) -> np.ndarray:
    return shapes.render(self._scene(index + _SECOND), self._size)

  def _scene(self, index: int) -> shapes.Scene:
    return shapes.make_scene(self._seed, self._split, index)


class FilesSource:
  """PNG and JPEG files, by an index whose paths are relative to its folder."""

  def __init__(self, index: str, text_key: str):
    self._folder = epath.Path(index).parent
    self._records = read_index(index, text_key)
    for line, record in enumerate(self._records, 1):
      if not isinstance(record.get("image"), str):
        raise ValueError(
          "every line of an index must have a path in 'image', got the fields "
          f"{', '.join(record)} in line {line} of {index}."
        )

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> Picture:
    record, name = self.record(index)
    return Picture(self._read(record["image"]), record, name)

  def record(self, index: int) -> tuple[Mapping[str, Any], str]:
    record = self._records[index]
    return record, str(self._folder / record["image"])

  def second(self, index: int, key: str) -> np.ndarray:
    record, name = self.record(index)
    return self._read(_named(record, key, str, "a path", name))

  def _read(self, image: str) -> np.ndarray:
    return read(str(self._folder / image))


class NpzSource:
  """Pictures in an array, with an index of as many lines where there is one."""

  def __init__(self, path: str, text_key: str):
    self._path = path
    try:
      with (
        epath.Path(path).open("rb") as file,
        zipfile.ZipFile(file),
        np.load(file) as arrays,
      ):
        if "images" not in arrays:
          raise ValueError(
            f"pictures must be in 'images', got {', '.join(arrays)} in {path}."
          )
        self._images = arrays["images"]
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
      raise ValueError(f"cannot read {path}: {error}.") from None
    is_colour = self._images.dtype == np.uint8 and self._images.shape[3:] == (3,)
    if not (is_colour and self._images.size):
      raise ValueError(
        "'images' must be uint8 of shape (pictures, height, width, 3), got "
        f"{self._images.dtype} {self._images.shape} in {path}."
      )
    index = index_of(path)
    self._records: Sequence[Mapping[str, Any]] = [{}] * len(self._images)
    if epath.Path(index).exists():
      self._records = read_index(index, text_key)
    elif text_key:
      raise ValueError(f"texts must be in lines beside the pictures, got no {index}.")
    self._is_numbered = all(isinstance(x.get("image"), int) for x in self._records)
    if not self._is_numbered and len(self._records) != len(self._images):
      raise ValueError(
        f"an index must have a line for every picture, got {len(self._records)} lines "
        f"in {index}, {len(self._images)} pictures; or lines with the number of theirs "
        "in 'image'."
      )

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> Picture:
    record, name = self.record(index)
    if not self._is_numbered:
      return Picture(self._images[index], record, name)
    return Picture(self._read(record["image"], name), record, name)

  def record(self, index: int) -> tuple[Mapping[str, Any], str]:
    what = "line" if self._is_numbered else "picture"
    return self._records[index], f"{what} {index} of {self._path}"

  def second(self, index: int, key: str) -> np.ndarray:
    record, name = self.record(index)
    return self._read(_named(record, key, int, "a number", name), name)

  def _read(self, number: int, name: str) -> np.ndarray:
    if not 0 <= number < len(self._images):
      raise ValueError(
        f"a number of a picture must be below {len(self._images)}, got {number} of "
        f"{name}."
      )
    return self._images[number]


class JoinedSource:
  """Several sources, one after the other."""

  def __init__(self, parts: Sequence[Source]):
    self._parts = parts
    self._ends = np.cumsum([len(part) for part in parts])

  def __len__(self) -> int:
    return int(self._ends[-1])

  def __getitem__(self, index: int) -> Picture:
    part, index = self._find(index)
    return part[index]

  def record(self, index: int) -> tuple[Mapping[str, Any], str]:
    part, index = self._find(index)
    return part.record(index)

  def second(self, index: int, key: str) -> np.ndarray:
    part, index = self._find(index)
    return part.second(index, key)

  def _find(self, index: int) -> tuple[Source, int]:
    part = int(np.searchsorted(self._ends, index, side="right"))
    return self._parts[part], index - (int(self._ends[part - 1]) if part else 0)


def _named(
  record: Mapping[str, Any], key: str, kind: type, what: str, name: str
) -> Any:
  """How an index names a picture."""
  if not isinstance(record.get(key), kind):
    raise ValueError(
      f"a second picture must be {what} in {key!r}, got the fields "
      f"{', '.join(record)} of {name}."
    )
  return record[key]
