"""Where pictures come from; every source gives picture i and what is known of it.

* "shapes": generated, needs no files (shapes.py).
* "files": PNG and JPEG, and an index of JSON lines, {"image": path, ...}.
* "npz": uint8 pictures of one size, and JSON lines beside them, NAME.npz, NAME.jsonl.
* "tfds": a set of TensorFlow Datasets with an image, in a format of random access.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple, Protocol
import zipfile
import zlib

from etils import epath
import numpy as np

from mhmoe_jax.data.images import sentences, shapes
from mhmoe_jax.data.images.decoding import decode
from mhmoe_jax.data.images.index import index_of, read_index

SOURCES = ("shapes", "files", "npz", "tfds")
SPLITS = ("train", "validation")


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


class Picture(NamedTuple):
  """A picture and what is known of it."""

  pixels: np.ndarray  # uint8 (height, width, 3)
  record: Mapping[str, Any]  # of an index line, or of TFDS without the image
  name: str  # for errors and reports


class Source(Protocol):
  """Pictures by number."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Picture: ...


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
    return ShapesSource(cfg.seed, split, count, size)
  where = cfg.train if split == "train" else cfg.valid
  if cfg.source == "tfds":
    return TfdsSource(cfg.name, where)
  kind = FilesSource if cfg.source == "files" else NpzSource
  return JoinedSource([kind(path, cfg.text_key) for path in where.split(",")])


class ShapesSource:
  """Generated pictures, each with "caption", "question", "answer" and "scene"."""

  def __init__(self, seed: int, split: str, count: int, size: int):
    self._seed, self._split, self._count, self._size = seed, split, count, size

  def __len__(self) -> int:
    return self._count

  def __getitem__(self, index: int) -> Picture:
    scene = shapes.make_scene(self._seed, self._split, index)
    draw = shapes.random_state(self._seed, SPLITS.index(self._split), index, 1)
    asked = sentences.question(scene, draw)
    record = {
      "caption": sentences.caption(scene, draw),
      "question": asked.question,
      "answer": asked.answer,
      "scene": scene,
    }
    name = f"picture {index} of the {self._split} shapes"
    return Picture(shapes.render(scene, self._size), record, name)


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
    record = self._records[index]
    path = self._folder / record["image"]
    try:
      content = path.read_bytes()
    except OSError as error:
      raise ValueError(f"cannot read {path}: {error.strerror}.") from None
    return Picture(decode(content, str(path)), record, str(path))


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
    if len(self._records) != len(self._images):
      raise ValueError(
        f"an index must have a line for every picture, got {len(self._records)} lines "
        f"in {index}, {len(self._images)} pictures."
      )

  def __len__(self) -> int:
    return len(self._images)

  def __getitem__(self, index: int) -> Picture:
    name = f"picture {index} of {self._path}"
    return Picture(self._images[index], self._records[index], name)


class JoinedSource:
  """Several sources, one after the other."""

  def __init__(self, parts: Sequence[Source]):
    self._parts = parts
    self._ends = np.cumsum([len(part) for part in parts])

  def __len__(self) -> int:
    return int(self._ends[-1])

  def __getitem__(self, index: int) -> Picture:
    part = int(np.searchsorted(self._ends, index, side="right"))
    return self._parts[part][index - (int(self._ends[part - 1]) if part else 0)]


class TfdsSource:
  """A set of TensorFlow Datasets; its feature "image" is the picture."""

  def __init__(self, name: str, split: str):
    from mhmoe_jax.data.quiet import tfds

    self._name = f"{name} {split}"
    try:
      builder = tfds.builder(name)
      self._rows = builder.as_data_source(split)
    except (ValueError, AssertionError, NotImplementedError) as error:
      raise ValueError(
        f"TFDS must have built {name} in a format of random access, `tfds build "
        f"{name.split(':')[0]} --file_format=array_record`, got split={split!r}: "
        f"{str(error).splitlines()[0]}"
      ) from None
    if "image" not in builder.info.features:
      raise ValueError(
        f"a set of pictures must have the feature 'image', got "
        f"{', '.join(builder.info.features)} in {name}."
      )

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> Picture:
    row = dict(self._rows[index])
    pixels = row.pop("image")
    if pixels.dtype != np.uint8 or pixels.shape[2] not in (1, 3):
      raise ValueError(
        "a picture must be uint8 with 1 or 3 colours, got "
        f"{pixels.dtype} {pixels.shape} of picture {index} of {self._name}."
      )
    if pixels.shape[2] == 1:
      pixels = np.repeat(pixels, 3, axis=2)
    return Picture(pixels, row, f"picture {index} of {self._name}")
