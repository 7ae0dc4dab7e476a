"""Pictures of routing for TensorBoard, drawn in a few milliseconds while a run trains.

With Pillow, because matplotlib takes ten times as long and training should not wait.
Scales are the same at every step, so that moving TensorBoard's slider shows what
changed. Figures for reading are in `analysis/figures.py`.

N MoE layers, E experts.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_INK, _PAPER, _FAINT = (40, 40, 40), (255, 255, 255), (225, 225, 225)
_BAR = (33, 113, 181)
# From nothing to much, dark to light, as matplotlib's viridis, at equal distances.
_COLOURS = np.array(
  [(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)]
)
_TOP = 3.0  # even shares, from which on all loads look alike
_FONT_SIZE = 12
_WIDTH = 640  # of the plot in pixels, more or less
_HEIGHT = 480
_LEFT, _ABOVE, _BELOW, _RIGHT = 70, 26, 40, 16


def draw_load(load_NE: np.ndarray, blocks: Sequence[int]) -> np.ndarray:
  """A heat map, MoE layers down and experts across, with numbers where they fit.

  Args:
    load_NE: share of a layer's choices that fell on each expert; rows sum to 1.
    blocks: number of the block that each MoE layer is in.

  Returns:
    uint8, (height, width, 3); colours from 0 to 3 even shares, 1 / E, and above.
  """
  N, E = load_NE.shape
  shares_NE = np.asarray(load_NE, np.float64) * E
  wide, high = int(np.clip(_WIDTH // E, 2, 40)), int(np.clip(_HEIGHT // N, 6, 28))
  canvas = _Canvas(E * wide, N * high, "load of the experts, in even shares")
  cells = _colour(shares_NE).repeat(high, axis=0).repeat(wide, axis=1)
  canvas.paste(cells, 0, 0)
  canvas.label_rows(blocks, high)
  canvas.label_columns(range(E), wide, "expert")
  if wide >= 26 and high >= 14:
    for (n, e), share in np.ndenumerate(shares_NE):
      ink = _INK if share > _TOP / 2 else _PAPER
      canvas.write((e + 0.5) * wide, (n + 0.5) * high, f"{share:.1f}", ink)
  for step in range(int(_TOP) + 1):  # the key to the colours, beside the axis' name
    x, colour = E * wide - (int(_TOP) + 1 - step) * 30, _colour(np.full((1, 1), step))
    canvas.paste(colour.repeat(12, axis=0).repeat(10, axis=1), x, N * high + 24)
    canvas.write(x + 13, N * high + 30, f"{step}{'+' * (step == _TOP)}", anchor="lm")
  return canvas.pixels()


def draw_distinct(share_NX: np.ndarray, blocks: Sequence[int]) -> np.ndarray:
  """A histogram for each MoE layer: how many different experts the tokens reach.

  Args:
    share_NX: share of the tokens that reach 1, 2, ... experts; rows sum to 1.
    blocks: number of the block that each MoE layer is in.

  Returns:
    uint8, (height, width, 3); the height of a row stands for all tokens.
  """
  N, X = share_NX.shape
  wide, high = int(np.clip(_WIDTH // X, 6, 60)), int(np.clip(_HEIGHT // N, 24, 96))
  canvas = _Canvas(X * wide, N * high, "tokens that reach so many different experts")
  full = high - 4  # pixels of a bar of all tokens
  for n, share_X in enumerate(np.asarray(share_NX, np.float64)):
    floor = (n + 1) * high - 1
    canvas.fill(0, floor, X * wide, floor + 1, _FAINT)
    for x, share in enumerate(share_X):
      top = floor - round(full * share)
      canvas.fill(x * wide + 2, top, (x + 1) * wide - 2, floor, _BAR)
      if wide >= 36 and high >= 32 and share >= 0.005:
        inside = floor - top > high - 18
        at, ink = (top + 8, _PAPER) if inside else (top - 8, _INK)
        canvas.write((x + 0.5) * wide, at, f"{share:.0%}", ink)
  canvas.label_rows(blocks, high)
  canvas.label_columns(range(1, X + 1), wide, "different experts")
  return canvas.pixels()


def _colour(shares_YX: np.ndarray) -> np.ndarray:
  """Colours of loads in even shares, uint8 (Y, X, 3)."""
  place_YX = np.clip(shares_YX / _TOP, 0, 1) * (len(_COLOURS) - 1)
  low_YX = np.minimum(place_YX.astype(int), len(_COLOURS) - 2)
  rest_YX1 = (place_YX - low_YX)[..., None]
  mixed = _COLOURS[low_YX] * (1 - rest_YX1) + _COLOURS[low_YX + 1] * rest_YX1
  return mixed.round().astype(np.uint8)


class _Canvas:
  """A plot of `width` x `height` pixels with room for a title and two axes.

  Coordinates are pixels right of and below the plot's corner.
  """

  def __init__(self, width: int, height: int, title: str):
    self._width, self._height = width, height
    self._font = ImageFont.load_default(_FONT_SIZE)
    title_width = self._font.getlength(title)
    size = (
      _LEFT + round(max(width, title_width, 240)) + _RIGHT,
      _ABOVE + height + _BELOW,
    )
    self._image = Image.new("RGB", size, _PAPER)
    self._draw = ImageDraw.Draw(self._image)
    self.write(0, -_ABOVE / 2, title, anchor="lm")

  def write(self, x: float, y: float, text: str, ink=_INK, anchor: str = "mm") -> None:
    place = (_LEFT + x, _ABOVE + y)
    self._draw.text(place, text, fill=ink, font=self._font, anchor=anchor)

  def fill(self, left: int, top: int, right: int, bottom: int, colour) -> None:
    """Fills a rectangle; `right` and `bottom` are the first that are outside."""
    if right > left and bottom > top:
      box = (_LEFT + left, _ABOVE + top, _LEFT + right - 1, _ABOVE + bottom - 1)
      self._draw.rectangle(box, fill=colour)

  def paste(self, pixels: np.ndarray, x: int, y: int) -> None:
    self._image.paste(Image.fromarray(pixels), (_LEFT + x, _ABOVE + y))

  def label_rows(self, blocks: Sequence[int], high: int) -> None:
    every = -(-14 // high)
    for n in range(0, len(blocks), every):
      self.write(-6, (n + 0.5) * high, f"block {blocks[n]}", anchor="rm")

  def label_columns(self, numbers: Sequence[int], wide: int, name: str) -> None:
    every = next(k for k in (1, 2, 4, 8, 16, 32, 64, 128) if k * wide >= 26)
    for i in range(0, len(numbers), every):
      self.write((i + 0.5) * wide, self._height + 10, str(numbers[i]))
    self.write(0, self._height + 30, name, anchor="lm")

  def pixels(self) -> np.ndarray:
    return np.asarray(self._image)
