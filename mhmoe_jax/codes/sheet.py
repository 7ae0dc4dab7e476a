"""A picture of what a visual vocabulary keeps: originals beside what is drawn of them.

With Pillow, in rows of pairs, magnified without smoothing so that patches are seen.
"""

from etils import epath
import numpy as np
from PIL import Image, ImageDraw, ImageFont

_INK, _PAPER, _SOFT = (35, 35, 35), (255, 255, 255), (120, 120, 120)
_SIDE = 160  # of a picture on the sheet, pixels, more or less
_MARGIN, _BETWEEN, _PAIR_GAP, _TITLE, _LABEL = 24, 14, 4, 64, 22
_FONT, _SMALL = ImageFont.load_default(18), ImageFont.load_default(13)


def draw_sheet(
  originals_NYXC: np.ndarray,
  drawn_NYXC: np.ndarray,
  title: str,
  subtitle: str,
  columns: int = 3,
) -> np.ndarray:
  """Pairs of pictures in rows.

  Args:
    originals_NYXC: uint8.
    drawn_NYXC: uint8, the same pictures from their codes.
    title: the first line.
    subtitle: the second line, smaller.
    columns: pairs in a row.

  Returns:
    uint8 (height, width, 3).
  """
  count, height, width = originals_NYXC.shape[:3]
  columns = min(columns, count)
  scale = max(1, round(_SIDE / height))
  wide, high = width * scale, height * scale
  pair = 2 * wide + _PAIR_GAP + 2 * _BETWEEN
  rows = -(-count // columns)
  total = (
    2 * _MARGIN + columns * pair - 2 * _BETWEEN,
    _MARGIN + _TITLE + _LABEL + rows * (high + _BETWEEN) - _BETWEEN + _MARGIN,
  )
  sheet = Image.new("RGB", total, _PAPER)
  pen = ImageDraw.Draw(sheet)
  pen.text((_MARGIN, _MARGIN - 6), title, fill=_INK, font=_FONT)
  pen.text((_MARGIN, _MARGIN + 22), subtitle, fill=_SOFT, font=_SMALL)
  top = _MARGIN + _TITLE + _LABEL
  for column in range(columns):
    for side, label in enumerate(("original", "from its codes")):
      x = _MARGIN + column * pair + side * (wide + _PAIR_GAP)
      pen.text((x, top - _LABEL), label, fill=_SOFT, font=_SMALL)
  for i in range(count):
    row, column = divmod(i, columns)
    for side, picture in enumerate((originals_NYXC[i], drawn_NYXC[i])):
      x = _MARGIN + column * pair + side * (wide + _PAIR_GAP)
      big = Image.fromarray(picture).resize((wide, high), Image.Resampling.NEAREST)
      sheet.paste(big, (x, top + row * (high + _BETWEEN)))
  return np.asarray(sheet)


def write_png(path: str, picture: np.ndarray) -> None:
  """Writes uint8 (height, width, 3), to a disk or a bucket."""
  with epath.Path(path).open("wb") as file:
    Image.fromarray(picture).save(file, "png")
