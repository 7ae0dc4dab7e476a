"""Windows of tokens to batches of rows, each row several segments long.

seqio's own packing holds sequence_length windows at once: memory, the wait for the
first batch and the state saved with the iterator grow with the square of the length (at
8192 tokens 4.7 GB, 12 s and 1 GB). This one holds a single row. Up to sequence_length
windows, both pack alike; a test compares them.
"""

import functools

from mhmoe_jax.data.quiet import tf


def pack(
  ds: tf.data.Dataset, sequence_length: int, batch_size: int, begin: int = 0
) -> tf.data.Dataset:
  """Packs windows into rows, in order: a row is closed when the next one does not fit.

  Args:
    ds: windows, {"targets": (l,) int32} with 1 <= l <= sequence_length.
    sequence_length: L.
    batch_size: B.
    begin: the first input of every segment.

  Returns:
    Batches of (B, L), int32 but for weights. The last one is filled up with empty rows.
      inputs: targets shifted by one, inside each segment; its first input is `begin`.
      targets: the windows of the row, then pad.
      weights: float32, 1 for a target and 0 for padding.
      segments: 1 for the first window of the row, 2 for the second ..., 0 for padding.
      positions: 0, 1, 2 ... in every segment, 0 for padding.
  """

  def step(row, example):
    window = example["targets"]
    window = tf.stack([window, tf.range(tf.size(window))])
    length = tf.shape(row)[1]
    fits = length + tf.shape(window)[1] <= sequence_length
    end = tf.where(fits, 0, length)
    return tf.concat([row[:, end:], window], axis=1), row[:, :end]

  # A last window that fits into no row that holds something, to close that row.
  last = tf.data.Dataset.from_tensors({"targets": tf.zeros(sequence_length, tf.int32)})
  nothing = tf.zeros((2, 0), tf.int32)
  ds = ds.concatenate(last).scan(nothing, step)
  ds = ds.filter(lambda row: tf.shape(row)[1] > 0)
  ds = ds.concatenate(tf.data.Dataset.from_tensors(nothing).repeat(batch_size - 1))
  ds = ds.padded_batch(
    batch_size, (2, sequence_length), padding_values=-1, drop_remainder=True
  )
  finish = functools.partial(_finish, begin=begin)
  return ds.map(finish, num_parallel_calls=tf.data.AUTOTUNE)


def _finish(rows, begin):
  """Splits rows (B, 2, L) of tokens and positions, padded with -1, into arrays."""
  tokens, positions = tf.unstack(rows, axis=1)
  starts = tf.cast(positions == 0, tf.int32)
  is_text = tokens >= 0
  targets = tf.where(is_text, tokens, 0)
  return {
    "inputs": tf.where(
      positions > 0, tf.roll(targets, 1, axis=1), tf.where(is_text, begin, 0)
    ),
    "targets": targets,
    "weights": tf.cast(is_text, tf.float32),
    "segments": tf.where(is_text, tf.cumsum(starts, axis=1), 0),
    "positions": tf.where(is_text, positions, 0),
  }
