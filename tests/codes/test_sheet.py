"""A sheet shows every picture beside what became of it."""

import numpy as np
from PIL import Image
import pytest

from mhmoe_jax.codes import sheet

RED, BLUE = (250, 0, 0), (0, 0, 250)


def block_of(picture, color):
  """Edges of the rectangle of a colour, which has no other pixel in it."""
  rows, columns = np.nonzero((picture == color).all(axis=-1))
  edges = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
  assert len(rows) == (edges[1] - edges[0]) * (edges[3] - edges[2])
  return edges


def test_a_pair_stands_side_by_side_of_one_size():
  originals, drawn = (np.full((1, 32, 32, 3), c, np.uint8) for c in (RED, BLUE))
  groups = {"original": originals, "from its codes": drawn}
  picture = sheet.draw_sheet(groups, "a title", "and more")
  top, bottom, left, right = block_of(picture, RED)
  assert (bottom - top, right - left) == (160, 160)  # 32 pixels, magnified by 5
  other = block_of(picture, BLUE)
  assert other[:2] == (top, bottom)
  assert right < other[2]
  assert other[3] < picture.shape[1]
  # Each has its label above it.
  for first, last in ((left, right), other[2:]):
    assert (picture[top - 22 : top - 2, first:last] < 200).any()


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (3, 1), (4, 2)])
def test_pictures_are_magnified_as_they_are(count, rows):
  draw = np.random.RandomState(0)
  originals = draw.randint(0, 256, (count, 16, 16, 3)).astype(np.uint8)
  picture = sheet.draw_sheet({"one": originals, "other": 255 - originals}, "title", "")
  large = originals.repeat(10, axis=1).repeat(10, axis=2)
  at = [find(picture, x) for x in large]
  assert len({y for y, _ in at}) == rows
  assert all(find(picture, 255 - x) for x in large)


def find(picture, part):
  """Where a part is: row and column of its corner."""
  height, width = part.shape[:2]
  corners = np.argwhere((picture[:-height, :-width] == part[0, 0]).all(axis=-1))
  found = [
    (y, x) for y, x in corners if (picture[y : y + height, x : x + width] == part).all()
  ]
  assert len(found) == 1
  return found[0]


def test_written_and_read(tmp_path):
  picture = np.random.RandomState(0).randint(0, 256, (9, 7, 3)).astype(np.uint8)
  sheet.write_png(str(tmp_path / "a.png"), picture)
  np.testing.assert_array_equal(Image.open(tmp_path / "a.png"), picture)
