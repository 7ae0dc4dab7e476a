import dataclasses

import numpy as np
import pytest

from mhmoe_jax.analysis.statistics import drops
from tests.analysis.made import make_pictures, make_trace

# Four tokens, two heads, two choices: token 0 loses one choice, 1 a head, 2 both heads.
DROPPED = [[[0, 1], [0, 0]], [[1, 1], [0, 0]], [[1, 1], [1, 1]], [[0, 0], [0, 0]]]


def trace(factor, dropped, loss):
  return make_trace(
    np.tile([0, 1], (4, 1, 2, 1)),
    2,
    config={"model": {"moe": {"eval_capacity_factor": factor}}},
    dropped_TNHK=np.array(dropped, bool)[:, None],
    loss_T=np.array(loss),
  )


def test_some_and_all():
  made = drops.measure(trace(1.0, DROPPED, [1] * 4))
  assert (made.choices_N, made.some_N, made.all_N) == ([7 / 16], [0.5], [0.25])


def test_cost_is_against_the_largest_factor():
  ample = trace(2.0, np.zeros((4, 2, 2)), [1, 1, 1, 1])
  cost = drops.cost_by_capacity([ample, trace(0.5, DROPPED, [1, 1, 3, 1])])
  assert cost.factor_X.tolist() == [0.5, 2.0]
  assert cost.loss_X.tolist() == [1.5, 1.0]
  assert cost.extra_X.tolist() == [0.5, 0.0]
  assert cost.some_XN.tolist() == [[0.5], [0.0]]
  other = dataclasses.replace(ample, documents=[])
  with pytest.raises(ValueError, match="traces that are compared must be of one text"):
    drops.cost_by_capacity([ample, other])


def test_pictures_are_compared_by_what_they_show():
  first = make_pictures(np.zeros((5, 1, 1, 1)), 2, 2, "a")
  drops.check_same_text([first, first])
  pixels_UYXC = 255 - first.pictures.pixels_UYXC
  pictures = first.pictures._replace(pixels_UYXC=pixels_UYXC)
  other = dataclasses.replace(first, pictures=pictures)
  with pytest.raises(ValueError, match="of one text or the same pictures, got others"):
    drops.check_same_text([first, other])
