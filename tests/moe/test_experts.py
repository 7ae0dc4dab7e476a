"""How FFNs start, and which parameters they have."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax import MoeConfig, MultiHeadMoe
from mhmoe_jax.moe.experts import DenseFfn, ExpertFfn
from mhmoe_jax.moe.ffn import Formula

CONFIG = MoeConfig(2, 16, 256, activation="swiglu", sub_ln=True, router="projected")


def uniform(x, bound):
  """Whether x looks uniform in +-bound; a zero bound is zeros."""
  assert np.abs(x).max() <= bound
  assert np.abs(x).max() >= 0.95 * bound
  np.testing.assert_allclose(np.std(x), bound / 3**0.5, rtol=0.06)
  np.testing.assert_allclose(np.mean(x), 0, atol=0.06 * bound)


@pytest.mark.parametrize("init", ["flax", "torch"])
def test_initial_values_of_the_layer(key, init):
  """`nn.Linear` is uniform in +-1 / sqrt(fan_in), weight and bias.

  In the papers' code the merge layer's bias is zeroed, and norms start at 1 and 0.
  """
  config = dataclasses.replace(CONFIG, init=init)
  params = MultiHeadMoe(config).init(key, jnp.ones((1, 1, 128)))["params"]
  experts = params["experts"]
  for name, fan_in in (("w_in_EMF", 64), ("w_gate_EMF", 64), ("w_out_EFM", 256)):
    uniform(experts[name], fan_in**-0.5)
  torch = init == "torch"
  for name, fan_in in (("b_in_EF", 64), ("b_gate_EF", 64), ("b_out_EM", 256)):
    uniform(experts[name], torch * fan_in**-0.5)
  np.testing.assert_array_equal(experts["norm_scale_EF"], jnp.ones((16, 256)))
  np.testing.assert_array_equal(experts["norm_bias_EF"], jnp.zeros((16, 256)))
  assert (np.abs(params["head"]["b_0_P"]).max() > 0.9 * 128**-0.5) == torch
  assert np.abs(params["head"]["b_0_P"]).max() <= 128**-0.5
  np.testing.assert_array_equal(params["merge"]["b_0_P"], jnp.zeros(128))
  w_MR = params["router"]["w_MR"]
  np.testing.assert_allclose(np.std(w_MR), 64**-0.5 / (3**0.5 if torch else 1), 0.08)
  assert (np.abs(w_MR).max() <= 64**-0.5) == torch
  # What the papers' code rescales them to at its first forward pass.
  norm_E = np.linalg.norm(params["router"]["embed_ER"], axis=1)
  np.testing.assert_allclose(norm_E, 1.5, rtol=1e-5)


@pytest.mark.parametrize("init", ["flax", "torch"])
def test_a_dense_ffn_starts_as_an_expert(key, init):
  style = dataclasses.replace(CONFIG, init=init).style
  params = DenseFfn(256, style).init(key, jnp.ones((1, 1, 64)))["params"]
  for name, fan_in in (("w_in_DF", 64), ("w_gate_DF", 64), ("w_out_FD", 256)):
    uniform(params[name], fan_in**-0.5)
  for name, fan_in in (("b_in_F", 64), ("b_gate_F", 64)):
    assert (np.abs(params[name]).max() > 0.9 * fan_in**-0.5) == (init == "torch")
    assert np.abs(params[name]).max() <= fan_in**-0.5


CHANGES = {
  "": {},
  "no bias": {"use_bias": False},
  "no bias on the gate": {"gate_bias": False},
  "GELU": {"activation": "gelu"},
  "RMSNorm": {"ffn_norm": "rmsnorm"},
  "no sub-LN": {"sub_ln": False},
}
GONE = {
  "": set(),
  "no bias": {"b_in_EF", "b_out_EM", "b_gate_EF"},
  "no bias on the gate": {"b_gate_EF"},
  "GELU": {"w_gate_EMF", "b_gate_EF"},
  "RMSNorm": {"norm_bias_EF"},
  "no sub-LN": {"norm_scale_EF", "norm_bias_EF"},
}
ALL = {"w_in_EMF", "w_out_EFM", "w_gate_EMF", "b_in_EF", "b_out_EM", "b_gate_EF"}
ALL |= {"norm_scale_EF", "norm_bias_EF"}


@pytest.mark.parametrize("change", CHANGES)
def test_which_parameters_there_are(change):
  config = dataclasses.replace(CONFIG, **CHANGES[change])
  weights, params = jax.eval_shape(
    lambda: ExpertFfn(config).init_with_output(jax.random.key(0), 8)
  )
  assert params["params"].keys() == ALL - GONE[change]
  for name, x in params["params"].items():
    assert getattr(weights, name).shape == x.shape
  alone = jax.eval_shape(
    lambda: DenseFfn(256, config.style).init(jax.random.key(0), jnp.ones((1, 1, 8)))
  )["params"]
  letters = {n.replace("E", "").replace("M", "D") for n in params["params"]}
  assert alone.keys() == letters


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
def test_weights_have_the_formula_of_the_config_and_the_dtype_asked_for(activation):
  changes = {"activation": activation, "ffn_norm_epsilon": 0.25}
  config = dataclasses.replace(CONFIG, **changes)
  weights, params = jax.eval_shape(
    lambda: ExpertFfn(config, jnp.bfloat16).init_with_output(jax.random.key(0), 8)
  )
  assert weights.formula == Formula(activation == "gelu_tanh", 0.25)
  assert {x.dtype.name for x in jax.tree.leaves(weights)} == {"bfloat16"}
  assert {x.dtype.name for x in jax.tree.leaves(params)} == {"float32"}
  alone = jax.eval_shape(
    lambda x: DenseFfn(256, config.style).init_with_output(jax.random.key(0), x)[0],
    jax.ShapeDtypeStruct((1, 1, 8), jnp.bfloat16),
  )
  assert alone.dtype == jnp.bfloat16


def test_head_and_merge_layers_may_keep_their_biases():
  """Without biases elsewhere, as in the released code under --no-bias."""
  for linear_bias in (False, True):
    config = MoeConfig(2, 4, 8, use_bias=False, linear_bias=linear_bias)
    params = jax.eval_shape(
      MultiHeadMoe(config).init, jax.random.key(0), jnp.ones((1, 1, 8))
    )["params"]
    assert ("b_0_P" in params["head"]) == ("b_0_P" in params["merge"]) == linear_bias
    assert "b_in_EF" not in params["experts"]
