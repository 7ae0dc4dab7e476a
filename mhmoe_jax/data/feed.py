"""Batches of numpy arrays, from a place that can be saved.

Here is the feed of one tf.data pipeline. Training, which deals the text to several
streams of them, is in streams.py; validation, which nobody resumes, in validation.py.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import functools
import weakref

from mhmoe_jax.data.config import DataConfig
from mhmoe_jax.data.prepared import identify_prepared
from mhmoe_jax.data.quiet import seqio, tf
from mhmoe_jax.data.snapshot import restore_iterator, save_iterator
from mhmoe_jax.data.sources import plain_errors
from mhmoe_jax.data.validation import Batch
from mhmoe_jax.data.vocabularies import make_vocabulary
from mhmoe_jax.data.windows import make_task, read_windows

_PREFETCHED_BATCHES = 2


class Feed(Iterator[Batch]):
  """An iterator over batches, whose place can be saved and restored.

  A batch is a dict of (b, L) arrays: inputs, targets, weights, segments and positions,
  as `pack` describes them.

  Args:
    ds: batches of tensors.
    pipeline: all that decides what the batches are, as JSON values.
    threads: how many of TensorFlow's may work for it.
  """

  def __init__(
    self, ds: tf.data.Dataset, pipeline: Mapping[str, str | int], threads: int
  ):
    self._pipeline = pipeline
    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = threads
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

  def restore(self, state: bytes) -> str:
    """Moves to the place that `save` returned, in this process or another.

    The next batches are bit for bit those that the saved feed yielded next. Returns
    what a user should know, or "".

    Raises:
      ValueError: the state is not one, or that of a feed made from something else.
    """
    return restore_iterator(self._iterators[0], self._pipeline, state)


def open_task(cfg: DataConfig) -> seqio.Task:
  """Returns the task of a config; its files are checked.

  Raises:
    ValueError: the text cannot be read.
  """
  return make_task(cfg, None if cfg.prepared else make_vocabulary(cfg.vocabulary))


def open_split(
  task: seqio.Task,
  split: str,
  sequence_length: int,
  shard: seqio.ShardInfo | None = None,
) -> Callable[..., tf.data.Dataset]:
  """Returns read_windows of a split, but for the seed.

  Raises:
    ValueError: the text cannot be read, or there is none.
  """
  texts = task.replace(preprocessors=[], output_features={}).get_dataset(
    split=split, shuffle=False, shard_info=shard, try_in_mem_cache=False
  )
  with plain_errors():
    first = next(iter(texts), None)
  # An endless feed of nothing would hang without a word.
  if first is None:
    raise ValueError(
      f"Every stream must have some {split} text, got none for "
      f"stream {shard.index if shard else 0} of {shard.num_shards if shard else 1}."
    )
  return functools.partial(read_windows, task, split, sequence_length, shard)


def describe_pipeline(
  cfg: DataConfig, split: str, batch_size: int
) -> dict[str, str | int]:
  """Returns all that decides what a feed yields; the other split does not."""
  fields, other = dataclasses.asdict(cfg), "valid" if split == "train" else "train"
  del fields[other]
  if cfg.mixture:
    for own in fields["mixture"].values():
      own.pop(other, None)
  else:
    del fields["mixture"], fields["mixture_exponent"]
  if cfg.prepared:  # What it is, not where: the folder may move.
    fields["prepared"] = identify_prepared(cfg)
  else:
    del fields["prepared"]
  return fields | {"split": split, "batch_size": batch_size}
