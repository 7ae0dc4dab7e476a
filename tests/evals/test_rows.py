"""Packing by hand, and what must hold of any."""

import numpy as np
import pytest

from mhmoe_jax.evals.rows import Request, fill, fit, plan, targets


def of_lengths(*lengths):
  """Requests of these lengths, each with its number as its tokens."""
  return [Request([i + 1] * (n - 1), [i + 1]) for i, n in enumerate(lengths)]


def test_a_batch_by_hand():
  requests = [Request([5, 6], [7, 8]), Request([], [9])]
  (batch,) = plan(requests, batch_tokens=128, multiple=1)
  assert batch.rows == [[0, 1]]
  arrays = fill(batch, requests)

  def start(name):
    assert not arrays[name][:, 5:].any()
    return arrays[name][0, :5].tolist()

  # What begins, the context and all but the last token go in.
  assert start("inputs") == [0, 5, 6, 7, 0]
  assert start("targets") == [0, 0, 7, 8, 9]
  assert start("segments") == [1, 1, 1, 1, 2]
  assert start("positions") == [0, 1, 2, 3, 0]
  begun = fill(batch, requests, begin=3)
  assert begun["inputs"][0, :6].tolist() == [3, 5, 6, 7, 3, 0]
  places = dict(targets(batch, requests))
  assert places == {0: (0, slice(2, 4)), 1: (0, slice(4, 5))}


def test_contexts_are_cut_from_the_left():
  request = Request([1, 2, 3], [4, 5])
  assert fit(request, 9) == fit(request, 5) == request
  assert fit(request, 4) == ([2, 3], [4, 5])
  assert fit(request, 2) == ([], [4, 5])
  with pytest.raises(ValueError, match=r"from 1 to 1 tokens, .*, got 2"):
    fit(request, 1)
  with pytest.raises(ValueError, match="got 0"):
    fit(Request([1], []), 9)


def test_a_row_length_for_each_doubling():
  requests = of_lengths(10, 64, 65, 128, 129, 500, 3)
  batches = plan(requests, batch_tokens=1024, multiple=2)
  dealt = {batch.row_length: batch.rows for batch in batches}
  # 10 fits best behind 500, 65 and 3 behind 129. Two devices: no fewer rows than two.
  assert dealt == {512: [[5, 0], []], 256: [[4, 2, 6], []], 128: [[3], [1]]}
  assert [batch.row_length for batch in batches] == [512, 256, 128]


@pytest.mark.parametrize(("batch_tokens", "multiple"), [(2**13, 1), (2**11, 8)])
def test_any_requests(batch_tokens, multiple):
  rng = np.random.default_rng(0)
  lengths = rng.integers(1, 700, size=500)
  requests = of_lengths(*lengths)
  batches = plan(requests, batch_tokens, multiple)
  shapes = {(len(batch.rows), batch.row_length) for batch in batches}
  assert len(shapes) == len({length for _, length in shapes}) == 4
  seen = []
  for batch in batches:
    assert len(batch.rows) % multiple == 0
    least = multiple * batch.row_length
    assert batch.num_tokens <= max(batch_tokens, least)
    arrays = fill(batch, requests)
    for i, (row, part) in targets(batch, requests):
      seen.append(i)
      assert (arrays["targets"][row, part] == i + 1).all()
      segment = arrays["segments"][row] == arrays["segments"][row, part][0]
      assert segment.sum() == lengths[i]
      assert np.flatnonzero(segment)[-1] == part.stop - 1
      inputs = arrays["inputs"][row, segment]
      assert inputs.tolist() == [0] + [i + 1] * (lengths[i] - 1)
      assert arrays["positions"][row, segment].tolist() == list(range(lengths[i]))
    padding = arrays["segments"] == 0
    assert not any(arrays[name][padding].any() for name in arrays)
  assert sorted(seen) == list(range(500))
  assert lengths.sum() > 0.95 * sum(batch.num_tokens for batch in batches)


def test_nothing_to_do():
  assert plan([], 1024, 1) == []
