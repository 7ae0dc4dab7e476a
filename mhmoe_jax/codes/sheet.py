"""Pictures side by side, such as originals and what a visual vocabulary keeps of them.

With Pillow, in rows of groups, magnified without smoothing so that patches are seen.
"""

from collections.abc import Mapping

from etils import epath
import numpy as np
from PIL import Image, ImageDraw, ImageFont

_INK, _PAPER, _SOFT = (35, 35, 35), (255, 255, 255), (120, 120, 120)
_SIDE = 160  # of a picture on the sheet, pixels, more or less
_MARGIN, _BETWEEN, _GAP, _TITLE, _LABEL = 24, 14, 4, 64, 22
_FONT, _SMALL = ImageFont.load_default(18), ImageFont.load_default(13)


def draw_sheet(
  groups: Mapping[str, np.ndarray], title: str, subtitle: str, columns: int = 3
) -> np.ndarray:
  """Groups of pictures in rows.

  Args:
    groups: uint8 (N, Y, X, 3) by label; picture n of each is in group n.
    title: the first line.
    subtitle: the second line, smaller.
    columns: groups in a row.

  Returns:
    uint8 (height, width, 3).
  """
  count, height, width = next(iter(groups.values())).shape[:3]
  columns = min(columns, count)
  scale = max(1, round(_SIDE / height))
  wide, high = width * scale, height * scale
  group = len(groups) * (wide + _GAP) - _GAP + 2 * _BETWEEN
  rows = -(-count // columns)
  total = (
    2 * _MARGIN + columns * group - 2 * _BETWEEN,
    _MARGIN + _TITLE + _LABEL + rows * (high + _BETWEEN) - _BETWEEN + _MARGIN,
  )
  sheet = Image.new("RGB", total, _PAPER)
  pen = ImageDraw.Draw(sheet)
  pen.text((_MARGIN, _MARGIN - 6), title, fill=_INK, font=_FONT)
  pen.text((_MARGIN, _MARGIN + 22), subtitle, fill=_SOFT, font=_SMALL)
  top = _MARGIN + _TITLE + _LABEL
  for column in range(columns):
    for nth, label in enumerate(groups):
      x = _MARGIN + column * group + nth * (wide + _GAP)
      pen.text((x, top - _LABEL), label, fill=_SOFT, font=_SMALL)
  for i in range(count):
    row, column = divmod(i, columns)
    for nth, pictures_NYXC in enumerate(groups.values()):
      x = _MARGIN + column * group + nth * (wide + _GAP)
      picture = Image.fromarray(pictures_NYXC[i])
      big = picture.resize((wide, high), Image.Resampling.NEAREST)
      sheet.paste(big, (x, top + row * (high + _BETWEEN)))
  return np.asarray(sheet)


def write_png(path: str, picture: np.ndarray) -> None:
  """Writes uint8 (height, width, 3), to a disk or a bucket."""
  with epath.Path(path).open("wb") as file:
    Image.fromarray(picture).save(file, "png")
