"""Prompts of all lengths in a batch equal each alone, through `decoding.generate`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax import sharding
from mhmoe_jax.evals.greedy import Generator
from mhmoe_jax.models.decoding import generate
from tests.evals.small import make_params, small_config


@pytest.fixture(scope="module")
def model():
  return small_config().model


def test_a_batch_of_many_lengths(model):
  """From one token to more than two pieces, and more than one chunk."""
  params, rng = make_params(model), np.random.default_rng(0)
  lengths, limits = [1, 70, 150, 71, 65, 1], [40, 40, 3, 40, 40, 1]
  prompts = [[0, *rng.integers(3, 259, n - 1).tolist()] for n in lengths]
  all_V = np.ones(model.vocab_size, bool)
  continue_all = Generator(model, sharding.make_mesh(data=1), 200, all_V)
  found = continue_all(params, prompts, limits, lambda i, tokens: False)
  assert [len(tokens) for tokens in found] == limits
  for i in (0, 1, 2):
    alone_BT = generate(
      model,
      params,
      jnp.asarray([prompts[i]], jnp.int32),
      jax.random.key(0),
      num_tokens=limits[i],
      temperature=0.0,
    )
    assert found[i] == alone_BT[0].tolist()
  again = continue_all(params, prompts[3:], limits[3:], lambda i, tokens: False)
  assert again == found[3:]
  # A piece and a chunk, for six rows and for three.
  assert continue_all._read._cache_size() <= 2
  assert continue_all._write._cache_size() == 2


def test_ends_where_told_and_draws_only_tokens(model):
  params, looks = make_params(model), []
  valid_V = np.zeros(model.vocab_size, bool)
  valid_V[[7, 9]] = True
  continue_all = Generator(model, sharding.make_mesh(data=1), 100, valid_V)

  def is_done(i, tokens):
    looks.append((i, len(tokens)))
    return i == 0

  found = continue_all(params, [[0, 5], [0, 6, 6]], [90, 90], is_done)
  assert {*found[0], *found[1]} <= {7, 9}
  assert len(found[0]) == 31  # one chunk; its first step read the last of the prompt
  assert len(found[1]) == 90
  assert [n for i, n in looks if i == 0] == [31]
