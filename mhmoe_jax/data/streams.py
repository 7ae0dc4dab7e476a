"""Training batches from several independent streams of text.

The text is dealt to `cfg.streams` readers, each with its own shuffle buffer and its own
place. Stream i yields rows i * b to (i + 1) * b - 1 of every batch, b = batch_size /
streams. So batches follow from the config alone: any number of processes may share the
streams, and another number may go on where they stopped.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mhmoe_jax.data.config import DataConfig, named
from mhmoe_jax.data.feed import Batch, Feed, describe_pipeline, open_split
from mhmoe_jax.data.packing import pack
from mhmoe_jax.data.quiet import seqio, tf
from mhmoe_jax.data.sources import mixture_rates
from mhmoe_jax.data.vocabularies import begin_id

# TensorFlow's threads for all streams together; training on a CPU needs the cores.
_THREADS = 4


class TrainFeed(Iterator[Batch]):
  """An endless iterator over the rows of some streams, in their order.

  Args:
    feeds: one for each stream, by its number, ascending.
  """

  def __init__(self, feeds: Mapping[int, Feed]):
    self._feeds = feeds

  def __next__(self) -> Batch:
    parts = [next(feed) for feed in self._feeds.values()]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

  def save(self, streams: Sequence[int]) -> dict[int, bytes]:
    """Returns the places of these streams."""
    return {stream: self._feeds[stream].save() for stream in streams}

  def restore(self, states: Mapping[int, bytes]) -> None:
    """Moves to the places that `save` returned, in this process or others.

    The next batches are bit for bit those that came next there.

    Raises:
      ValueError: a stream has no place, or that of a stream made from something else.
    """
    missing = sorted(self._feeds.keys() - states.keys())
    if missing:
      raise ValueError(
        "data.streams must stay what it was when a run began, got no state of "
        f"stream {missing[0]}."
      )
    for stream, feed in self._feeds.items():
      feed.restore(states[stream])


def make_train_feed(
  cfg: DataConfig, batch_size: int, streams: Sequence[int] | None = None
) -> TrainFeed:
  """Returns an endless feed of shuffled training text.

  In every epoch of a stream each window of its share comes once, in a new order that
  follows from cfg.seed alone. Of a mixture each member has epochs of its own, and every
  window is drawn from one of them at random.

  Args:
    cfg: the data.
    batch_size: rows of the batch of all streams.
    streams: numbers of those to read, ascending; None for all.

  Raises:
    ValueError: cfg.streams does not divide batch_size, the text cannot be read, or a
      stream's share of it is empty.
  """
  if batch_size % cfg.streams:
    raise ValueError(
      "data.streams must divide batch_size, got "
      f"data.streams={cfg.streams}, batch_size={batch_size}."
    )
  streams = range(cfg.streams) if streams is None else streams
  threads = max(_THREADS // len(streams), 1)
  return TrainFeed({i: _make_stream(cfg, batch_size, i, threads) for i in streams})


def _make_stream(cfg: DataConfig, batch_size: int, stream: int, threads: int) -> Feed:
  shard = seqio.ShardInfo(stream, cfg.streams)
  if cfg.mixture:
    parts = []
    for name, member in cfg.members().items():
      with named(name):
        parts.append(_read_forever(member, shard))
    # As seqio.Mixture draws. That would repeat each member before its shuffle buffer,
    # and take the sizes from a cache.
    seed = np.random.SeedSequence([cfg.seed, stream]).generate_state(1)[0] >> 1
    ds = tf.data.Dataset.sample_from_datasets(parts, mixture_rates(cfg), int(seed))
  else:
    ds = _read_forever(cfg, shard)
  size = batch_size // cfg.streams
  ds = pack(ds, cfg.sequence_length, size, begin_id(cfg.vocabulary))
  pipeline = describe_pipeline(cfg, "train", batch_size) | {"stream": stream}
  return Feed(ds, pipeline, threads)


def _read_forever(cfg: DataConfig, shard: seqio.ShardInfo) -> tf.data.Dataset:
  read = open_split(cfg, "train", shard)

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

  return tf.data.Dataset.counter().flat_map(read_epoch)
