"""Batches of several kinds, added up and shown."""

import jax.numpy as jnp
import numpy as np

from mhmoe_jax import sharding
from mhmoe_jax.train.evaluate import Evaluator


class Letters:
  """Two kinds of batches; the sum and the shape of what is in them is counted."""

  show = None

  def count(self, params, fixed, batch):
    return {"sum": params * batch["x"].sum() + fixed}

  def eval_batches(self, batch_size):
    made = {"a": [1.0, 2.0, 4.0], "b": [3.0], "c": []}
    batch = np.ones((batch_size, 2), np.float32)
    return {
      kind: iter([({"x": x * batch}, {"rows": batch_size}) for x in xs])
      for kind, xs in made.items()
    }

  def summarize(self, sums):
    return sums


class Shown(Letters):
  def show(self, params, fixed, batches):
    return {kind: batch["x"].sum() + fixed for kind, batch in batches.items()}

  def draw(self, shown):
    return {kind: float(x) for kind, x in shown.items()}

  def eval_batches(self, batch_size):
    return {k: x for k, x in super().eval_batches(batch_size).items() if k != "c"}


def evaluator(task, limit=0):
  return Evaluator(task, 8, sharding.make_mesh(data=4, expert=2), limit)


def test_sums_by_kind_and_what_the_host_counted():
  found = evaluator(Letters())(jnp.float32(2), jnp.float32(1))
  assert found == {
    "a": {"sum": 2 * 16 * 7 + 3, "rows": 24},
    "b": {"sum": 2 * 16 * 3 + 1, "rows": 8},
    "c": {},
  }


def test_a_limit_of_batches():
  found = evaluator(Letters(), limit=2)(jnp.float32(2), jnp.float32(0))
  assert found["a"] == {"sum": 2 * 16 * 3, "rows": 16}


def test_pictures_are_of_the_first_batch_of_every_kind():
  assert evaluator(Shown()).draw(None, jnp.float32(1)) == {"a": 17.0, "b": 49.0}
  assert evaluator(Letters()).draw(None, None) == {}
