"""Numbered feeds: every example once an epoch, the same rows whoever makes them."""

import numpy as np
import pytest

from mhmoe_jax.data.images.numbered import NumberedFeed, one_pass


def make_row(place):
  return {"x": np.array([place.index, place.epoch])}


def feed(rows=range(4), seed=0, count=10):
  return NumberedFeed(make_row, count, 4, rows, seed)


def test_each_epoch_has_every_example_once_in_another_order():
  made = np.concatenate([next(feed_)["x"] for feed_ in [feed()] for _ in range(5)])
  assert (made[:, 1] == np.arange(20) // 10).all()
  first, second = made[:10, 0], made[10:, 0]
  assert sorted(first) == sorted(second) == list(range(10))
  assert list(first) != list(second)
  other = next(feed(seed=1))["x"]
  assert (other != made[:4]).any()


def test_rows_do_not_depend_on_who_makes_them_or_where_one_begins():
  whole, one, other = feed(), feed([0, 2]), feed([1, 3])
  for _ in range(4):
    x = next(whole)["x"]
    np.testing.assert_array_equal(next(one)["x"], x[[0, 2]])
    np.testing.assert_array_equal(next(other)["x"], x[[1, 3]])
  resumed = feed()
  resumed.next_batch = whole.next_batch
  np.testing.assert_array_equal(next(resumed)["x"], next(whole)["x"])


def test_one_pass_fills_up_the_last_batch():
  first, last = one_pass(make_row, 5, 3)
  np.testing.assert_array_equal(first["x"][:, 0], [0, 1, 2])
  np.testing.assert_array_equal(last["x"], [[3, 0], [4, 0], [0, 0]])
  np.testing.assert_array_equal(last["real"], [1, 1, 0])


def test_an_error_in_a_thread_is_raised_as_it_is():
  def fail(place):
    raise ValueError(f"cannot read picture {place.index}.")

  with pytest.raises(ValueError, match=r"^cannot read picture 0\.$"):
    next(NumberedFeed(fail, 1, 1, [0], 0))
