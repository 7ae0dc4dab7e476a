"""RandAugment (1909.13719) as BEiT-3's released fine-tuning has it: ten operations.

Of those of the paper without colours that turn into others (solarise, posterise,
invert, colour), so that what is red stays red.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

_CHANCE = 0.5  # that a drawn operation is done
_GREY = (128, 128, 128)  # of what comes into view
_DEGREES = 21.0  # magnitude 7 of 10, of 30 degrees
_SHEAR = 0.21  # of 0.3
_SHIFT = 7 / 224  # of the side; there 7 of 10 pixels, of pictures of 224
_FACTOR = 1.36  # of brightness and sharpness: 0.1 + 0.7 * 1.8


def randaugment(
  picture: np.ndarray, num_operations: int, draw: np.random.RandomState
) -> np.ndarray:
  """Does `num_operations` of `OPERATIONS`, drawn with replacement, each at even odds.

  Args:
    picture: uint8 (H, W, 3).
    num_operations: that are drawn; BEiT-3 draws 2, at magnitude 7.
    draw: decides which, whether, and in which direction.

  Returns:
    uint8 (H, W, 3).
  """
  changed = Image.fromarray(picture)
  for name in draw.choice(list(OPERATIONS), num_operations):
    if draw.random_sample() < _CHANCE:
      sign = 1 if draw.randint(2) else -1
      changed = OPERATIONS[name](changed, sign)
  return np.asarray(changed)


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
  return image.transform(
    image.size,
    Image.Transform.AFFINE,
    matrix,
    Image.Resampling.BILINEAR,
    fillcolor=_GREY,
  )


# What each does, with the direction of those that have one, 1 or -1.
OPERATIONS: dict[str, Callable[[Image.Image, int], Image.Image]] = {
  "identity": lambda image, sign: image,
  "autocontrast": lambda image, sign: ImageOps.autocontrast(image),
  "equalize": lambda image, sign: ImageOps.equalize(image),
  "brightness": lambda image, sign: ImageEnhance.Brightness(image).enhance(_FACTOR),
  "sharpness": lambda image, sign: ImageEnhance.Sharpness(image).enhance(_FACTOR),
  "shear_x": lambda image, sign: _affine(image, (1, sign * _SHEAR, 0, 0, 1, 0)),
  "shear_y": lambda image, sign: _affine(image, (1, 0, 0, sign * _SHEAR, 1, 0)),
  "translate_x": lambda image, sign: _affine(
    image, (1, 0, sign * _SHIFT * image.width, 0, 1, 0)
  ),
  "translate_y": lambda image, sign: _affine(
    image, (1, 0, 0, 0, 1, sign * _SHIFT * image.height)
  ),
  "rotate": lambda image, sign: image.rotate(
    sign * _DEGREES, Image.Resampling.BILINEAR, fillcolor=_GREY
  ),
}
