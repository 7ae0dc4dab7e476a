"""Pictures of loads made by hand, looked at pixel by pixel."""

import numpy as np
import pytest

from mhmoe_jax.train import images

NOTHING, EVEN, MUCH = (68, 1, 84), (50, 103, 139), (253, 231, 37)


def plot_of(image):
  """Without the title and the axes."""
  return image[images._ABOVE : -images._BELOW, images._LEFT : -images._RIGHT]


def test_load_by_block_and_expert():
  # Experts 40 pixels wide, layers 28 high; the corners of cells are free of numbers.
  load_NE = np.array([[0.25, 0.25, 0.25, 0.25], [0.75, 0.25, 0, 0]])
  plot = plot_of(images.draw_load(load_NE, [1, 3]))
  corners = plot[[2, 30]][:, [2, 42, 82, 122]]
  np.testing.assert_allclose(corners[0], [EVEN] * 4, atol=1)
  np.testing.assert_allclose(corners[1], [MUCH, EVEN, NOTHING, NOTHING], atol=1)
  assert len(np.unique(plot[:28, :40].reshape(-1, 3), axis=0)) > 1, "no number"


def test_loads_above_three_even_shares_look_alike():
  three, four = (
    plot_of(images.draw_load(np.array([x]), [0]))[2, 2]
    for x in ([0.75, 0.25, 0, 0], [1.0, 0, 0, 0])
  )
  np.testing.assert_array_equal(three, four)


def test_distinct_experts_by_block():
  share_NX = np.array([[1.0, 0.0], [0.25, 0.75]])
  plot = plot_of(images.draw_distinct(share_NX, [1, 3]))
  # Bars 60 pixels wide, rows 96 high, of which 92 stand for all tokens.
  blue = (plot == images._BAR).all(axis=-1)
  heights = [[blue[y : y + 96, x].sum() for x in (4, 64)] for y in (0, 96)]
  assert heights == [[92, 0], [23, 69]]


@pytest.mark.parametrize(("N", "E"), [(1, 1), (2, 16), (24, 8), (12, 512), (96, 1024)])
def test_any_model_fits(N, E):
  made = images.draw_load(np.full((N, E), 1 / E), range(N))
  assert (made.dtype, made.shape[2]) == (np.uint8, 3)
  assert made.shape[0] <= 800
  assert made.shape[1] <= max(900, 2 * E + 100)
  X = min(E, 16)
  made = images.draw_distinct(np.full((N, X), 1 / X), range(N))
  assert made.shape[0] <= 24 * max(N, 20) + 100
  assert made.shape[1] <= 900
