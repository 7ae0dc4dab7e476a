"""Masks have the exact count, and blocks where blocks are asked for."""

import numpy as np
import pytest

from mhmoe_jax.data.images.masks import count_masked, draw_mask
from mhmoe_jax.data.images.shapes import random_state


def neighbours(mask):
  """Share of the masked patches' right and lower neighbours that are masked, too."""
  pairs = [(mask[:, :-1], mask[:, 1:]), (mask[:-1], mask[1:])]
  return np.concatenate([b[a] for a, b in pairs]).mean()


@pytest.mark.parametrize("kind", ["blocks", "random"])
@pytest.mark.parametrize(
  ("rows", "columns", "count"), [(8, 8, 26), (14, 14, 75), (1, 4, 2)]
)
def test_the_count_is_exact_and_every_mask_another(kind, rows, columns, count):
  masks = [draw_mask(random_state(i), kind, rows, columns, count) for i in range(50)]
  assert all(mask.shape == (rows, columns) for mask in masks)
  assert all(mask.sum() == count for mask in masks)
  if rows > 1:
    assert len({mask.tobytes() for mask in masks}) == 50
  again = draw_mask(random_state(7), kind, rows, columns, count)
  np.testing.assert_array_equal(again, masks[7])


def test_blocks_hang_together():
  def mean(kind):
    masks = [draw_mask(random_state(i), kind, 14, 14, 75) for i in range(50)]
    return np.mean([neighbours(mask) for mask in masks])

  assert mean("random") < 75 / 196 + 0.03  # what chance gives
  assert mean("blocks") > 0.7


def test_masks_are_those_of_saved_runs():
  """A run that goes on must hide what it hid; tall and wide blocks are as frequent."""
  masks = np.array(
    [draw_mask(random_state(i), "blocks", 14, 14, 75) for i in range(200)]
  )
  assert np.flatnonzero(masks[0]).sum() == 6938
  tall = np.mean([m[1:][m[:-1]].mean() for m in masks])
  wide = np.mean([m[:, 1:][m[:, :-1]].mean() for m in masks])
  assert tall == pytest.approx(wide, abs=0.02)


def test_blocks_reach_every_patch_and_the_middle_most_often():
  share = np.mean(
    [draw_mask(random_state(i), "blocks", 8, 8, 26) for i in range(2000)], 0
  )
  assert share.min() > 0.08  # at the corners, which few rectangles cover
  assert share[3:5, 3:5].min() > 0.45
  assert share.max() < 0.75


@pytest.mark.parametrize(
  ("ratio", "patches", "count"),
  [(0.4, 64, 26), (0.4, 196, 78), (0.01, 4, 1), (0.99, 4, 3)],
)
def test_count(ratio, patches, count):
  assert count_masked(ratio, patches) == count


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, float("nan")])
def test_bad_ratios(ratio):
  with pytest.raises(ValueError, match="mask ratios must be between 0 and 1, got"):
    count_masked(ratio, 64)
