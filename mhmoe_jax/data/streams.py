"""Training batches from several independent streams of text.

The text is dealt to `cfg.streams` readers, each with its own shuffle buffer and its own
place. Stream i yields rows i * b to (i + 1) * b - 1 of every batch, b = batch_size /
streams. So batches follow from the config alone: any number of processes may share the
streams, and another number may go on where they stopped.
"""

from collections.abc import Iterator, Mapping, Sequence

from absl import logging
import numpy as np

from mhmoe_jax.data.config import DataConfig, named
from mhmoe_jax.data.feed import Feed, describe_pipeline, open_split, open_task
from mhmoe_jax.data.files import match_files
from mhmoe_jax.data.packing import pack
from mhmoe_jax.data.quiet import seqio, tf
from mhmoe_jax.data.sources import fingerprint_train, mixture_rates
from mhmoe_jax.data.validation import Batch
from mhmoe_jax.data.vocabularies import begin_id

# TensorFlow's threads for all streams together; training on a CPU needs the cores.
_THREADS = 4
_ACCEPT = "With --accept_changed_data the run goes on and begins the text anew."


class TrainFeed(Iterator[Batch]):
  """An endless iterator over the rows of some streams, in their order.

  Args:
    feeds: one for each stream, by its number, ascending.
    pipeline: all that decides what they yield, as JSON values; in every process the
      same.
  """

  def __init__(self, feeds: Mapping[int, Feed], pipeline: Mapping[str, str | int]):
    self._feeds = feeds
    self.pipeline = pipeline

  def __next__(self) -> Batch:
    parts = [next(feed) for feed in self._feeds.values()]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

  def save(self, streams: Sequence[int]) -> dict[int, bytes]:
    """Returns the places of these streams."""
    return {stream: self._feeds[stream].save() for stream in streams}

  def restore(self, states: Mapping[int, bytes], accept_changes: bool = False) -> str:
    """Moves to the places that `save` returned, in this process or others.

    The next batches are bit for bit those that came next there.

    Args:
      states: by stream.
      accept_changes: whether, where they are the places of other data, the text begins
        anew. A place in one text says nothing about another.

    Returns:
      What a user should know, or "".

    Raises:
      ValueError: a stream has no place, or that of a stream made from something else,
        or of a text that has changed since.
    """
    try:
      missing = sorted(self._feeds.keys() - states.keys())
      if missing:
        raise ValueError(
          "data.streams must stay what it was when a run began, got no state of "
          f"stream {missing[0]}."
        )
      notes = [feed.restore(states[i]) for i, feed in self._feeds.items()]
    except ValueError as error:
      if accept_changes:
        return f"the text begins anew: {error}"
      raise ValueError(f"{error} {_ACCEPT}") from None
    return notes[0]


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
  # First, so that a text that changes while it is opened is another when it resumes.
  pipeline = fingerprint_train(cfg) | describe_pipeline(cfg, "train", batch_size)
  parts = []
  for name, member in cfg.members().items():
    with named(name):
      parts.append(open_task(member))
  parts, rates = (parts, mixture_rates(cfg)) if parts else ([open_task(cfg)], [1.0])
  feeds = {}
  for i in streams:
    ds = _make_stream(cfg, parts, rates, seqio.ShardInfo(i, cfg.streams))
    size = batch_size // cfg.streams
    ds = pack(ds, cfg.sequence_length, size, begin_id(cfg.vocabulary))
    feeds[i] = Feed(ds, pipeline | {"stream": i}, threads)
  return TrainFeed(feeds, pipeline)


def warn_of_overlap(cfg: DataConfig) -> None:
  """Warns of files that are trained on and validated on, or trained on twice."""
  for member in cfg.members().values() if cfg.mixture else [cfg]:
    if cfg.prepared or member.source not in ("text", "jsonl"):
      continue
    train, valid = match_files(member.train), match_files(member.valid)
    if both := {*train} & {*valid}:
      logging.warning(
        "validation is of text that is trained on: %s is in data.train and data.valid",
        min(both),
      )
    if len({*train}) < len(train):
      twice = next(path for path in train if train.count(path) > 1)
      logging.warning("%s is named twice in data.train and read twice", twice)


def _make_stream(
  cfg: DataConfig,
  parts: Sequence[seqio.Task],
  rates: Sequence[float],
  shard: seqio.ShardInfo,
) -> tf.data.Dataset:
  """The endless windows of a stream, of one task or drawn from those of a mixture."""
  if not cfg.mixture:
    return _read_forever(cfg, parts[0], shard)
  members = []
  for name, task in zip(cfg.mixture, parts, strict=True):
    with named(name):
      members.append(_read_forever(cfg, task, shard))
  # As seqio.Mixture draws. That would repeat each member before its shuffle buffer, and
  # take the sizes from a cache.
  seed = np.random.SeedSequence([cfg.seed, shard.index]).generate_state(1)[0] >> 1
  return tf.data.Dataset.sample_from_datasets(members, rates, int(seed))


def _read_forever(
  cfg: DataConfig, task: seqio.Task, shard: seqio.ShardInfo
) -> tf.data.Dataset:
  read = open_split(task, "train", cfg.sequence_length, shard)

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
