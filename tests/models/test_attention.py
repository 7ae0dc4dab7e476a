import jax
import jax.numpy as jnp
import numpy as np

from mhmoe_jax.models.attention import causal_mask, rotate


def test_mask_by_hand():
  expected = [
    [1, 0, 0, 0],
    [1, 1, 0, 0],
    [0, 0, 1, 0],  # another document
    [0, 0, 0, 1],  # padding sees padding only
  ]
  np.testing.assert_array_equal(causal_mask(jnp.array([[1, 1, 2, 0]]))[0, 0], expected)


def test_rotary_products_depend_on_distance_only(key):
  q_BLAQ, k_BLAQ = jax.random.normal(key, (2, 1, 1, 1, 8))

  def product(q_position, k_position):
    q = rotate(q_BLAQ, jnp.array([[q_position]]), 1e4)
    return (q * rotate(k_BLAQ, jnp.array([[k_position]]), 1e4)).sum()

  np.testing.assert_allclose(product(7, 3), product(104, 100), rtol=1e-4)
  assert abs(product(7, 3) - product(7, 4)) > 1e-3
  np.testing.assert_allclose(product(0, 0), (q_BLAQ * k_BLAQ).sum(), rtol=1e-5)
