"""Crops, flips and colours: worked by hand, and what evaluation does instead."""

import numpy as np
import pytest

from mhmoe_jax.data.images.augment import AugmentConfig, augment, squash
from mhmoe_jax.data.images.shapes import random_state

NOTHING = AugmentConfig(least_area=1.0, flip=False, jitter=0.0)


def ramp(height, width):
  """A picture whose red is its column and whose green is its row."""
  rows, columns = np.mgrid[:height, :width]
  return np.stack([columns, rows, rows * 0], axis=-1).astype(np.uint8)


def test_nothing_is_nothing():
  np.testing.assert_array_equal(
    augment(ramp(8, 8), 8, NOTHING, random_state(0)), ramp(8, 8)
  )


def test_evaluation_squashes_to_the_square():
  found = squash(ramp(100, 200), 50)
  assert found.shape == (50, 50, 3)
  assert found.dtype == np.uint8
  assert abs(found[25, 25].astype(int) - [102, 51, 0]).max() <= 1
  assert found[0, 0, 0] < 3
  assert found[-1, -1, 0] > 196


def test_flips_are_mirrors_and_every_second_picture():
  config = AugmentConfig(least_area=1.0, flip=True, jitter=0.0)
  made = [augment(ramp(8, 8), 8, config, random_state(i)) for i in range(200)]
  mirrored = [np.array_equal(m, ramp(8, 8)[:, ::-1]) for m in made]
  same = [np.array_equal(m, ramp(8, 8)) for m in made]
  assert sum(mirrored) + sum(same) == 200
  assert 70 < sum(mirrored) < 130


@pytest.mark.parametrize("shape", [(100, 100), (60, 200)])
def test_crops_keep_their_share_and_lie_inside(shape):
  config = AugmentConfig(least_area=0.3, flip=False, jitter=0.0)
  areas, edges = [], []
  for i in range(200):
    found = augment(ramp(*shape), 64, config, random_state(i)).astype(float)
    edges.append((found[32, 0, 0], found[0, 32, 1]))
    width = (found[32, -1, 0] - found[32, 0, 0]) * 64 / 63
    height = (found[-1, 32, 1] - found[0, 32, 1]) * 64 / 63
    areas.append(width * height / (shape[0] * shape[1]))
  assert min(areas) > 0.25
  # Of a long picture the largest crop of 4 : 3.
  assert max(areas) <= 1.05 * min(1, shape[0] * 4 / 3 / shape[1])
  assert np.std(areas) > 0.02
  assert (np.ptp(edges, axis=0) > 5).all()  # They lie everywhere.


def test_a_picture_too_long_for_any_crop_gives_its_middle():
  config = AugmentConfig(least_area=0.9, flip=False, jitter=0.0)
  found = augment(ramp(10, 250), 10, config, random_state(0))
  np.testing.assert_array_equal(found[0, :, 0], np.arange(120, 130))


def test_jitter_keeps_black_and_moves_the_rest_by_its_bounds():
  config = AugmentConfig(least_area=1.0, flip=False, jitter=0.4)
  grey = np.full((4, 4, 3), 100, np.uint8)
  found = [augment(grey, 4, config, random_state(i)) for i in range(100)]
  levels = np.array([picture[0, 0] for picture in found])
  assert (levels[:, 0] == levels[:, 1]).all()  # grey stays grey
  assert levels.min() >= 60
  assert levels.max() <= 140
  assert levels.min() < 70
  assert levels.max() > 130
  black = np.zeros((4, 4, 3), np.uint8)
  assert augment(black, 4, config, random_state(0)).max() == 0


def test_jitter_by_hand():
  """Brightness 1.2, contrast 0.5 about the mean grey, saturation 2 about each grey."""

  class Draw:
    def uniform(self, low, high, count):
      assert (low, high, count) == (0.6, 1.4, 3)
      return np.array([1.2, 0.5, 2.0])

  config = AugmentConfig(least_area=1.0, flip=False, jitter=0.4)
  picture = np.array([[[100, 50, 0], [0, 50, 100]]] * 2, np.uint8)
  found = augment(picture, 2, config, Draw())
  # Brighter (120, 60, 0) and (0, 60, 120), whose greys are 71.1 and 48.9; towards 60
  # (90, 60, 30) and (30, 60, 90), whose greys are 65.55 and 54.45; then away from them.
  assert found[0].tolist() == [[114, 54, 0], [6, 66, 126]]


@pytest.mark.parametrize(
  ("field", "value"),
  [("least_area", 0.0), ("least_area", 1.5), ("jitter", 1.0), ("randaugment", -1)],
)
def test_bad_values(field, value):
  with pytest.raises(
    ValueError, match=f"{field} must be (in|at) .* got {field}={value}"
  ):
    AugmentConfig(**{"least_area": 1.0, "flip": True, "jitter": 0.0, field: value})
