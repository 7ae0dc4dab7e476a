"""The loss by hand: its value and its gradient."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax.train.objective import ObjectiveConfig, cross_entropy, lm_loss

close = np.testing.assert_allclose


def test_cross_entropy_by_hand():
  """Of 1/2, 1/4, 1/4 and 1/10, 1/5, 7/10; the third target does not count."""
  p_V, q_V = [0.5, 0.25, 0.25], [0.1, 0.2, 0.7]
  # A constant added to all logits changes nothing, not even a large one.
  logits_BLV = jnp.log(jnp.array([[p_V, q_V, p_V]])) + jnp.array([[[0.0], [50.0], [0]]])
  targets_BL, weights_BL = jnp.array([[1, 2, 0]]), jnp.array([[1.0, 2.0, 0.0]])
  found, pull = jax.vjp(lambda x: cross_entropy(x, targets_BL, weights_BL), logits_BLV)
  close(found, np.log(4) + 2 * np.log(10 / 7), rtol=1e-5)
  (gradient,) = pull(1.0)
  close(
    gradient[0], [[0.5, -0.75, 0.25], [0.2, 0.4, -0.6], [0, 0, 0]], rtol=1e-4, atol=1e-6
  )


class Stats(NamedTuple):
  load_HE: jax.Array


class Aux(NamedTuple):
  balance_loss: jax.Array
  router_z_loss: jax.Array
  stats: Stats


class Model:
  """Two MoE layers, if any, whose losses are simple in the parameter a."""

  def __init__(self, moe: bool):
    self.moe = moe

  def apply(self, variables, inputs, positions, segments, rngs):
    a = variables["params"]["a"]
    assert rngs.keys() == {"dropout"}
    # Two kinds of tokens: the likelier is the input's, by exp(a).
    logits_BLV = a * jax.nn.one_hot(inputs, 2) + 0.0 * positions[..., None]
    aux = Aux(
      jnp.stack([a, 2 * a]), jnp.stack([a**2, a**2]), Stats(jnp.ones((2, 1, 4)))
    )
    return logits_BLV, aux if self.moe else None, None


@pytest.mark.parametrize("moe", [False, True])
def test_the_loss_by_hand(moe):
  """Of 4 targets of the whole batch this part has 2, of which the second is hit."""
  batch = {
    "inputs": jnp.array([[0, 1, 0]]),
    "targets": jnp.array([[1, 1, 0]]),
    "positions": jnp.array([[0, 1, 2]]),
    "segments": jnp.array([[1, 1, 0]]),
    "weights": jnp.array([[1.0, 1.0, 0.0]]),
  }
  config = ObjectiveConfig(balance_weight=0.5, router_z_weight=0.25)

  def loss(params):
    return lm_loss(config, Model(moe), params, batch, jax.random.key(0), jnp.float32(4))

  a = np.log(3.0)  # 3/4 and 1/4
  (found, metrics), gradient = jax.value_and_grad(loss, has_aux=True)({"a": a})
  nll = (np.log(4) + np.log(4 / 3)) / 4
  close(metrics["loss"], nll, rtol=1e-6)
  close(found, nll + moe * (0.5 * 3 * a + 0.25 * 2 * a**2), rtol=1e-6)
  # d/da of log(1 + e^a) is 3/4, and the second target has -a as well.
  close(gradient["a"], (0.75 - 0.25) / 4 + moe * (1.5 + a), rtol=1e-5)
  names = {"balance_loss", "router_z_loss", "router/load_HE"} if moe else set()
  assert metrics.keys() == {"loss"} | names
  if moe:
    close(metrics["balance_loss"], [a, 2 * a], rtol=1e-6)
    close(metrics["router_z_loss"], [a**2, a**2], rtol=1e-6)


@pytest.mark.parametrize("name", ["balance_weight", "router_z_weight"])
def test_negative_weights(name):
  values = {"balance_weight": 0.0, "router_z_weight": 0.0}
  ObjectiveConfig(**values)
  with pytest.raises(ValueError) as error:
    ObjectiveConfig(**values | {name: -0.5})
  assert str(error.value) == f"{name} must be at least 0, got {name}=-0.5."
