"""RandAugment: each operation by hand, and how often each is done."""

import collections

import numpy as np
from PIL import Image
import pytest

from mhmoe_jax.data.images import randaugment as module
from mhmoe_jax.data.images.augment import AugmentConfig, augment
from mhmoe_jax.data.images.randaugment import OPERATIONS, randaugment
from mhmoe_jax.data.images.shapes import random_state


def done(name, picture, sign=1):
  return np.asarray(OPERATIONS[name](Image.fromarray(picture), sign)).astype(int)


def grey(rows):
  return np.repeat(np.array(rows, np.uint8)[..., None], 3, axis=-1)


def test_levels_by_hand():
  """Brightness times 1.36; autocontrast and equalize spread what there is."""
  picture = grey([[50, 100], [150, 200]])
  assert done("identity", picture)[..., 0].tolist() == [[50, 100], [150, 200]]
  assert done("brightness", picture)[..., 0].tolist() == [[68, 136], [204, 255]]
  assert done("autocontrast", picture)[..., 0].tolist() == [[0, 85], [170, 255]]
  # 256 pixels of each of four levels, 768 // 255 of them a step.
  levels = np.repeat(grey([[10, 11, 12, 13]]), 256, axis=0)
  assert done("equalize", levels)[0, :, 0].tolist() == [0, 85, 171, 255]


def test_sharpness_by_hand():
  """What differs from the mean of its neighbourhood (weights 1, itself 5) grows."""
  picture = np.full((5, 5, 3), 100, np.uint8)
  picture[2, 2] = 113
  found = done("sharpness", picture)
  smooth = 100 + 13 * 5 / 13
  assert abs(found[2, 2, 0] - (smooth + 1.36 * (113 - smooth))) <= 1
  assert (found[0] == 100).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_shifts_by_hand(sign):
  """7 of 224 pixels to one side or the other; grey comes into view."""
  picture = np.zeros((224, 224, 3), np.uint8)
  picture[100, 50] = 255
  for name, (row, column) in (
    ("translate_x", (100, 50 - 7 * sign)),
    ("translate_y", (100 - 7 * sign, 50)),
  ):
    found = done(name, picture, sign)
    assert np.argwhere(found[..., 0] == 255).tolist() == [[row, column]]
    assert (found == 128).all(axis=-1).sum() == 7 * 224


@pytest.mark.parametrize("sign", [1, -1])
def test_shears_and_turns_by_hand(sign):
  picture = np.zeros((200, 200, 3), np.uint8)
  picture[100:104, 40:44] = 255
  places = {}
  for name in ("shear_x", "shear_y", "rotate"):
    found = np.where(done(name, picture, sign) == 128, 0, done(name, picture, sign))
    rows, columns = np.mgrid[:200, :200]
    mass = found[..., 0].astype(float)
    places[name] = (rows * mass).sum() / mass.sum(), (columns * mass).sum() / mass.sum()
  row, column = 101.5, 41.5
  shear = 0.21 * sign
  assert np.allclose(places["shear_x"], (row, column - shear * (row + 0.5)), atol=0.6)
  assert np.allclose(
    places["shear_y"], (row - shear * (column + 0.5), column), atol=0.6
  )
  angle = np.deg2rad(21.0) * sign  # against the clock
  y, x = row - 99.5, column - 99.5
  turned = 99.5 + np.array(
    [y * np.cos(angle) - x * np.sin(angle), x * np.cos(angle) + y * np.sin(angle)]
  )
  assert np.allclose(places["rotate"], turned, atol=0.6)


def test_each_is_done_as_often_as_the_others(monkeypatch):
  """Two of ten drawn, each at even odds: a tenth of a time a picture."""
  times = collections.Counter()

  def count(name):
    def operation(image, sign):
      times[name, sign] += 1
      return image

    return operation

  monkeypatch.setattr(module, "OPERATIONS", {name: count(name) for name in OPERATIONS})
  draw = random_state(0)
  for _ in range(4_000):
    randaugment(np.zeros((2, 2, 3), np.uint8), 2, draw)
  assert len(times) == 20
  assert min(times.values()) > 150
  assert max(times.values()) < 250


def test_augment_draws_what_it_is_asked_to():
  picture = random_state(1).randint(0, 256, (16, 16, 3)).astype(np.uint8)
  config = AugmentConfig(least_area=1.0, flip=False, jitter=0.0, randaugment=2)
  made = [augment(picture, 16, config, random_state(i)) for i in range(40)]
  again = [augment(picture, 16, config, random_state(i)) for i in range(40)]
  np.testing.assert_array_equal(made, again)
  assert 5 < sum(np.array_equal(x, picture) for x in made) < 25  # about 0.30
  # A run from before RandAugment goes on: it was as if there were none.
  assert "randaugment" in config.describe()
  assert "randaugment" not in AugmentConfig(1.0, flip=False, jitter=0.0).describe()
