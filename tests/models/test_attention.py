import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax.models.attention import Attention, KeyValues, rotate
from mhmoe_jax.moe import bitnet
from tests.golden import golden
from tests.models.test_transformer import CONFIG, POSITIONS, SEGMENTS

close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5)


def test_rotary_positions_by_hand():
  """Width 4, theta 100: the pairs (0, 2) and (1, 3) turn by p and p / 10 radians."""
  x_BLAQ = jnp.array([[[[1.0, 0.0, 0.0, 2.0]]]])
  c, s, d, t = np.cos(3), np.sin(3), np.cos(0.3), np.sin(0.3)
  y_BLAQ, pull = jax.vjp(lambda x: rotate(x, jnp.array([[3]]), 100.0), x_BLAQ)
  close(y_BLAQ[0, 0, 0], [c, -2 * t, s, 2 * d])
  # The gradient turns back.
  close(pull(y_BLAQ)[0], x_BLAQ)
  assert rotate(x_BLAQ.astype(jnp.bfloat16), POSITIONS[:1, :1], 9.0).dtype == "bfloat16"


def attention_params(inputs):
  """The waves of the golden file as parameters; their matrices are (D, D)."""
  params = {f"w_{n}_DAQ": inputs[f"w_{n}"].reshape(8, 2, 4) for n in "qkv"}
  params["w_o_AQD"] = inputs["w_o"].reshape(2, 4, 8)
  if "b_q" in inputs:
    params |= {f"b_{n}_AQ": inputs[f"b_{n}"].reshape(2, 4) for n in "qkv"}
    params["b_o_D"] = inputs["b_o"]
  return params


def test_equals_pytorch():
  """Two packed documents in one row: rotary, scale, mask, biases and all gradients."""
  shapes = {"x": (2, 5, 8)} | {f"w_{n}": (8, 8) for n in "qkvo"}
  shapes |= {f"b_{n}": (8,) for n in "qkvo"}
  inputs, expected = golden.waves(3, **shapes), golden.load("attention")
  config = dataclasses.replace(CONFIG, embed_dim=8, rope_theta=50.0)

  def apply(inputs):
    params = {"params": attention_params(inputs)}
    return Attention(config).apply(params, inputs["x"], POSITIONS, SEGMENTS)[0]

  y_BLD, pull = jax.vjp(apply, jax.tree.map(jnp.float32, inputs))
  close(y_BLD, expected["y"])
  (gradients,) = pull(jnp.float32(golden.wave(0.3, 2, 5, 8)))
  for name, d in gradients.items():
    close(d, expected[f"d_{name}"], err_msg=name)


@pytest.mark.parametrize(("init", "bound"), [("flax", 0.0), ("torch", 64**-0.5)])
def test_initial_values(key, init, bound):
  """Xavier-uniform of gain sqrt(1/2) for q, k, v and 1 for o, as in the papers' code.

  Of biases, "torch" has those of q, k and v uniform in +-1 / sqrt(D).
  """
  config = dataclasses.replace(CONFIG, embed_dim=64, init=init)
  places = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), jnp.int32)
  params = Attention(config).init(key, jnp.ones((1, 1, 64)), *places)["params"]
  for name in "qkv":
    limit = (6 / (64 + 64) / 2) ** 0.5
    assert 0.95 * limit < np.abs(params[f"w_{name}_DAQ"]).max() <= limit
    np.testing.assert_allclose(np.std(params[f"w_{name}_DAQ"]), limit / 3**0.5, 0.05)
    assert 0.9 * bound <= np.abs(params[f"b_{name}_AQ"]).max() <= bound
    np.testing.assert_allclose(np.std(params[f"b_{name}_AQ"]), bound / 3**0.5, 0.25)
  limit = (6 / (64 + 64)) ** 0.5
  assert 0.95 * limit < np.abs(params["w_o_AQD"]).max() <= limit
  np.testing.assert_array_equal(params["b_o_D"], jnp.zeros(64))


def test_a_norm_inside_under_sub_ln(key):
  """Between the heads' results and the output projection; the model's norm."""
  x_BLD = jax.random.normal(key, (1, 1, 16))
  inputs = x_BLD, jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), jnp.int32)
  config = dataclasses.replace(CONFIG, sub_ln=True, use_bias=False, norm_epsilon=0.1)
  params = Attention(config).init(key, *inputs)
  names = {*(f"w_{name}_DAQ" for name in "qkv"), "w_o_AQD", "inner_norm"}
  assert params["params"].keys() == names  # and no biases
  v_D = x_BLD[0, 0] @ params["params"]["w_v_DAQ"].reshape(16, 16)
  v_D /= (np.mean(np.square(v_D)) + 0.1) ** 0.5
  y_BLD, _ = Attention(config).apply(params, *inputs)
  close(y_BLD[0, 0], v_D @ params["params"]["w_o_AQD"].reshape(16, 16))


def test_rotary_products_depend_on_distance_only(key):
  q_BLAQ, k_BLAQ = jax.random.normal(key, (2, 1, 1, 1, 8))

  def product(q_position, k_position):
    q = rotate(q_BLAQ, jnp.array([[q_position]]), 1e4)
    return (q * rotate(k_BLAQ, jnp.array([[k_position]]), 1e4)).sum()

  np.testing.assert_allclose(product(7, 3), product(104, 100), rtol=1e-4)
  assert abs(product(7, 3) - product(7, 4)) > 1e-3
  np.testing.assert_allclose(product(0, 0), (q_BLAQ * k_BLAQ).sum(), rtol=1e-5)


def test_grouped_queries_are_repeated_keys_and_values(key):
  """Query heads 0 and 1 share the first head of keys and values, 2 and 3 the other."""
  config = dataclasses.replace(
    CONFIG, num_attention_heads=4, num_kv_heads=2, head_dim=6, sub_ln=True
  )
  grouped = Attention(config)
  all_heads = Attention(dataclasses.replace(config, num_kv_heads=4))
  x_BLD = jax.random.normal(key, (2, 5, 16))
  places_BL = jnp.tile(jnp.arange(5), (2, 1))
  inputs = x_BLD, places_BL, places_BL * 0 + 1
  params = grouped.init(key, *inputs)["params"]
  assert params["w_q_DAQ"].shape == (16, 4, 6)
  repeated = {name.replace("JQ", "AQ"): x for name, x in params.items()}
  for name in ("w_k_DAQ", "w_v_DAQ", "b_k_AQ", "b_v_AQ"):
    repeated[name] = jnp.repeat(repeated[name], 2, axis=-2)
  expected, _ = all_heads.apply({"params": repeated}, *inputs)
  found, _ = grouped.apply({"params": params}, *inputs)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_cache_in_parts(key):
  """Three tokens, then two behind them: as all five at once; one place stays free."""
  x_BLD, places_BL = jax.random.normal(key, (1, 5, 16)), jnp.arange(5)[None]
  attention, ones_BL = Attention(CONFIG), jnp.ones((1, 5), jnp.int32)
  params = attention.init(key, x_BLD, places_BL, ones_BL)
  expected, _ = attention.apply(params, x_BLD, places_BL, ones_BL)
  _, J, Q = CONFIG.attention_shape
  cache, found = KeyValues(*jnp.full((2, 1, 6, J, Q), 9.0)), []
  for part, start in ((slice(3), ()), (slice(3, 5), (3,))):
    inputs = (x[:, part] for x in (x_BLD, places_BL, ones_BL))
    y_BLD, cache = attention.apply(params, *inputs, cache, *start)
    found.append(y_BLD)
  close(jnp.concatenate(found, axis=1), expected)
  assert (cache.k_BTJQ[:, 5:] == 9).all()


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
