"""What fine-tuned tasks read. Defaults live in configs/base_finetune.py."""

import dataclasses

from mhmoe_jax.data.images.augment import AugmentConfig
from mhmoe_jax.data.images.sources import PictureConfig


@dataclasses.dataclass(frozen=True)
class PicturedConfig:
  """Pictures, each with a text; what else is in an index is the task's.

  Attributes:
    pictures: where they are; `pictures.text_key` is the field of the text.
    augment: what training does to pictures.
    vocabulary: of the text, as in `DataConfig`.
    text_length: tokens of a text, its first and last one included.
    cut_texts: cut texts that are longer; else they are errors.
    streams: parts of a batch with a place of their own.
    seed: of the order of pictures, and of all that is drawn.
  """

  pictures: PictureConfig
  augment: AugmentConfig
  vocabulary: str
  text_length: int
  cut_texts: bool
  streams: int
  seed: int

  def __post_init__(self):
    if self.text_length < 3:
      raise ValueError(
        "text_length must be at least 3, for a token between the first and the last, "
        f"got text_length={self.text_length}."
      )
    if not self.pictures.text_key:
      raise ValueError("data.pictures needs a text_key, got text_key=''.")
    if not 0 <= self.seed < 2**32:
      raise ValueError(f"data.seed must be in [0, 2**32), got seed={self.seed}.")
