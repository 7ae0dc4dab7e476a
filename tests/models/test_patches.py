"""Patches by hand, and back."""

import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax.models import patches


def test_patches_by_hand_and_back():
  """Two rows of three patches, each of 2 x 2 pixels; a pixel is (10 y + x, ...)."""
  rows, columns = np.mgrid[:4, :6]
  pixels_BYXC = (10 * rows + columns)[None, ..., None] + [0, 100, 200]
  found = patches.to_patches(jnp.asarray(pixels_BYXC), 2)
  assert found.shape == (1, 6, 12)
  reds = found[0, :, ::3]
  assert reds[1].tolist() == [2, 3, 12, 13]
  assert reds[3].tolist() == [20, 21, 30, 31]
  assert found[0, 0, :6].tolist() == [0, 100, 200, 1, 101, 201]
  back = patches.from_patches(found, columns=3)
  np.testing.assert_array_equal(back, pixels_BYXC)


@pytest.mark.parametrize("shape", [(1, 4, 7, 3), (1, 7, 4, 3)])
def test_pictures_that_a_patch_does_not_divide(shape):
  message = f"patch_size=2, height={shape[1]}, width={shape[2]}."
  with pytest.raises(ValueError, match=message):
    patches.to_patches(jnp.zeros(shape), 2)


def test_numbers_of_pixels():
  pixels = jnp.array([0, 1, 128, 255], jnp.uint8)
  found = patches.normalize(pixels)
  np.testing.assert_allclose(found, [-1, -0.992157, 0.003922, 1], atol=1e-6)
  np.testing.assert_array_equal(patches.to_uint8(found), pixels)
  beyond = patches.to_uint8(jnp.array([-1.5, -0.9961, -0.9960, 1.5]))
  assert (beyond.tolist(), beyond.dtype) == ([0, 0, 1, 255], jnp.uint8)
