"""Batches of the validation text, in order, as numpy arrays.

Files are read without tensorflow, which takes longer to import than a model to
evaluate a page. Batches are those of packing.py, which packs for training.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mhmoe_jax.data.config import DataConfig
from mhmoe_jax.data.spans import Span, cut_spans
from mhmoe_jax.data.texts import find_texts, read_texts
from mhmoe_jax.data.vocabularies import begin_id, make_vocabulary

# Tokenizers work outside of Python's lock.
_THREADS = 4

Batch = dict[str, np.ndarray]


def make_eval_feed(cfg: DataConfig, batch_size: int) -> Iterator[Batch]:
  """Yields one pass over the validation text, in order.

  The last batch is filled up with empty rows: segment 0, weight 0.

  Raises:
    ValueError: the text cannot be read, or is empty.
  """
  by_tensorflow = cfg.prepared or cfg.source == "tfds"
  windows = _stream_windows(cfg) if by_tensorflow else _read_windows(cfg)
  begin = begin_id(cfg.vocabulary)
  batches = pack(windows, cfg.sequence_length, batch_size, begin)
  first = next(batches, None)
  if first is None:
    raise ValueError("The validation split must have some text, got none.")
  yield first
  yield from batches


def count_bytes(batch: Batch, token_bytes_V: np.ndarray) -> int:
  """Returns the bytes of text behind those targets of a batch that have a weight."""
  return int(token_bytes_V[batch["targets"]][batch["weights"] > 0].sum())


def _read_windows(cfg: DataConfig) -> Iterator[np.ndarray]:
  vocabulary, length = make_vocabulary(cfg.vocabulary), cfg.sequence_length
  text_key = cfg.text_key if cfg.source == "jsonl" else None

  def encode(span: Span) -> list[np.ndarray]:
    texts, is_last = read_texts(span, text_key)
    end = [vocabulary.eos_id] if is_last else []
    return [
      np.array(vocabulary.encode(text.decode()) + end, np.int32) for text in texts
    ]

  spans = cut_spans(find_texts(cfg, "validation"), 1)
  for texts in _ahead(encode, spans):
    for tokens in texts:
      for start in range(0, len(tokens), length):
        yield tokens[start : start + length]


def _ahead(function: Callable, items: Iterable) -> Iterator:
  """`map` in threads, a few items ahead."""
  with ThreadPoolExecutor(_THREADS) as pool:
    pending = deque()
    for item in items:
      pending.append(pool.submit(function, item))
      if len(pending) > 2 * _THREADS:
        yield pending.popleft().result()
    while pending:
      yield pending.popleft().result()


def _stream_windows(cfg: DataConfig) -> Iterator[np.ndarray]:
  """What only tensorflow reads: TFDS, and prepared tokens."""
  from mhmoe_jax.data.feed import open_split, open_task
  from mhmoe_jax.data.sources import plain_errors

  with plain_errors():
    read = open_split(open_task(cfg), "validation", cfg.sequence_length)
    windows = read().as_numpy_iterator()
    for window in windows:
      yield window["targets"]


def pack(
  windows: Iterable[np.ndarray], sequence_length: int, batch_size: int, begin: int = 0
) -> Iterator[Batch]:
  """Packs windows as packing.py does, which says what is in a batch.

  Args:
    windows: (l,) int32 with 1 <= l <= sequence_length.
    sequence_length: L.
    batch_size: B.
    begin: the first input of every segment.
  """
  batch, row, end, segment = _empty(batch_size, sequence_length), 0, 0, 0
  for window in windows:
    if end + len(window) > sequence_length:
      row, end, segment = row + 1, 0, 0
    if row == batch_size:
      yield batch
      batch, row = _empty(batch_size, sequence_length), 0
    start, end, segment = end, end + len(window), segment + 1
    batch["targets"][row, start:end] = window
    batch["inputs"][row, start] = begin
    batch["inputs"][row, start + 1 : end] = window[:-1]
    batch["weights"][row, start:end] = 1
    batch["segments"][row, start:end] = segment
    batch["positions"][row, start:end] = np.arange(len(window))
  if end:
    yield batch


def _empty(batch_size: int, sequence_length: int) -> Batch:
  names = ("inputs", "targets", "segments", "positions")
  batch = {name: np.zeros((batch_size, sequence_length), np.int32) for name in names}
  return batch | {"weights": np.zeros((batch_size, sequence_length), np.float32)}
