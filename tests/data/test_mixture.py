"""Mixtures of texts: how often each is drawn, resuming, and what is refused."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax import sharding
from mhmoe_jax.data.sources import mixture_rates
from mhmoe_jax.data.streams import make_train_feed
from mhmoe_jax.data.windows import iterate_texts
from mhmoe_jax.tasks.language import Language
from mhmoe_jax.train.evaluate import Evaluator
from tests.data.batches import assert_equal, take


@pytest.fixture
def mixture(cfg, tmp_path):
  """Three texts of 640, 5,760 and 640 bytes: all a, all b, all c."""
  members = {}
  for letter, lines in (("a", 10), ("b", 90), ("c", 10)):
    path = tmp_path / f"{letter}.txt"
    path.write_text((letter * 63 + "\n") * lines)
    members[letter] = {"train": str(path), "valid": str(path)}
  return dataclasses.replace(
    cfg, source="text", mixture=members, mixture_exponent=0.5, sequence_length=16
  )


@pytest.mark.parametrize(
  ("exponent", "rates"),
  [(1.0, [1 / 11, 9 / 11, 1 / 11]), (0.5, [0.2, 0.6, 0.2]), (0.0, [1 / 3] * 3)],
)
def test_rates(mixture, exponent, rates):
  mixture = dataclasses.replace(mixture, mixture_exponent=exponent)
  np.testing.assert_allclose(mixture_rates(mixture), rates)


def test_members_are_drawn_at_these_rates(mixture):
  batches = take(make_train_feed(mixture, 32), 40)
  letters = np.concatenate([b["targets"] for b in batches]).ravel() - 3
  shares = [(letters == ord(letter)).sum() for letter in "abc"]
  # 1,280 draws of one in five have a deviation of 0.011.
  np.testing.assert_allclose(np.array(shares) / sum(shares), [0.2, 0.6, 0.2], atol=0.05)


def test_one_member_is_that_text(mixture):
  one = dataclasses.replace(mixture, mixture={"b": mixture.mixture["b"]})
  alone = mixture.members()["b"]
  assert_equal(take(make_train_feed(one, 4), 20), take(make_train_feed(alone, 4), 20))


@pytest.mark.parametrize("before", [1, 7])
def test_resumes_bit_for_bit_in_other_processes(mixture, before):
  mixture = dataclasses.replace(mixture, streams=2, shuffle_buffer=8)
  feed = make_train_feed(mixture, 8)
  take(feed, before)
  states = feed.save([0, 1])
  rest = take(feed, 30)
  resumed = make_train_feed(mixture, 8)
  resumed.restore(states)
  assert_equal(take(resumed, 30), rest)
  second = make_train_feed(mixture, 8, [1])
  second.restore(states)
  assert_equal(
    take(second, 30), [{key: x[4:] for key, x in batch.items()} for batch in rest]
  )


def test_another_mixture_does_not_resume(mixture):
  state = make_train_feed(mixture, 4).save([0])
  other = dataclasses.replace(mixture, mixture_exponent=1.0)
  with pytest.raises(ValueError, match="mixture_exponent"):
    make_train_feed(other, 4).restore(state)


def test_a_tokenizer_reads_every_member(mixture):
  assert {text[0] for text in iterate_texts(mixture, "train")} == {"a", "b", "c"}


def test_validation_is_by_member_and_the_mean_of_members(mixture, monkeypatch):
  def count(task, params, fixed, batch):
    # A nat for an a, two for a b, three for a c; nothing for line ends and EOS.
    letters = batch["targets"] - 3 - ord("a") + 1
    nats = jnp.where(letters > 0, letters, 0) * batch["weights"]
    return {"nll": nats.sum(), "num_tokens": batch["weights"].sum()}

  monkeypatch.setattr(Language, "count", count)
  task = Language(None, mixture, None)
  found = Evaluator(task, 4, sharding.make_mesh(data=1))({}, {})
  losses = [part.loss for part in found.members.values()]
  lines = np.array([10, 90, 10])
  np.testing.assert_allclose(
    losses, np.array([63, 126, 189]) * lines / (64 * lines + 1), 1e-6
  )
  np.testing.assert_allclose(found.loss, np.mean(losses))
  bits = [part.bits_per_byte for part in found.members.values()]
  np.testing.assert_allclose(bits, np.array([1, 2, 3]) * 63 / 64 / np.log(2), 1e-6)
  np.testing.assert_allclose(found.bits_per_byte, np.mean(bits))
  assert found.num_bytes == 640 + 5760 + 640


def test_refuses(mixture, refuses):
  def make(**changes):
    return dataclasses.replace(mixture, **changes)

  with refuses("mixture_exponent must be from 0 to 1, got mixture_exponent=2.0."):
    make(mixture_exponent=2.0)
  with refuses("names in mixture must be of letters, digits, - and _, got 'a b'."):
    make(mixture={"a b": {}})
  with refuses(
    "members of mixture may have source, name, train, valid, text_key, got 'trian' "
    "in 'a'."
  ):
    make(mixture={"a": {"trian": "x"}})
  with refuses(
    "source='text' needs train and valid, got train='x', valid='', in mixture 'd'."
  ):
    make(mixture={**mixture.mixture, "d": {"train": "x"}})
  nowhere = {**mixture.mixture, "d": {"train": "/none", "valid": "/none"}}
  with refuses(
    "Every pattern must match a file, got none for '/none', in mixture 'd'."
  ):
    make_train_feed(make(mixture=nowhere), 4)
  tfds = {"e": {"source": "tfds", "name": "x:1.0.0", "text_key": "text"}}
  with refuses(
    "members of a mixture must be all of tfds, or none, unless mixture_exponent is 0, "
    "got mixture_exponent=0.5."
  ):
    mixture_rates(make(mixture=mixture.mixture | tfds, train="train", valid="test"))
