"""What happens to a picture before a model sees it, in training and in evaluation.

Training: random resized crop (1409.4842), horizontal flip, colour jitter, as BEiT-3
pre-trains (2208.10442 Table 11), RandAugment, as it fine-tunes. Evaluation: the whole
picture, squashed to the square. All that is random comes from the RandomState that is
given.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from PIL import Image

from mhmoe_jax.data.images.randaugment import randaugment

_ASPECTS = math.log(3 / 4), math.log(4 / 3)
_TRIES = 10


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
  """How pictures are changed in training.

  Attributes:
    least_area: smallest share of the picture that a crop keeps, in (0, 1]; 1: no crop.
    flip: mirror every second picture; wrong where text says left and right.
    jitter: brightness, contrast and saturation are multiplied by factors of at most
      1 + jitter and at least 1 - jitter, in [0, 1); wrong where text names colours.
    randaugment: operations of RandAugment that are drawn for each picture; 0: none.
  """

  least_area: float
  flip: bool
  jitter: float
  randaugment: int = 0

  def __post_init__(self):
    if not 0 < self.least_area <= 1:
      raise ValueError(
        f"least_area must be in (0, 1], got least_area={self.least_area}."
      )
    if not 0 <= self.jitter < 1:
      raise ValueError(f"jitter must be in [0, 1), got jitter={self.jitter}.")
    if self.randaugment < 0:
      raise ValueError(
        f"randaugment must be at least 0, got randaugment={self.randaugment}."
      )

  def describe(self) -> dict[str, Any]:
    """What decides a picture, as JSON values; older runs know no RandAugment."""
    return {
      name: value
      for name, value in dataclasses.asdict(self).items()
      if value or name != "randaugment"
    }


def squash(picture: np.ndarray, size: int) -> np.ndarray:
  """The whole picture as a square, uint8 (size, size, 3)."""
  return _resize(picture, (0, 0, picture.shape[1], picture.shape[0]), size)


def augment(
  picture: np.ndarray, size: int, config: AugmentConfig, draw: np.random.RandomState
) -> np.ndarray:
  """A picture for training, uint8 (size, size, 3)."""
  changed = _resize(picture, _draw_box(picture, config.least_area, draw), size)
  if config.flip and draw.randint(2):
    changed = changed[:, ::-1]
  if config.jitter:
    changed = _jitter(changed, config.jitter, draw)
  if config.randaugment:
    changed = randaugment(changed, config.randaugment, draw)
  return np.ascontiguousarray(changed)


def _draw_box(
  picture: np.ndarray, least_area: float, draw: np.random.RandomState
) -> tuple[int, int, int, int]:
  """The left, upper, right and lower edge of a crop."""
  height, width = picture.shape[:2]
  if least_area == 1:
    return 0, 0, width, height
  for _ in range(_TRIES):
    area = draw.uniform(least_area, 1) * height * width
    aspect = math.exp(draw.uniform(*_ASPECTS))
    w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if 0 < w <= width and 0 < h <= height:
      left, top = draw.randint(width - w + 1), draw.randint(height - h + 1)
      return left, top, left + w, top + h
  side = min(height, width)  # A picture so long that no crop fits: its middle.
  left, top = (width - side) // 2, (height - side) // 2
  return left, top, left + side, top + side


def _resize(picture: np.ndarray, box: tuple[int, int, int, int], size: int):
  if box == (0, 0, size, size) and picture.shape[:2] == (size, size):
    return picture
  resized = Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC, box)
  return np.asarray(resized)


def _jitter(picture: np.ndarray, jitter: float, draw: np.random.RandomState):
  brightness, contrast, saturation = draw.uniform(1 - jitter, 1 + jitter, 3)
  wide = picture * brightness
  wide = (wide - _grey(wide).mean()) * contrast + _grey(wide).mean()
  grey = _grey(wide)[..., None]
  wide = (wide - grey) * saturation + grey
  return np.clip(np.rint(wide), 0, 255).astype(np.uint8)


def _grey(picture: np.ndarray) -> np.ndarray:
  return picture @ np.array([0.299, 0.587, 0.114])  # luma of ITU-R BT.601
