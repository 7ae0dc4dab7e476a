import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mhmoe_jax.models.attention import Attention, rotate
from mhmoe_jax.moe import bitnet
from tests.models.test_transformer import CONFIG


def test_rotary_products_depend_on_distance_only(key):
  q_BLAQ, k_BLAQ = jax.random.normal(key, (2, 1, 1, 1, 8))

  def product(q_position, k_position):
    q = rotate(q_BLAQ, jnp.array([[q_position]]), 1e4)
    return (q * rotate(k_BLAQ, jnp.array([[k_position]]), 1e4)).sum()

  np.testing.assert_allclose(product(7, 3), product(104, 100), rtol=1e-4)
  assert abs(product(7, 3) - product(7, 4)) > 1e-3
  np.testing.assert_allclose(product(0, 0), (q_BLAQ * k_BLAQ).sum(), rtol=1e-5)


def test_bitnet_rounds_every_projection(key):
  """One token attends to itself alone: its values, projected."""
  attention = Attention(dataclasses.replace(CONFIG, bitnet=True, use_bias=False))
  x_BLD = jax.random.normal(key, (1, 1, 16))
  inputs = x_BLD, jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), jnp.int32)
  params = attention.init(key, *inputs)
  w_DAQ, w_AQD = (params["params"][name] for name in ("w_v_DAQ", "w_o_AQD"))
  v_BLD = bitnet.eight_bit(x_BLD) @ bitnet.ternary(w_DAQ).reshape(16, 16)
  expected = bitnet.eight_bit(v_BLD) @ bitnet.ternary(w_AQD).reshape(16, 16)
  y_BLD, _ = attention.apply(params, *inputs)
  np.testing.assert_allclose(y_BLD, expected, rtol=1e-5, atol=1e-6)
