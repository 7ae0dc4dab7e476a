"""Who sees whom, by hand."""

import jax.numpy as jnp

from mhmoe_jax.models.visibility import visible


def test_a_picture_and_its_causal_caption_beside_another_text_and_padding():
  order_BL = jnp.array([[0, 0, 1, 2, 0, 1, 0, 5]])
  segments_BL = jnp.array([[1, 1, 1, 1, 2, 2, 0, 0]])
  found = visible(order_BL, segments_BL)
  assert found.shape == (1, 1, 8, 8)
  assert found[0, 0].astype(int).tolist() == [
    [1, 1, 0, 0, 0, 0, 0, 0],
    [1, 1, 0, 0, 0, 0, 0, 0],
    [1, 1, 1, 0, 0, 0, 0, 0],
    [1, 1, 1, 1, 0, 0, 0, 0],
    [0, 0, 0, 0, 1, 0, 0, 0],
    [0, 0, 0, 0, 1, 1, 0, 0],
    [0, 0, 0, 0, 0, 0, 1, 0],
    [0, 0, 0, 0, 0, 0, 1, 1],
  ]
