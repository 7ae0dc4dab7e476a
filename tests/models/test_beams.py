"""Beam search over tables of probabilities, step by step by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from mhmoe_jax.models import beams

END = 1
advance = jax.jit(beams.advance, static_argnums=(3, 4))


def begin(num_beams, length):
  return beams.begin(jnp.zeros(1, bool), num_beams, length, 0)


def tables(*rows):
  """Log-probabilities of one row, its beams and four tokens."""
  return jnp.log(jnp.asarray([rows], jnp.float32))


def test_two_beams():
  """Three steps, in the second of which the best text ends."""
  found = begin(2, 4)
  # Both beams begin alike, and so only one counts.
  first = tables([0.1, 0.1, 0.5, 0.3], [0.1, 0.1, 0.5, 0.3])
  found, parents_BW = advance(found, first, jnp.int32(1), END, 1.0)
  assert found.tokens_BWT[0, :, :2].tolist() == [[0, 2], [0, 3]]
  assert parents_BW.tolist() == [[0, 0]]
  np.testing.assert_allclose(jnp.exp(found.scores_BW), [[0.5, 0.3]], rtol=1e-6)
  assert (found.worths_BW == -jnp.inf).all()

  # 0.5 * 0.6 ends, 0.3 * 0.9 and 0.5 * 0.2 go on; another end, 0.3 * 0.1, is third.
  second = tables([0.15, 0.6, 0.2, 0.05], [0.9, 0.1, 0.0, 0.0])
  found, parents_BW = advance(found, second, jnp.int32(2), END, 1.0)
  assert found.tokens_BWT[0, :, :3].tolist() == [[0, 3, 0], [0, 2, 2]]
  assert parents_BW.tolist() == [[1, 0]]
  assert found.ended_BWT[0, 0, :3].tolist() == [0, 2, 1]
  np.testing.assert_allclose(found.worths_BW[0, 0], np.log(0.3) / 2, rtol=1e-6)
  assert found.worths_BW[0, 1] == -jnp.inf
  assert not found.is_done_B[0]

  # 0.27 * 0.7 ends: over its length it is worth more than the shorter one.
  third = tables([0.3, 0.7, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25])
  found, _ = advance(found, third, jnp.int32(3), END, 1.0)
  text_BT, worth_B = beams.best(found, 1.0)
  assert text_BT.tolist() == [[0, 3, 0, 1]]
  np.testing.assert_allclose(worth_B, [np.log(0.27 * 0.7) / 3], rtol=1e-6)
  # Without a penalty the likeliest text is the best.
  found = found._replace(worths_BW=jnp.log(jnp.array([[0.3, 0.27 * 0.7]])))
  found = found._replace(ended_BWT=found.ended_BWT[:, ::-1])
  assert beams.best(found, 0.0)[0].tolist() == [[0, 2, 1, 0]]
  assert found.is_done_B[0]


def test_what_is_done_stays():
  """Though what went on would be worth more in the end."""
  found = begin(1, 4)
  found, _ = advance(found, tables([0.1, 0.4, 0.35, 0.15]), jnp.int32(1), END, 0.6)
  assert found.is_done_B[0]
  before = beams.best(found, 0.6)
  for place in (2, 3):
    sure = tables([0.0, 1.0, 0.0, 0.0])
    found, _ = advance(found, sure, jnp.int32(place), END, 0.6)
  for x, y in zip(before, beams.best(found, 0.6), strict=True):
    np.testing.assert_array_equal(x, y)
  assert before[0].tolist() == [[0, 1, 0, 0]]


def test_when_a_row_is_done():
  """Once the worst that has ended is worth what the best that goes on is now."""
  found = begin(2, 6)._replace(scores_BW=jnp.array([[-3.0, -3.5]]))
  going = tables([0.9, 0.0, 0.05, 0.05], [0.9, 0.0, 0.05, 0.05])
  for worst, is_done in ((-1.2, False), (-0.7, True)):
    ended = found._replace(worths_BW=jnp.array([[-0.5, worst]]))
    after, _ = advance(ended, going, jnp.int32(4), END, 1.0)
    assert after.is_done_B.tolist() == [is_done]  # The best is worth -3.1 / 4.
  one = found._replace(worths_BW=jnp.array([[-0.5, -jnp.inf]]))
  assert not advance(one, going, jnp.int32(4), END, 1.0)[0].is_done_B[0]


def test_a_text_that_is_cut():
  """It counts where the row is not done, over all places."""
  found = begin(1, 3)
  for place in (1, 2):
    probabilities = tables([0.1, 0.2, 0.0, 0.7])
    found, _ = advance(found, probabilities, jnp.int32(place), END, 0.5)
  text_BT, worth_B = beams.best(found, 0.5)
  assert text_BT.tolist() == [[0, 3, 3]]
  np.testing.assert_allclose(worth_B, [2 * np.log(0.7) / 2**0.5], rtol=1e-6)
  assert not found.is_done_B[0]
