"""Packing: seqio's converter is the oracle, a table the definition."""

import numpy as np
import pytest

from mhmoe_jax.data.packing import pack
from mhmoe_jax.data.quiet import seqio, tf


def _windows(*windows) -> tf.data.Dataset:
  ragged = tf.ragged.constant([list(window) for window in windows], dtype=tf.int32)
  return tf.data.Dataset.from_tensor_slices(ragged).map(lambda w: {"targets": w})


def _pack(windows, sequence_length, batch_size):
  batches = list(pack(_windows(*windows), sequence_length, batch_size))
  assert all(batch["targets"].shape[0] == batch_size for batch in batches)
  return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}


def test_by_hand():
  windows = [[3, 9, 1], [4, 1], [5, 6, 7], [2, 2, 1], [8] * 6, [1]]
  rows = _pack(windows, 6, batch_size=3)
  expected = {
    "inputs": [[0, 3, 9, 0, 4, 0], [0, 5, 6, 0, 2, 2], [0, 8, 8, 8, 8, 8], [0] * 6],
    "targets": [[3, 9, 1, 4, 1, 0], [5, 6, 7, 2, 2, 1], [8] * 6, [1, 0, 0, 0, 0, 0]],
    "weights": [[1, 1, 1, 1, 1, 0], [1] * 6, [1] * 6, [1, 0, 0, 0, 0, 0]],
    "segments": [[1, 1, 1, 2, 2, 0], [1, 1, 1, 2, 2, 2], [1] * 6, [1, 0, 0, 0, 0, 0]],
    "positions": [[0, 1, 2, 0, 1, 0], [0, 1, 2, 0, 1, 2], [*range(6)], [0] * 6],
  }
  # Four rows make two batches of three; the last two rows are empty.
  for key, values in expected.items():
    np.testing.assert_array_equal(rows[key], values + [[0] * 6] * 2)
    assert rows[key].dtype == (np.float32 if key == "weights" else np.int32)


# seqio's packing needs AutoGraph, and that warns on Python 3.13. Ours does not.
@pytest.mark.filterwarnings("ignore:.*___pyct_anno.*:DeprecationWarning")
@pytest.mark.parametrize("seed", range(5))
def test_equals_seqio(seed):
  rng = np.random.default_rng(seed)
  length = 12
  windows = [
    rng.integers(1, 99, size).tolist()
    for size in rng.integers(1, length + 1, rng.integers(1, length + 1))
  ]
  oracle = list(
    seqio.LMFeatureConverter(pack=True)(_windows(*windows), {"targets": length})
  )
  rows = _pack(windows, length, batch_size=1)
  for key, name in {
    "inputs": "input_tokens",
    "targets": "target_tokens",
    "weights": "loss_weights",
    "segments": "segment_ids",
    "positions": "positions",
  }.items():
    np.testing.assert_array_equal(
      rows[key], [row[f"decoder_{name}"] for row in oracle], err_msg=key
    )


def test_of_nothing():
  assert not list(pack(_windows([1]).take(0), 4, batch_size=2))
