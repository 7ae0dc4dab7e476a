"""Pictures with captions of which some tokens are masked, as arrays.

Of a caption's tokens, its end among them, a share is masked. A picture may have several
captions: training draws one, validation takes the first, and scores compare with all.
"""

import dataclasses

import numpy as np

from mhmoe_jax.data.images.index import read_text
from mhmoe_jax.data.images.numbered import Place, Row
from mhmoe_jax.data.images.sources import open_source
from mhmoe_jax.data.masking import mask_tokens
from mhmoe_jax.data.pictured.config import PicturedConfig
from mhmoe_jax.data.pictured.feed import Pictured


@dataclasses.dataclass(frozen=True)
class CaptionDataConfig(PicturedConfig):
  """Pictures with captions.

  Attributes: as of `PicturedConfig`, and
    mask_share: of the tokens of a caption, its end included, in (0, 1).
    random_share: of the masked tokens, which become any token.
    kept_share: of the masked tokens, which stay visible.
  """

  mask_share: float
  random_share: float
  kept_share: float

  def __post_init__(self):
    super().__post_init__()
    if not 0 < self.mask_share < 1:
      raise ValueError(
        f"mask_share must be between 0 and 1, got mask_share={self.mask_share}."
      )
    shares = self.random_share, self.kept_share
    if min(shares) < 0 or sum(shares) > 1:
      raise ValueError(
        "random_share and kept_share must be at least 0 and at most 1 together, got "
        f"random_share={self.random_share}, kept_share={self.kept_share}."
      )


class CaptionRows:
  """The examples of a split.

  Args:
    cfg: of the data.
    size: height and width of pictures for the model.
    mask_id: the token [MASK].
    split: "train" or "validation".
  """

  def __init__(self, cfg: CaptionDataConfig, size: int, mask_id: int, split: str):
    self._cfg, self._mask_id, self._split = cfg, mask_id, split
    self._made = Pictured(cfg, size, split)

  def __len__(self) -> int:
    return len(self._made.source)

  def __call__(self, place: Place) -> Row:
    """A picture and a caption.

    "pixels" uint8 (Y, X, 3); "tokens", "positions" and "segments" int32 (T,);
    "token_places", "targets" int32 and "weights" float32 (J,).

    Raises:
      ValueError: the caption is longer than its window.
    """
    picture, draw = self._made.source[place.index], self._made.draw(place)
    pixels = self._made.pixels(picture.pixels, draw)
    texts = read_text(picture.record, self._cfg.pictures.text_key, picture.name)
    text = texts[draw.randint(len(texts)) if self._split == "train" else 0]
    row = self._made.text(text, picture.name)
    made = mask_tokens(
      draw,
      row["tokens"],
      (row["segments"] > 0) & (row["positions"] > 0),
      self._cfg.mask_share,
      self._mask_id,
      self._cfg.random_share,
      self._cfg.kept_share,
    )
    masked = {"token_places": made.places, "targets": made.targets}
    masked |= {"tokens": made.tokens, "weights": made.weights}
    return row | {"pixels": pixels} | masked


class UncaptionedRows:
  """The first pictures of the validation split, without what is said of them."""

  def __init__(self, cfg: CaptionDataConfig, size: int, count: int):
    self._made = Pictured(cfg, size, "validation")
    self._count = min(count, len(self._made.source))

  def __len__(self) -> int:
    return self._count

  def __call__(self, place: Place) -> Row:
    """A picture: "pixels" uint8 (Y, X, 3) and "number" int32 ()."""
    picture, draw = self._made.source[place.index], self._made.draw(place)
    pixels = self._made.pixels(picture.pixels, draw)
    return {"pixels": pixels, "number": np.int32(place.index)}


def read_captions(cfg: CaptionDataConfig, count: int) -> list[list[str]]:
  """All captions of each of the first pictures of the validation split."""
  source = open_source(cfg.pictures, "validation", 1)
  found = []
  for i in range(min(count, len(source))):
    record, name = source.record(i)
    found.append(read_text(record, cfg.pictures.text_key, name))
  return found
