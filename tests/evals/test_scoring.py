"""What a request is beside changes nothing, and few programs serve all lengths."""

import dataclasses

import jax
import numpy as np
import pytest

from mhmoe_jax import sharding
from mhmoe_jax.evals.rows import Request
from mhmoe_jax.evals.scoring import Scorer
from tests.evals.small import make_params, small_config


@pytest.fixture(scope="module")
def model():
  return small_config().model


def make_scorer(model, max_length=1000):
  valid_V = np.arange(model.vocab_size) < 259
  return Scorer(model, sharding.make_mesh(data=1), max_length, valid_V)


def requests_of(rng, lengths):
  return [
    Request(rng.integers(3, 259, n - 2).tolist(), rng.integers(3, 259, 2).tolist())
    for n in lengths
  ]


@pytest.mark.parametrize("dispatch", ["sorted", "capacity"])
def test_neighbours_do_not_see_each_other(model, dispatch):
  """Not even through routing, in a run that was trained with too few slots."""
  moe = dataclasses.replace(model.moe, dispatch=dispatch, eval_capacity_factor=0.1)
  model = dataclasses.replace(model, moe=moe)
  rng, params = np.random.default_rng(0), make_params(small_config().model)
  score = make_scorer(model)
  few = requests_of(rng, [20, 30, 9])
  alone = [score(params, [request])[0] for request in few]
  beside = score(params, [*requests_of(rng, [12, 25, 17, 30] * 9), *few])[-3:]
  np.testing.assert_allclose(
    [s.log_prob for s in beside], [s.log_prob for s in alone], rtol=1e-5
  )


def test_one_compilation_for_each_length_of_rows(model):
  rng, params = np.random.default_rng(0), make_params(model)
  score = make_scorer(model)
  requests = requests_of(rng, rng.integers(2, 300, 90).tolist())
  told = []
  first = score(params, requests, lambda *now: told.append(now))
  assert score._step._cache_size() == 3  # rows of 512, 256, 128
  again = score(params, requests[::-1])[::-1]
  np.testing.assert_allclose(again, first, rtol=1e-5)
  assert score._step._cache_size() == 3
  counts, shares = zip(*told, strict=True)
  assert list(counts) == sorted(counts)
  assert list(shares) == sorted(shares)
  assert (counts[-1], shares[-1]) == (90, 1.0)


def test_an_id_that_no_token_has_is_never_the_likeliest(model):
  params = dict(make_params(model))
  score = make_scorer(model)
  # 299 gets the largest logit or, where that of 7 is negative, 298.
  embed_VD = np.array(params["embed_VD"])
  embed_VD[299], embed_VD[298] = 100 * embed_VD[7], -100 * embed_VD[7]
  params["embed_VD"] = jax.numpy.asarray(embed_VD)
  texts = score(params, [Request([5, 6], [i]) for i in range(3, 259)])
  best = np.argmax([s.log_prob for s in texts])
  assert np.flatnonzero([s.is_greedy for s in texts]).tolist() == [best]
  assert texts[best].log_prob < -10  # They have their part of the probability.


def test_no_requests(model):
  assert make_scorer(model)(make_params(model), []) == []
