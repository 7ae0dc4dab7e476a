"""The loss by hand, its value and its gradient; and what an evaluation adds up."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax.data import vocabularies
from mhmoe_jax.models.transformer import Decoder
from mhmoe_jax.tasks.language import Language, lm_loss
from mhmoe_jax.tasks.objective import ObjectiveConfig, cross_entropy
from tests.models.test_transformer import apply, make

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
    key = jax.random.key(0)
    found = lm_loss(config, Model(moe), params, batch, key, jnp.float32(4))
    return found.share + found.mean, found.shares | found.means

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


def summarize(nll, num_tokens, num_bytes, **load):
  sums = {"nll": nll, "num_tokens": num_tokens, "num_bytes": num_bytes, **load}
  return Language(None, None, None).summarize({"": sums})


def test_means_by_hand():
  """12 nats over 8 tokens and 24 bytes."""
  found = summarize(12.0, 8.0, 24, load_NHE=np.array([[[3.2, 4.8]]]))
  close(found.loss, 1.5)
  close(found.perplexity, math.exp(1.5))
  close(found.bits_per_byte, 12 / 24 / math.log(2))
  assert (found.num_tokens, found.num_bytes) == (8, 24)
  close(found.load_NHE, [[[0.4, 0.6]]])
  assert found.members == {}
  assert summarize(1.0, 1, 1).load_NHE is None


@pytest.mark.parametrize("has_load", [True, False])
def test_members_of_a_mixture_count_alike(has_load):
  """60 nats in 30 tokens and 60 bytes, 2 nats in two tokens and four bytes."""
  sums = {
    "a": {"nll": 60.0, "num_tokens": 30.0, "num_bytes": 60},
    "b": {"nll": 2.0, "num_tokens": 2.0, "num_bytes": 4},
  }
  if has_load:
    sums["a"]["load_NHE"] = np.array([[[30.0, 0.0]]])
    sums["b"]["load_NHE"] = np.array([[[1.0, 1.0]]])
  found = Language(None, None, None).summarize(sums)
  close((found.loss, found.perplexity), (1.5, math.exp(1.5)))
  close(found.bits_per_byte, (1 + 0.5) / 2 / math.log(2))
  assert (found.num_tokens, found.num_bytes) == (32, 64)
  assert {name: x.loss for name, x in found.members.items()} == {"a": 2, "b": 1}
  if has_load:
    close(found.load_NHE, [[[0.75, 0.25]]])
  else:
    assert found.load_NHE is None


def test_a_hopeless_loss_has_a_perplexity():
  assert math.isfinite(summarize(1e6, 1, 1).perplexity)
  close(summarize(690.0, 1, 1).perplexity, math.exp(690))


@pytest.mark.parametrize("sums", [{}, {"nll": 1.0, "num_tokens": 2, "num_bytes": 0}])
def test_nothing_to_evaluate(sums):
  with pytest.raises(ValueError) as error:
    Language(None, None, None).summarize({"": sums})
  assert str(error.value) == (
    "the validation split must have at least one token, got none."
  )


@pytest.mark.parametrize("ffn", ["mhmoe", "dense"])
def test_the_sums_of_a_batch(key, ffn):
  """Of 16 targets 11 count; the load is a mean, so the sum is 11 times it."""
  config, params, tokens_BL, positions_BL, segments_BL = make(key, ffn=ffn)
  weights_BL = jnp.ones((2, 8)).at[1, 3:].set(0)
  targets_BL = jnp.roll(tokens_BL, -1, axis=1)
  batch = {
    "inputs": tokens_BL,
    "targets": targets_BL,
    "positions": positions_BL,
    "segments": segments_BL,
    "weights": weights_BL,
  }
  # Whatever the training capacity is: this is an evaluation.
  moe = dataclasses.replace(config.moe, dispatch="einsum", eval_capacity_factor=8.0)
  config = dataclasses.replace(config, moe=moe, dropout=0.9, moe_dropout=0.9)
  sums = jax.jit(Language(config, None, None).count)(params["params"], {}, batch)
  logits_BLV, aux, _ = apply(
    Decoder(config), params, tokens_BL, positions_BL, segments_BL
  )
  p_BLV = np.exp(np.float64(logits_BLV))
  p_BLV /= p_BLV.sum(axis=-1, keepdims=True)
  p_BL = np.take_along_axis(p_BLV, np.asarray(targets_BL)[..., None], axis=-1)[..., 0]
  close(sums["nll"], -(np.log(p_BL) * weights_BL).sum(), rtol=1e-5)
  close(sums["num_tokens"], 11)
  if ffn == "dense":
    assert sums.keys() == {"nll", "num_tokens"}
  else:
    close(sums["load_NHE"], 11 * aux.stats.load_HE, rtol=1e-5)
    close(sums["load_NHE"].sum(axis=-1), jnp.full((2, 4), 11.0), rtol=1e-5)


def test_the_embedding_must_have_a_row_for_every_token():
  vocabularies.check_size("bytes", 264)
  with pytest.raises(ValueError) as error:
    vocabularies.check_size("bytes", 10)
  assert str(error.value).startswith(
    "model.vocab_size must be at least the vocabulary's size, got model.vocab_size=10, "
  )
