"""Several kinds of inputs in one pass, layer by layer, against a pass for each."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mhmoe_jax.models.encoder import Encoder
from tests.models.test_encoder import KINDS, SMALL, VARIANTS, of_noise

INPUTS = list(KINDS.values())


def make(**changes):
  """A model with weights of noise, so that no bias is zero and bfloat16 rounds all."""
  multiway = {"ffn": "dense", "backbone": "multiway", "pools": "modality"}
  return of_noise(**multiway | changes)


def loss_of(x_BLD, pools):
  wave_BLD = jnp.cos(0.3 * jnp.arange(x_BLD.size, dtype="f4")).reshape(x_BLD.shape)
  return (x_BLD * wave_BLD).sum() + sum(
    aux.balance_loss.sum() for aux in pools.values()
  )


def alone(config, params):
  return [Encoder(config).apply(params, inputs) for inputs in INPUTS]


def together(config, params):
  return Encoder(config).apply(params, INPUTS, method="together")


def run(tell, config, params):
  """What is told of all kinds, and the gradient of the sum of their losses."""

  @jax.jit
  def values(params):
    told = tell(config, params)
    return sum(loss_of(*one) for one in told), told

  gradient, told = jax.grad(values, has_aux=True)(params)
  return told, gradient


def test_equals_each_alone_in_value_and_gradient():
  config, params = make(remat="norms", **VARIANTS["mhmoe, a pool for each"])
  wanted, wanted_gradient = run(alone, config, params)
  found, gradient = run(together, config, params)
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, wanted)
  for x, y in zip(*map(jax.tree.leaves, (gradient, wanted_gradient)), strict=True):
    np.testing.assert_allclose(x, y, atol=1e-5 * max(1, np.abs(y).max()))


def test_dropout_of_kinds_is_drawn_apart(key):
  config, params = make(dropout=0.5, num_layers=1)
  model = Encoder(config, deterministic=False)
  twice = [KINDS["image"], KINDS["image"]]
  told = model.apply(params, twice, rngs={"dropout": key}, method="together")
  assert (told[0][0] != told[1][0]).any()


def test_weights_cast_once_are_those_cast_where_they_are_used(monkeypatch):
  """And their gradients are float32, as near as sums of three numbers in bfloat16."""
  config, params = make(dtype="bfloat16", **VARIANTS["mhmoe, a pool for each"])
  found, gradient = run(together, config, params)
  monkeypatch.setattr(Encoder, "_cast", lambda self, params: params)
  wanted, apart = run(together, config, params)
  jax.tree.map(np.testing.assert_array_equal, found, wanted)
  for x, y in zip(*map(jax.tree.leaves, (gradient, apart)), strict=True):
    assert x.dtype == "float32"
    assert np.linalg.norm(x - y) <= 2**-7 * np.linalg.norm(y)


def test_quantised_weights_are_not_cast_before():
  config = dataclasses.replace(SMALL, dtype="bfloat16", bitnet=True)
  weights = {"w_DAQ": jnp.ones(2)}
  assert Encoder(config)._cast(weights) is weights
