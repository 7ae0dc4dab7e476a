"""Dropout of experts' outputs: where it is, how much, and the same by every way."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax import MoeConfig, MultiHeadMoe, sharding
from mhmoe_jax.moe import dropout
from mhmoe_jax.moe.config import DISPATCHES

CONFIG = MoeConfig(2, 4, 12, top_k=2, expert_dropout=0.4, capacity_factor=100.0)


def test_zeros_a_share_and_scales_the_rest(key):
  seeds = dropout.draw_seeds(key, jnp.zeros((4, 50, 2)))
  assert np.unique(seeds).size == 400
  y = jnp.ones((4, 50, 2, 20))
  found, pull = jax.vjp(lambda y: dropout.drop(y, seeds, 0.4), y)
  assert set(np.unique(found)) == {0.0, np.float32(1 / 0.6)}
  np.testing.assert_allclose((found == 0).mean(), 0.4, atol=0.02)
  # Neither the elements of a choice nor the choices share their fate.
  np.testing.assert_allclose((found[..., 1:] * found[..., :-1] == 0).mean(), 0.64, 0.03)
  np.testing.assert_allclose((found[:, 1:] * found[:, :-1] == 0).mean(), 0.64, 0.03)
  np.testing.assert_array_equal(pull(y)[0], found)
  half = dropout.drop(y.astype(jnp.bfloat16), seeds, 0.4)
  assert half.dtype == jnp.bfloat16
  np.testing.assert_array_equal(half == 0, found == 0)


def run(config, params, x_BLD, mesh=None):
  def loss(params, x_BLD):
    rngs = {"dropout": jax.random.key(5)}
    layer = MultiHeadMoe(config)
    y_BLD, _ = layer.apply(params, x_BLD, deterministic=False, rngs=rngs)
    return jnp.sin(y_BLD).sum(), y_BLD

  step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
  if mesh is None:
    return step(params, x_BLD)
  with jax.set_mesh(mesh):
    return step(params, x_BLD)


def problem(key):
  x_BLD = jax.random.normal(key, (4, 3, 16))
  return MultiHeadMoe(CONFIG).init(key, x_BLD), x_BLD


@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_every_way_drops_the_same(key, dispatch):
  """On one device and on a mesh, in value and gradient."""
  params, x_BLD = problem(key)
  expected = run(CONFIG, params, x_BLD)
  config = dataclasses.replace(CONFIG, dispatch=dispatch)
  for mesh in (None, sharding.make_mesh(data=2, expert=2, model=2)):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
      run(config, params, x_BLD, mesh),
      expected,
    )


def test_it_is_before_the_weight_and_the_merge_layer(key):
  """A sub-token's output is its experts', each with elements of its own missing."""
  config = dataclasses.replace(CONFIG, num_linear=0, num_heads=1)
  x_BLD = jax.random.normal(key, (2, 5, 8))
  layer = MultiHeadMoe(config)
  params = layer.init(key, x_BLD)
  one = dataclasses.replace(config, top_k=1)

  def apply(config, seed=None):
    rngs = {} if seed is None else {"dropout": jax.random.key(seed)}
    return MultiHeadMoe(config).apply(
      params, x_BLD, deterministic=seed is None, rngs=rngs
    )[0]

  first, both = apply(one), apply(config)
  dropped = np.asarray(apply(config, 0))
  # Each element is one of four sums of the two experts' parts.
  parts = np.stack([np.zeros_like(first), first, both - first, both]) / 0.6
  nearest = np.abs(parts - dropped).min(axis=0)
  np.testing.assert_allclose(nearest, 0, atol=1e-5)
  which = np.abs(parts - dropped).argmin(axis=0)
  assert set(which.reshape(-1)) == {0, 1, 2, 3}
  assert np.abs(dropped - apply(config, 1)).max() > 0.01


def test_the_shared_expert_is_an_expert(key):
  config = dataclasses.replace(CONFIG, shared_dim=8, num_experts=1, top_k=1)
  x_BLD = jax.random.normal(key, (2, 5, 8))
  layer = MultiHeadMoe(config)
  params = layer.init(key, x_BLD)
  zero = jax.tree.map(jnp.zeros_like, params["params"]["experts"])
  merge = jax.tree.map(jnp.zeros_like, params["params"]["merge"])
  params = {"params": params["params"] | {"experts": zero, "merge": merge}}
  rngs = {"dropout": key}
  y_BLD, _ = layer.apply(params, x_BLD, deterministic=False, rngs=rngs)
  whole_BLD, _ = layer.apply(params, x_BLD)
  assert 0.2 < (y_BLD == 0).mean() < 0.6
  np.testing.assert_allclose(
    y_BLD, jnp.where(y_BLD == 0, 0, whole_BLD / 0.6), rtol=1e-5
  )
