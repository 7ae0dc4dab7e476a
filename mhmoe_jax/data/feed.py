"""Batches of numpy arrays for one process, from a place that can be saved.

Training reads the process's own share of the text. Validation is packed whole by every
process, which then takes its rows of each global batch: neither the number of batches
nor what is in them depends on the number of processes.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import functools
import weakref

import numpy as np

from mhmoe_jax.data.config import DataConfig
from mhmoe_jax.data.packing import pack
from mhmoe_jax.data.quiet import seqio, tf
from mhmoe_jax.data.snapshot import restore_iterator, save_iterator
from mhmoe_jax.data.sources import plain_errors
from mhmoe_jax.data.tasks import make_task, read_windows
from mhmoe_jax.data.vocabularies import make_vocabulary

# TensorFlow's threads for one feed; training on a CPU needs the cores.
_THREADS = 4
_PREFETCHED_BATCHES = 2

Batch = dict[str, np.ndarray]


class Feed(Iterator[Batch]):
  """An iterator over the batches of one process, whose place can be saved and restored.

  A batch is a dict of (b, L) arrays, b the rows of the process: inputs, targets,
  weights, segments and positions, as `pack` describes them.

  Args:
    ds: batches of tensors.
    pipeline: all that decides what the batches are, as JSON values.
  """

  def __init__(self, ds: tf.data.Dataset, pipeline: Mapping[str, str | int]):
    self._pipeline = pipeline
    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = _THREADS
    options.threading.max_intra_op_parallelism = 1
    # Every epoch has its own seed, so there is no state outside the iterator to save;
    # tf.data cannot tell.
    options.experimental_external_state_policy = (
      tf.data.experimental.ExternalStatePolicy.IGNORE
    )
    ds = ds.prefetch(_PREFETCHED_BATCHES).with_options(options)
    # tf.data's threads read ahead, in Python functions. At exit they have to stop
    # before Python does, or they hang or abort the process.
    self._iterators = [iter(ds)]
    weakref.finalize(self, self._iterators.clear)

  def __next__(self) -> Batch:
    with plain_errors():
      batch = next(self._iterators[0])
    return {key: tensor.numpy() for key, tensor in batch.items()}

  def save(self) -> bytes:
    """Returns the place of the feed."""
    return save_iterator(self._iterators[0], self._pipeline)

  def restore(self, state: bytes) -> None:
    """Moves to the place that `save` returned, in this process or another.

    The next batches are bit for bit those that the saved feed yielded next.

    Raises:
      ValueError: the state is not one, or that of a feed made from something else.
    """
    restore_iterator(self._iterators[0], self._pipeline, state)


def make_train_feed(
  cfg: DataConfig, batch_size: int, process_index: int = 0, process_count: int = 1
) -> Feed:
  """Returns an endless feed of shuffled training text.

  Every epoch uses each window of the process's share once, in a new order that follows
  from cfg.seed alone.

  Args:
    cfg: the data.
    batch_size: rows of the global batch; the feed yields batch_size / process_count.
    process_index: which process this is.
    process_count: how many processes share the data.

  Raises:
    ValueError: process_count does not divide batch_size, the text cannot be read, or
      the process's share of it is empty.
  """
  rows = _divide(batch_size, process_index, process_count)
  shard = seqio.ShardInfo(process_index, process_count)
  read = _open(cfg, "train", shard)

  # seqio repeats before the shuffle buffer, which then mixes epochs; and a shuffle that
  # is exhausted when the iterator is saved forgets its seed, so that `repeat` would not
  # resume exactly. So every epoch is a data set of its own, with a seed of its own.
  @tf.autograph.experimental.do_not_convert
  def read_epoch(epoch):
    # Mixed into 31 bits, because tf.data takes seeds modulo 2**31 - 1.
    seed = tf.random.stateless_uniform(
      (), (cfg.seed, epoch), maxval=2**31 - 1, dtype=tf.int64
    )
    return read(seed=seed)

  ds = tf.data.Dataset.counter().flat_map(read_epoch)
  ds = pack(ds, cfg.sequence_length, rows)
  return Feed(ds, _describe(cfg, "train", batch_size, process_index, process_count))


def make_eval_feed(
  cfg: DataConfig, batch_size: int, process_index: int = 0, process_count: int = 1
) -> Feed:
  """Returns a feed of one pass over the validation text, in order.

  The last global batch is filled up with empty rows: segment 0, weight 0. Arguments and
  errors are those of make_train_feed.
  """
  rows = _divide(batch_size, process_index, process_count)
  ds = pack(_open(cfg, "validation")(), cfg.sequence_length, batch_size)
  mine = slice(process_index * rows, (process_index + 1) * rows)
  ds = ds.map(lambda batch: {key: tensor[mine] for key, tensor in batch.items()})
  return Feed(
    ds, _describe(cfg, "validation", batch_size, process_index, process_count)
  )


def count_bytes(batch: Batch, token_bytes_V: np.ndarray) -> int:
  """Returns the bytes of text behind those targets of a batch that have a weight."""
  return int(token_bytes_V[batch["targets"]][batch["weights"] > 0].sum())


def _divide(batch_size: int, process_index: int, process_count: int) -> int:
  if not 0 <= process_index < process_count:
    raise ValueError(
      "process_index must be at least 0 and less than process_count, got "
      f"process_index={process_index}, process_count={process_count}."
    )
  if batch_size < 1 or batch_size % process_count:
    raise ValueError(
      "process_count must divide batch_size, got "
      f"process_count={process_count}, batch_size={batch_size}."
    )
  return batch_size // process_count


def _open(
  cfg: DataConfig, split: str, shard: seqio.ShardInfo | None = None
) -> Callable[..., tf.data.Dataset]:
  """Returns read_windows of a split, but for the seed."""
  task = make_task(cfg, make_vocabulary(cfg.vocabulary))
  texts = task.replace(preprocessors=[], output_features={}).get_dataset(
    split=split, shuffle=False, shard_info=shard, try_in_mem_cache=False
  )
  with plain_errors():
    first = next(iter(texts), None)
  # An endless feed of nothing would hang without a word.
  if first is None:
    raise ValueError(
      f"Every process must have some {split} text, got none for "
      f"process_index={shard.index if shard else 0}, "
      f"process_count={shard.num_shards if shard else 1}."
    )
  return functools.partial(read_windows, task, split, cfg.sequence_length, shard)


def _describe(
  cfg: DataConfig, split: str, batch_size: int, process_index: int, process_count: int
) -> dict[str, str | int]:
  """Returns all that decides what a feed yields; the other split does not."""
  fields = dataclasses.asdict(cfg)
  del fields["valid" if split == "train" else "train"]
  return fields | {
    "split": split,
    "batch_size": batch_size,
    "process_index": process_index,
    "process_count": process_count,
  }
