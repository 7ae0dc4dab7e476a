"""Statements about pictures, true or false, as arrays: NLVR2 (1811.00491) and NLVR.

A statement is about two pictures, or about one. Those of NLVR (2017) show three boxes
side by side, four times as wide as high: squashed to a square, what is in them would be
a fourth as wide as high, a pixel or two in a small picture. So they may be cut into
three pictures, one box each, which the model sees as it sees the two of NLVR2.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np

from mhmoe_jax.data.images.index import read_text
from mhmoe_jax.data.images.numbered import Place, Row
from mhmoe_jax.data.pictured.config import PicturedConfig
from mhmoe_jax.data.pictured.feed import Pictured

ARRANGEMENTS = ("one", "two", "boxes")
SECOND = "image2"  # the field of the second of two pictures
_LABELS = {"true": 1, "false": 0, "1": 1, "0": 0}


@dataclasses.dataclass(frozen=True)
class NlvrDataConfig(PicturedConfig):
  """Where statements, their pictures and labels come from.

  Attributes: as in `PicturedConfig`, and
    arrangement: "two" pictures, "image" and "image2"; "one"; or "boxes", one that is
      cut into three.
    label_key: the field that says whether a statement is true.
  """

  arrangement: str
  label_key: str

  def __post_init__(self):
    super().__post_init__()
    if self.arrangement not in ARRANGEMENTS:
      raise ValueError(
        f"arrangement must be one of {', '.join(ARRANGEMENTS)}, got "
        f"arrangement={self.arrangement!r}."
      )
    if not self.label_key:
      raise ValueError("data needs a label_key, got label_key=''.")


class NlvrRows:
  """The statements of a split.

  Args:
    cfg: of the data.
    size: height and width of pictures for the model.
    split: "train" or "validation".

  Raises:
    ValueError: the data cannot be read, or a statement has no label or picture.
  """

  def __init__(self, cfg: NlvrDataConfig, size: int, split: str):
    self._cfg, self._split = cfg, split
    self._made = Pictured(cfg, size, split)
    self._groups: dict[str, int] = {}
    source, is_made = self._made.source, cfg.pictures.source == "shapes"
    if is_made and split == "train":
      return  # They are right, and many.
    for index in range(len(source)):
      record, name = source.record(index)
      read_label(record, cfg.label_key, name)
      if cfg.arrangement == "two" and not is_made and SECOND not in record:
        raise ValueError(
          f"every statement must have a second picture in {SECOND!r}, got the fields "
          f"{', '.join(record)} of {name}."
        )
      sentence = read_text(record, cfg.pictures.text_key, name)[0]
      self._groups.setdefault(sentence, len(self._groups))

  def __len__(self) -> int:
    return len(self._made.source)

  def __call__(self, place: Place) -> Row:
    """A statement: "pixels" uint8 (K, Y, X, 3), arrays of the text, "label" int32 ().

    In validation also "sentence" bool (S,), True at the number of its sentence among
    all, for the same may be said of several pictures.

    Raises:
      ValueError: a picture cannot be read, or has no boxes.
    """
    source, cfg = self._made.source, self._cfg
    picture, draw = source[place.index], self._made.draw(place)
    shown = [picture.pixels]
    if cfg.arrangement == "two":
      shown.append(source.second(place.index, SECOND))
    elif cfg.arrangement == "boxes":
      shown = cut_boxes(picture.pixels, picture.name)
    sentences = read_text(picture.record, cfg.pictures.text_key, picture.name)
    nth = draw.randint(len(sentences)) if self._split == "train" else 0
    label = read_label(picture.record, cfg.label_key, picture.name)
    row = {
      "pixels": np.stack([self._made.pixels(x, draw) for x in shown]),
      **self._made.text(sentences[nth], picture.name),
      "label": np.int32(label),
    }
    if self._split == "train":
      return row
    group = np.zeros(len(self._groups), bool)
    group[self._groups[sentences[0]]] = True
    return row | {"sentence": group}


def cut_boxes(pixels: np.ndarray, name: str) -> list[np.ndarray]:
  """The three square boxes of a picture of NLVR, from left to right.

  Raises:
    ValueError: it is less than three times as wide as high.
  """
  height, width = pixels.shape[:2]
  if width < 3 * height:
    raise ValueError(
      "a picture of three boxes must be at least three times as wide as high, got "
      f"{width} x {height} of {name}."
    )
  starts = 0, (width - height) // 2, width - height
  return [pixels[:, start : start + height] for start in starts]


def read_label(record: Mapping[str, Any], key: str, name: str) -> int:
  """1 of a true statement, 0 of a false one.

  Raises:
    ValueError: it is neither, or not told.
  """
  found = _LABELS.get(str(record.get(key)).lower())
  if found is None:
    raise ValueError(
      f"every statement must be true or false in {key!r}, got "
      f"{record.get(key, 'no such field')!r} of {name}."
    )
  return found
