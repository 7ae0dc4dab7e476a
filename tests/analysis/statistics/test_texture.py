"""Texture of patches that are drawn by hand."""

import numpy as np
import pytest

from mhmoe_jax.analysis.statistics.texture import (
  measure_texture,
  sort_by_texture,
  to_grey,
)

SIZE = 8


def patches():
  """Flat, a ramp, an edge, stripes, a chessboard; each 8 x 8 and grey."""
  y, x = np.mgrid[:SIZE, :SIZE]
  return {
    "flat": np.full((SIZE, SIZE), 77),
    "ramp": 10 + 9 * x + 5 * y,
    "edge": np.where(x < 4, 20, 220),
    "stripes": np.where(y // 2 % 2, 20, 220),
    "board": np.where((y // 2 + x // 2) % 2, 20, 220),
  }


def in_a_row(made):
  """One picture of patches side by side."""
  row = np.concatenate(list(made.values()), axis=1).astype(np.uint8)
  return np.repeat(row[None, ..., None], 3, axis=3)


def test_each_measure_by_hand():
  made = patches()
  found = measure_texture(in_a_row(made), SIZE)
  measured = {name: [x[0, 0, i] for x in found] for i, name in enumerate(made)}
  flat, ramp, edge, stripes, board = measured.values()
  assert flat[:3] == [0, 0, 0]
  assert np.isnan(flat[3])
  # Of a ramp nothing is left but its slope, which goes one way.
  assert ramp[0] == pytest.approx(np.std(made["ramp"]))
  assert ramp[1] == pytest.approx(0, abs=1e-9)
  assert ramp[2] == pytest.approx(0, abs=1e-3)
  # Deviations do not tell an edge from a texture, the structure tensor does.
  assert edge[0] == pytest.approx(100)
  assert board[0] == pytest.approx(100)
  assert 0 < edge[1] < 100
  assert edge[2:] == [0, 0]
  assert stripes[2:] == [0, 0]
  assert board[3] == pytest.approx(1)
  down, _ = np.gradient(made["board"].astype(float))
  assert board[2] == pytest.approx(np.sqrt((down**2).mean()))


def test_the_plane_is_that_of_least_squares():
  rng = np.random.default_rng(0)
  grey = rng.integers(0, 256, (SIZE, SIZE))
  y, x = np.mgrid[:SIZE, :SIZE]
  design = np.stack([np.ones(SIZE**2), x.ravel(), y.ravel()], axis=1)
  fit = np.linalg.lstsq(design, grey.ravel(), rcond=None)[0]
  found = measure_texture(in_a_row({"noise": grey}), SIZE)
  assert found.detrended_URC[0, 0, 0] == pytest.approx(
    np.std(grey.ravel() - design @ fit)
  )


def test_moving_a_patch_changes_nothing_of_it():
  made = patches()
  order = ["board", "flat", "ramp", "stripes", "edge"]
  before = measure_texture(in_a_row(made), SIZE)
  after = measure_texture(in_a_row({name: made[name] for name in order}), SIZE)
  places = [list(made).index(name) for name in order]
  for x, y in zip(before, after, strict=True):
    np.testing.assert_array_equal(x[0, 0, places], y[0, 0])


def test_grey_is_what_the_eye_sees():
  pixels = np.zeros((1, 4, 4, 3), np.uint8)
  pixels[0, :2, 2:, 1] = 200
  grey = to_grey(pixels, 2)
  assert grey.shape == (1, 2, 2, 2, 2)
  assert np.unique(grey[0, 0, 1]).tolist() == [pytest.approx(0.587 * 200)]
  assert grey.sum() == pytest.approx(4 * 0.587 * 200)


def test_patches_of_one_texture_are_in_one_bin():
  texture_T = np.array([0, 5, 0, 0, 0, 0, 0, 1, 0, 3.0])
  bins = [part.tolist() for part in sort_by_texture(texture_T, 4)]
  assert bins == [[0, 2, 3, 4, 5, 6, 8], [1, 7, 9]]
  halves = sort_by_texture(np.arange(10.0)[::-1], 2)
  assert [part.tolist() for part in halves] == [[5, 6, 7, 8, 9], [0, 1, 2, 3, 4]]
