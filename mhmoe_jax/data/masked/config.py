"""What masked multi-modal modelling reads, and what it hides: plain values only.

Defaults live in configs/base_masked.py.
"""

import dataclasses

from mhmoe_jax.data.config import DataConfig
from mhmoe_jax.data.images import masks
from mhmoe_jax.data.images.augment import AugmentConfig
from mhmoe_jax.data.images.sources import PictureConfig

CODES = ("kmeans", "vqvae")


@dataclasses.dataclass(frozen=True)
class MaskConfig:
  """How much is hidden of each kind of example, and how.

  Attributes:
    patches: "blocks" or "random", how masked patches lie.
    image: share of the patches of a picture alone, in (0, 1).
    text: share of the tokens of a text alone.
    pair_image: share of the patches of a picture with a text.
    pair_text: share of the tokens of a text with a picture.
    random_share: of the masked tokens, which become any token.
    kept_share: of the masked tokens, which stay visible.
  """

  patches: str
  image: float
  text: float
  pair_image: float
  pair_text: float
  random_share: float
  kept_share: float

  def __post_init__(self):
    if self.patches not in masks.KINDS:
      raise ValueError(
        f"patches must be one of {', '.join(masks.KINDS)}, got {self.patches!r}."
      )
    for name in ("image", "text", "pair_image", "pair_text"):
      if not 0 < getattr(self, name) < 1:
        raise ValueError(
          f"mask ratios must be between 0 and 1, got {name}={getattr(self, name)}."
        )
    shares = self.random_share, self.kept_share
    if min(shares) < 0 or sum(shares) > 1:
      raise ValueError(
        "random_share and kept_share must be at least 0 and at most 1 together, got "
        f"random_share={self.random_share}, kept_share={self.kept_share}."
      )


@dataclasses.dataclass(frozen=True)
class CodesConfig:
  """The visual vocabulary of which the model tells masked patches.

  Attributes:
    path: folder that `mhmoe image-tokenizer` wrote; empty: one is fitted when a run
      begins, and kept in the run's folder.
    kind: of that one, "kmeans" or "vqvae".
    steps: rounds of k-means, or steps of a VQ-VAE; 0: 20, or 1,000.
    num_pictures: that it is fitted to.
  """

  path: str
  kind: str
  steps: int
  num_pictures: int

  def __post_init__(self):
    if self.kind not in CODES:
      raise ValueError(f"kind must be one of {', '.join(CODES)}, got {self.kind!r}.")
    for name, least in (("steps", 0), ("num_pictures", 1)):
      if getattr(self, name) < least:
        raise ValueError(
          f"{name} must be at least {least}, got {name}={getattr(self, name)}."
        )


@dataclasses.dataclass(frozen=True)
class MaskedDataConfig:
  """Where pictures and texts come from, and what becomes of them.

  Attributes:
    images: pictures alone.
    pairs: pictures with a text each.
    text: text alone. Its vocabulary is that of the pairs, too.
    augment: what training does to pictures alone.
    pair_augment: what it does to pictures with a text.
    mask: what is hidden.
    codes: the visual vocabulary.
    pair_length: tokens of a text with a picture, its first and last one included.
    cut_pairs: cut texts that are longer; else they are errors.
    streams: parts of a batch with a place of their own; `text.streams`, too.
    seed: of the order of pictures and of all masks.
  """

  images: PictureConfig
  pairs: PictureConfig
  text: DataConfig
  augment: AugmentConfig
  pair_augment: AugmentConfig
  mask: MaskConfig
  codes: CodesConfig
  pair_length: int
  cut_pairs: bool
  streams: int
  seed: int

  def __post_init__(self):
    if self.pair_length < 3:
      raise ValueError(
        "pair_length must be at least 3, for a token between the first and the last, "
        f"got pair_length={self.pair_length}."
      )
    if self.streams != self.text.streams:
      raise ValueError(
        "data.streams and data.text.streams must be the same, got "
        f"{self.streams} and {self.text.streams}."
      )
    if not self.pairs.text_key:
      raise ValueError("data.pairs needs a text_key, got text_key=''.")
    if not 0 <= self.seed < 2**32 - 1:
      raise ValueError(f"data.seed must be in [0, 2**32 - 1), got seed={self.seed}.")
