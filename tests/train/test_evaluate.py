"""What an evaluation adds up, by hand."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax.train import evaluate
from tests.models.test_transformer import apply, make

close = np.testing.assert_allclose


def add_up(batches, limit=0):
  """With batches of (nll, tokens, load of the first of two experts) and bytes."""

  def step(params, batch):
    nll, tokens, load = batch
    sums = {"nll": jnp.float32(nll), "num_tokens": jnp.float32(tokens)}
    if load is not None:
      sums["load_NHE"] = tokens * jnp.array([[[load, 1 - load]]])
    return sums

  return evaluate.evaluate(step, None, batches, limit)


def test_means_by_hand():
  """12 nats over 8 tokens and 24 bytes; the larger batch weighs more in the load."""
  batches = [((9.0, 6, 0.5), 20), ((3.0, 2, 0.1), 4)]
  found = add_up(batches)
  close(found.loss, 1.5)
  close(found.perplexity, math.exp(1.5))
  close(found.bits_per_byte, 12 / 24 / math.log(2))
  assert (found.num_tokens, found.num_bytes) == (8, 24)
  close(found.load_NHE, [[[0.4, 0.6]]])
  assert found.members == {}
  one = add_up(batches, limit=1)
  close((one.loss, one.bits_per_byte), (1.5, 9 / 20 / math.log(2)))
  assert (one.num_tokens, one.num_bytes) == (6, 20)
  assert add_up([((1.0, 1, None), 1)]).load_NHE is None


def test_a_hopeless_loss_has_a_perplexity():
  assert math.isfinite(add_up([((1e6, 1, None), 1)]).perplexity)
  close(add_up([((690.0, 1, None), 1)]).perplexity, math.exp(690))


@pytest.mark.parametrize("batches", [[], [((1.0, 2, None), 0)]])
def test_nothing_to_evaluate(batches):
  with pytest.raises(ValueError) as error:
    add_up(batches)
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
  sums = jax.jit(evaluate.make_eval_step(config))(params["params"], batch)
  logits_BLV, aux, _ = apply(
    evaluate.Decoder(config), params, tokens_BL, positions_BL, segments_BL
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
  evaluate.check_vocabulary("bytes", 264)
  with pytest.raises(ValueError) as error:
    evaluate.check_vocabulary("bytes", 10)
  assert str(error.value).startswith(
    "model.vocab_size must be at least the vocabulary's size, got model.vocab_size=10, "
  )
