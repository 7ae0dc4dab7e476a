"""Fields of another type, numbers that are none, and layers that could not learn."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax import MoeConfig, MultiHeadMoe
from mhmoe_jax.moe.config import ROUTERS

BASE = MoeConfig(num_heads=2, num_experts=4, expert_dim=8)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"expert_dim": 16.0},
      "expert_dim must be of type int, got expert_dim=16.0 of type float.",
    ),
    ({"top_k": "2"}, "top_k must be of type int, got top_k='2' of type str."),
    (
      {"num_heads": True},
      "num_heads must be of type int, got num_heads=True of type bool.",
    ),
    (
      {"expert_dim": 2**31},
      "expert_dim must fit into 32 bits, got expert_dim=2147483648",
    ),
    ({"num_experts": None}, "num_experts must be of type int, got num_experts=None of"),
    ({"use_bias": 1}, "use_bias must be of type bool, got use_bias=1 of type int."),
    ({"router": None}, "router must be of type str, got router=None of type NoneType."),
    ({"capacity_factor": "1"}, "capacity_factor must be of type float, got"),
    (
      {"capacity_factor": np.inf},
      "capacity_factor must be finite, got capacity_factor=inf.",
    ),
    ({"eval_capacity_factor": np.nan}, "eval_capacity_factor must be finite, got"),
    ({"router_temperature": np.nan}, "router_temperature must be finite, got"),
    (
      {"top_k": 1, "renormalize": True},
      "renormalize needs a top_k of at least 2, because a single weight is always 1 "
      "and teaches the router nothing, got top_k=1, renormalize=True.",
    ),
    (
      {"router": "cosine", "router_dim": 1},
      "router_dim must be at least 2 unless the router is linear, because a unit "
      "vector of width 1 is constant, got router_dim=1, router='cosine'.",
    ),
  ],
)
def test_what_is_refused(changes, message):
  with pytest.raises(ValueError) as error:
    dataclasses.replace(BASE, **changes)
  assert str(error.value).startswith(message)
  assert "\n" not in str(error.value)


def test_numbers_of_numpy_become_plain_ones():
  config = dataclasses.replace(BASE, top_k=np.int64(2), capacity_factor=np.float32(1.5))
  assert config == dataclasses.replace(BASE, capacity_factor=1.5)
  assert type(config.top_k) is int
  assert type(dataclasses.replace(BASE, capacity_factor=2).capacity_factor) is float


def test_one_expert_may_renormalise():
  """There is nothing to choose, and so nothing to learn."""
  assert MoeConfig(1, 1, 8, top_k=1, renormalize=True).renormalize


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("top_k", [1, 2])
def test_what_is_accepted_learns(key, router, top_k):
  """Every parameter has a gradient, from the output alone."""
  config = dataclasses.replace(
    BASE,
    router=router,
    top_k=top_k,
    router_dim=2,
    renormalize=top_k == 2,
    num_experts=3,
  )
  layer = MultiHeadMoe(config)
  x_BLD = jax.random.normal(key, (2, 8, 8))
  params = layer.init(key, x_BLD)
  gradients = jax.jit(jax.grad(lambda p: jnp.sin(layer.apply(p, x_BLD)[0]).sum()))(
    params
  )
  for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
    assert np.abs(gradient).max() > 1e-3, path
