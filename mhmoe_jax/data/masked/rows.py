"""Examples of each kind as arrays: what is seen, what is hidden, what it was.

All that is drawn for an example follows from the seed, its kind, its number and its
epoch. Pictures stay uint8; the model turns them into patches, and into visual codes.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from mhmoe_jax.data.images import masks
from mhmoe_jax.data.images.augment import augment, squash
from mhmoe_jax.data.images.index import read_text
from mhmoe_jax.data.images.numbered import Place, Row
from mhmoe_jax.data.images.picture import Picture
from mhmoe_jax.data.images.shapes import random_state
from mhmoe_jax.data.images.sources import open_source
from mhmoe_jax.data.masked.config import MaskedDataConfig
from mhmoe_jax.data.masking import mask_tokens
from mhmoe_jax.data.pictured.text import TextWindow

_IMAGE, _TEXT, _PAIR = 0, 1, 2  # apart in what is drawn
_SPLITS = {"train": 0, "validation": 1}


class Sizes(NamedTuple):
  """What of the model the data must know."""

  picture_size: int
  patch_size: int
  mask_id: int  # the token [MASK]


class Rows:
  """Makes the examples of a split.

  Args:
    cfg: of the data.
    sizes: of the model.
    split: "train", where pictures are augmented, or "validation".
  """

  def __init__(self, cfg: MaskedDataConfig, sizes: Sizes, split: str):
    self._cfg, self._sizes, self._split = cfg, sizes, split
    self.images = open_source(cfg.images, split, sizes.picture_size)
    self.pairs = open_source(cfg.pairs, split, sizes.picture_size)
    keys = "data.pair_length", "data.cut_pairs"
    window = cfg.text.vocabulary, cfg.pair_length, cfg.cut_pairs, keys
    self._window = TextWindow(*window)

  def image(self, place: Place) -> Row:
    """A picture: "pixels" uint8 (Y, X, 3), "masked" bool (P,), "patch_places" (J,)."""
    draw = self._draw(_IMAGE, place.index, place.epoch)
    cfg = self._cfg
    return self._image(self.images[place.index], cfg.augment, cfg.mask.image, draw)

  def text(self, batch: dict[str, np.ndarray], numbers: list[int]) -> Row:
    """Rows of packed text, of which row i is example `numbers[i]` of its split.

    "tokens", "positions", "segments" int32 (B, T), "token_places", "targets" int32 and
    "weights" float32 (B, J). The first token of each text is never masked; its last, of
    which a language model would only predict what follows, is not seen.
    """
    rows = []
    for i, number in enumerate(numbers):
      row = {name: batch[name][i] for name in ("positions", "segments")}
      maskable = (row["segments"] > 0) & (row["positions"] > 0)
      draw = self._draw(_TEXT, *divmod(number, 2**32))
      ratio = self._cfg.mask.text
      rows.append(row | self._mask(batch["inputs"][i], maskable, ratio, draw))
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

  def pair(self, place: Place) -> Row:
    """A picture and one of its texts: the arrays of both.

    Raises:
      ValueError: the text is longer than its window.
    """
    picture = self.pairs[place.index]
    draw = self._draw(_PAIR, place.index, place.epoch)
    texts = read_text(picture.record, self._cfg.pairs.text_key, picture.name)
    text = texts[draw.randint(len(texts)) if self._split == "train" else 0]
    cfg = self._cfg
    image = self._image(picture, cfg.pair_augment, cfg.mask.pair_image, draw)
    return image | self._pair_text(text, picture, draw)

  def _pair_text(self, text: str, picture: Picture, draw) -> Row:
    row = self._window(text, picture.name)
    last = row["segments"].sum() - 1
    maskable = (row["positions"] > 0) & (row["positions"] < last)
    ratio = self._cfg.mask.pair_text
    return row | self._mask(row["tokens"], maskable, ratio, draw)

  def _image(self, picture: Picture, augmentation, ratio: float, draw) -> Row:
    size = self._sizes.picture_size
    side = size // self._sizes.patch_size
    if self._split == "train":
      pixels = augment(picture.pixels, size, augmentation, draw)
    else:
      pixels = squash(picture.pixels, size)
    count = masks.count_masked(ratio, side * side)
    masked = masks.draw_mask(draw, self._cfg.mask.patches, side, side, count).ravel()
    return {
      "pixels": pixels,
      "masked": masked,
      "patch_places": np.flatnonzero(masked).astype(np.int32),
    }

  def _mask(self, tokens, maskable, ratio: float, draw) -> Row:
    mask = self._cfg.mask
    shares = mask.random_share, mask.kept_share
    made = mask_tokens(draw, tokens, maskable, ratio, self._sizes.mask_id, *shares)
    return {
      "tokens": made.tokens,
      "token_places": made.places,
      "targets": made.targets,
      "weights": made.weights,
    }

  def _draw(self, kind: int, *numbers: int) -> np.random.RandomState:
    return random_state(self._cfg.seed, _SPLITS[self._split], kind, *numbers)


def sample_pictures(cfg: MaskedDataConfig, size: int) -> np.ndarray:
  """Training pictures of both kinds, drawn at random, uint8 (N, size, size, 3).

  As many as the visual vocabulary is fitted to, or all.
  """
  # Whether they have texts is no matter here.
  parts = (dataclasses.replace(x, text_key="") for x in (cfg.images, cfg.pairs))
  sources = [open_source(part, "train", size) for part in parts]
  total = sum(len(source) for source in sources)
  count = min(cfg.codes.num_pictures, total)
  order = random_state(cfg.seed, total).permutation(total)[:count]
  first = len(sources[0])
  chosen = [sources[int(i >= first)][int(i - first * (i >= first))] for i in order]
  return np.stack([squash(picture.pixels, size) for picture in chosen])
