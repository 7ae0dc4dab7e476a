import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mhmoe_jax.tasks.task import Loss
from mhmoe_jax.train.config import resolve
from mhmoe_jax.train.optimizer import make_optimizer
from mhmoe_jax.train.state import make_state
from mhmoe_jax.train.step import make_train_step


def make_batch(rows=4, length=6):
  """Tokens that count up; the last row is shorter, and padded."""
  targets = jnp.arange(rows * length).reshape(rows, length) % 50 + 3
  weights = jnp.ones((rows, length)).at[-1, length // 2 :].set(0.0)
  return {
    "inputs": jnp.pad(targets[:, :-1], ((0, 0), (1, 0))),
    "targets": targets,
    "weights": weights,
    "segments": weights.astype(jnp.int32),
    "positions": jnp.broadcast_to(jnp.arange(length), targets.shape),
  }


def constant_params(params):
  """The same numbers under any random number generator: waves over each array."""
  return jax.tree.map(
    lambda x: 0.3 * jnp.sin(1.0 + 0.7 * jnp.arange(x.size)).reshape(x.shape), params
  )


def one_step(config, accumulate_steps=1, params=None):
  cfg = resolve(config)
  optimizer = make_optimizer(cfg.optimizer, cfg.train.num_steps)
  state = jax.jit(lambda: make_state(cfg.task, optimizer, 0))()
  state["params"] = constant_params(state["params"]) if params is None else params
  step = make_train_step(cfg.task, optimizer, accumulate_steps)
  return jax.jit(step)(state, make_batch())


def test_golden_first_step(config):
  """If this fails and you did not mean to change the model, the loss, the optimizer or
  their defaults, something is wrong; if you did, update the numbers and say why."""
  state, metrics = one_step(config)
  actual = {
    "loss": metrics["loss"],
    "grad_norm": metrics["grad_norm"],
    "balance_loss": metrics["balance_loss"][0],
    "router_z_loss": metrics["router_z_loss"][0],
    "distinct": metrics["router/distinct_experts"][0],
    "param_norm": optax.tree.norm(state["params"]),
  }
  expected = {
    "loss": 5.576885,
    "grad_norm": 0.3088166,
    "balance_loss": 1.0021764,
    "router_z_loss": 4.4393086,
    "distinct": 5.809524,
    "param_norm": 18.88582,
  }
  assert actual.keys() == expected.keys(), {k: float(v) for k, v in actual.items()}
  for name, value in expected.items():
    np.testing.assert_allclose(actual[name], value, rtol=1e-4, err_msg=name)


def test_zero_weights_give_the_loss_of_guessing(config):
  cfg = resolve(config)
  shapes = jax.eval_shape(lambda: make_state(cfg.task, optax.identity(), 0))["params"]
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes)
  _, metrics = one_step(config, params=zeros)
  np.testing.assert_allclose(metrics["loss"], np.log(cfg.model.vocab_size), rtol=1e-6)


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_changes_nothing_but_the_order_of_sums(config, parts):
  """Without auxiliary losses, which are means over the parts."""
  config.objective.balance_weight = 0.0
  whole, metrics = one_step(config)
  summed, metrics_summed = one_step(config, accumulate_steps=parts)
  np.testing.assert_allclose(metrics_summed["loss"], metrics["loss"], rtol=1e-5)
  np.testing.assert_allclose(
    metrics_summed["grad_norm"], metrics["grad_norm"], rtol=1e-4
  )
  # Adam's first step is the sign of the gradient, where it is not nearly zero.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
    summed["params"],
    whole["params"],
  )


def test_auxiliary_losses_of_the_parts_are_averaged(config):
  config.objective.balance_weight = 1.0
  _, alone = one_step(config)
  _, parts = one_step(config, accumulate_steps=4)
  # Were they summed, the gradient would be near four times as long.
  assert parts["grad_norm"] < 1.5 * alone["grad_norm"]
  assert 0.5 < parts["balance_loss"][0] / alone["balance_loss"][0] < 2


class Product:
  """A task of one number a: shares of a x, a mean of a max(x), and random draws."""

  model = types.SimpleNamespace(ffn="dense", layer=None)

  def totals(self, batch):
    return batch["x_B"].sum()

  def loss(self, params, fixed, batch, key, totals):
    share, mean = (params["a"] * x for x in (batch["x_B"].sum(), batch["x_B"].max()))
    draw = jax.random.uniform(key)
    shares = {"loss": share / totals, "draw": draw, "square": jnp.square(draw)}
    return Loss(share / totals, mean, shares, {"max": mean})


def test_parts_by_hand():
  """Of 1, 2, 3, 4 the parts are 1, 3 and 2, 4."""
  optimizer = optax.sgd(0.1)
  params = {"a": jnp.float32(1)}
  state = {"step": jnp.int32(0), "params": params, "opt_state": optimizer.init(params)}
  state["rng"] = jax.random.key_data(jax.random.key(0))
  step = jax.jit(make_train_step(Product(), optimizer, 2))
  batch = {"x_B": jnp.arange(1.0, 5.0)}
  state, found = step(state, batch)
  close = np.testing.assert_allclose
  close([found[name] for name in ("loss", "max", "grad_norm")], [1, 3.5, 4.5], 1e-6)
  close(state["params"]["a"], 1 - 0.45, 1e-6)
  assert state["step"] == 1
  # Two equal draws would have half the square of their sum as the sum of their squares.
  assert found["square"] > 0.5 * found["draw"] ** 2 + 1e-4
  assert abs(step(state, batch)[1]["draw"] - found["draw"]) > 1e-4


def test_padding_has_no_influence(config):
  cfg = resolve(config)
  optimizer = make_optimizer(cfg.optimizer, cfg.train.num_steps)
  state = jax.jit(lambda: make_state(cfg.task, optimizer, 0))()
  step = jax.jit(make_train_step(cfg.task, optimizer, 1))
  batch = make_batch()
  other = dict(batch)
  for name in ("inputs", "targets"):
    other[name] = jnp.where(batch["segments"] > 0, batch[name], 77)
  jax.tree.map(np.testing.assert_array_equal, step(state, batch), step(state, other))


def test_dropout_differs_between_steps(config):
  config.model.dropout = 0.5
  cfg = resolve(config)
  optimizer = optax.set_to_zero()
  state = jax.jit(lambda: make_state(cfg.task, optimizer, 0))()
  step = jax.jit(make_train_step(cfg.task, optimizer, 1))
  state, first = step(state, make_batch())
  _, second = step(state, make_batch())
  assert abs(first["loss"] - second["loss"]) > 1e-4


def test_config_is_hashable_for_jit(config):
  cfg = resolve(config)
  assert hash(cfg.model) == hash(dataclasses.replace(cfg.model))


@pytest.mark.parametrize("norm", [0.0, 1.5])
def test_embeddings_of_the_projected_router_keep_their_norm(config, norm):
  """An update turns them. The cosine router has free ones of the same name."""
  config.optimizer.learning_rate = 0.1
  config.optimizer.warmup_steps = 0
  config.model.moe.router_norm = norm
  for router in ("projected", "cosine"):
    config.model.moe.router = router
    before = jax.jit(lambda c=config: make_state(resolve(c).task, optax.identity(), 0))
    before = before()["params"]
    state, _ = one_step(config, params=before)

    def embeddings(params):
      return params["layers"]["block_1"]["moe"]["router"]["embed_ER"]

    old, new = embeddings(before), embeddings(state["params"])
    lengths = np.linalg.norm(new, axis=-1)
    kept = np.allclose(lengths, 1.5, rtol=1e-5)
    assert kept == (router == "projected" and norm == 1.5)
    assert np.abs(new - old).max() > 0.01
