"""Which patches of a picture a model has to fill in: blocks, or one by one.

Both masks have an exact count, so that the places to predict are an array of static
shape. Block-wise is BEiT's (2106.08254 Algorithm 1, with the bounds of BEiT v2's code):
neighbours look alike, so that a patch masked alone is easy to guess.
"""

import math

import numpy as np

KINDS = ("blocks", "random")
_ASPECTS = math.log(0.3), math.log(1 / 0.3)  # of blocks, height over width
_TRIES = 10


def count_masked(ratio: float, num_patches: int) -> int:
  """The number of masked patches: the ratio's share, rounded, and never none or all.

  Raises:
    ValueError: the ratio is not between 0 and 1.
  """
  if not 0 < ratio < 1:
    raise ValueError(f"mask ratios must be between 0 and 1, got {ratio}.")
  return min(max(round(ratio * num_patches), 1), num_patches - 1)


def draw_mask(
  draw: np.random.RandomState, kind: str, rows: int, columns: int, count: int
) -> np.ndarray:
  """A mask with exactly `count` True, bool (rows, columns).

  Args:
    draw: where its randomness is from.
    kind: "blocks" or "random".
    rows: of patches.
    columns: of patches.
    count: of masked patches, at most all.
  """
  mask = np.zeros((rows, columns), bool)
  if kind == "blocks":
    least = max(1, round(16 / 196 * rows * columns))  # 16 of 14 x 14 in BEiT v2
    while _add_block(draw, mask, least, count - int(mask.sum())):
      pass
  flat = mask.reshape(-1)
  missing = count - int(flat.sum())
  flat[draw.permutation(np.flatnonzero(~flat))[:missing]] = True
  return mask


def _add_block(
  draw: np.random.RandomState, mask: np.ndarray, least: int, left: int
) -> bool:
  """Masks one more rectangle of at most `left` new patches; False if none fits."""
  rows, columns = mask.shape
  if left < 1:
    return False
  for _ in range(_TRIES):
    area = draw.uniform(min(least, left), left)
    aspect = math.exp(draw.uniform(*_ASPECTS))
    height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if not (0 < height < rows and 0 < width < columns):
      continue
    top, start = draw.randint(rows - height + 1), draw.randint(columns - width + 1)
    block = mask[top : top + height, start : start + width]
    if 0 < (~block).sum() <= left:
      block[:] = True
      return True
  return False
