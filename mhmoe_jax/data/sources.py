"""The sources of text, each a seqio DataSource.

Every one yields {"targets": UTF-8 text, "is_last": whether a document ends with it}, so
that tasks.py need not know where text comes from.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import re

import numpy as np

from mhmoe_jax.data.config import DataConfig, named
from mhmoe_jax.data.prepared import PreparedSource
from mhmoe_jax.data.quiet import seqio, tf, tfds
from mhmoe_jax.data.spans import (
  Span,
  cut_spans,
  least_spans,
  span_bytes,
  span_records,
)
from mhmoe_jax.data.texts import find_texts, read_texts


def make_source(cfg: DataConfig) -> seqio.DataSource:
  """Returns the source of a config, with the splits "train" and "validation".

  Raises:
    ValueError: a file is missing, empty or not UTF-8; TFDS does not know the name, a
      split or the field; what is prepared is of another config.
  """
  if cfg.prepared:
    return PreparedSource(cfg)
  if cfg.source == "tfds":
    return _make_tfds_source(cfg)
  paths = {split: find_texts(cfg, split) for split in ("train", "validation")}
  return FileSource(paths, cfg.text_key if cfg.source == "jsonl" else None)


def mixture_rates(cfg: DataConfig) -> list[float]:
  """Returns the probability of each member of a mixture, in their order.

  Raises:
    ValueError: a member cannot be read, or only some are of TFDS, whose sizes are in
      records and not in bytes.
  """
  members = cfg.members()
  kinds = {member.source == "tfds" for member in members.values()}
  if len(kinds) > 1 and cfg.mixture_exponent > 0:
    raise ValueError(
      "members of a mixture must be all of tfds, or none, unless mixture_exponent is "
      f"0, got mixture_exponent={cfg.mixture_exponent}."
    )
  sizes = []
  for name, member in members.items():
    with named(name):
      sizes.append(make_source(member).size("train"))
  powers = [float(size) ** cfg.mixture_exponent for size in sizes]
  return [power / sum(powers) for power in powers]


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
  """Raises what a FileSource raised while tf.data read it.

  tf.data turns the exception of a Python function into text, with a traceback, and
  raises that.

  Raises:
    ValueError: a file is not UTF-8, or a line of JSONL is not a document.
  """
  try:
    yield
  except tf.errors.InvalidArgumentError as error:
    raised = re.search(r"ValueError: (.*)", error.message)
    if raised is None:
      raise
    raise ValueError(raised[1]) from None


class FileSource(seqio.DataSource):
  """Plain text or JSONL files, shuffled and dealt to streams in spans of lines.

  Args:
    split_to_paths: the files of each split.
    text_key: the field of a JSONL line that holds its document; None for plain text,
      where a file is one document and its line ends belong to it.
  """

  def __init__(self, split_to_paths: Mapping[str, Sequence[str]], text_key: str | None):
    super().__init__(splits=split_to_paths)
    self._split_to_paths = split_to_paths
    self._text_key = text_key

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return True

  def list_shards(self, split: str) -> Sequence[str]:
    return self._split_to_paths[split]

  def get_dataset(
    self, split="train", shuffle=True, seed=None, shard_info=None, **unused_kwargs
  ) -> tf.data.Dataset:
    spans = cut_spans(self._split_to_paths[split], least_spans(shard_info))
    ds = _slice(spans)
    if shard_info:
      ds = ds.shard(shard_info.num_shards, shard_info.index)
    if shuffle:
      ds = ds.shuffle(len(spans), seed=seed)
    return ds.map(self._read).unbatch()

  def size(self, split: str) -> int:
    """Returns the bytes of a split."""
    return sum(tf.io.gfile.stat(path).length for path in self._split_to_paths[split])

  def span_size(self, split: str, shard_info: seqio.ShardInfo | None) -> int:
    """Returns the bytes of a span."""
    return span_bytes(self.size(split), least_spans(shard_info))

  def read_spans(
    self, split: str, shard_info: seqio.ShardInfo | None, part: int, parts: int
  ) -> tf.data.Dataset:
    """Returns one of several parts of a split, in order, an element for each span."""
    spans = cut_spans(self._split_to_paths[split], least_spans(shard_info))
    first, last = (len(spans) * i // parts for i in (part, part + 1))
    return _slice(spans[first:last]).map(self._read)

  def iterate_texts(self, split: str) -> Iterator[bytes]:
    """Yields the texts of a split in order, without tensorflow."""
    for span in cut_spans(self._split_to_paths[split], 1):
      yield from read_texts(span, self._text_key)[0]

  def _read(self, span: Span) -> dict[str, tf.Tensor]:
    def read(path, start, end):
      texts, is_last = read_texts(Span(path.decode(), start, end), self._text_key)
      # As objects, because numpy's own strings lose zero bytes at their end.
      return np.array(texts, dtype=object), np.full(len(texts), is_last)

    # Without state, or an iterator over it could not be saved.
    texts, is_last = tf.numpy_function(read, span, (tf.string, tf.bool), stateful=False)
    return {
      "targets": tf.ensure_shape(texts, [None]),
      "is_last": tf.ensure_shape(is_last, [None]),
    }


def _slice(spans: Sequence[Span]) -> tf.data.Dataset:
  columns = Span(*(np.array(column) for column in zip(*spans, strict=True)))
  return tf.data.Dataset.from_tensor_slices(columns)


class TfdsSource(seqio.TfdsDataSource):
  """A field of a data set of TensorFlow Datasets."""

  def __init__(self, name: str, splits: Mapping[str, str], text_key: str):
    super().__init__(name, splits=splits)
    self._tfds_splits = splits
    self._text_key = text_key

  def get_dataset(
    self, split="train", shuffle=True, seed=None, shard_info=None, **unused_kwargs
  ) -> tf.data.Dataset:
    # As seqio reads it, but for the cache of small data sets, which would be saved with
    # the iterator, and another look for the data set on the public bucket.
    config = tfds.ReadConfig(try_autocache=False, skip_prefetch=True, shuffle_seed=seed)
    if shard_info:
      config.input_context = tf.distribute.InputContext(
        num_input_pipelines=shard_info.num_shards, input_pipeline_id=shard_info.index
      )
    return self._read(self._tfds_splits[split], shuffle, config)

  def size(self, split: str) -> int:
    """Returns the records of a split."""
    return self.tfds_dataset.builder.info.splits[self._tfds_splits[split]].num_examples

  def span_size(self, split: str, shard_info: seqio.ShardInfo | None) -> int:
    """Returns the records of a span."""
    return span_records(self.size(split), least_spans(shard_info))

  def read_spans(
    self, split: str, shard_info: seqio.ShardInfo | None, part: int, parts: int
  ) -> tf.data.Dataset:
    """Returns one of several parts of a split, an element for each span."""
    splits = tfds.even_splits(self._tfds_splits[split], n=parts)
    ds = self._read(splits[part], False, tfds.ReadConfig(try_autocache=False))
    return ds.batch(self.span_size(split, shard_info))

  def iterate_texts(self, split: str) -> Iterator[bytes]:
    """Yields the texts of a split in order."""
    for example in self.get_dataset(split, shuffle=False).as_numpy_iterator():
      yield example["targets"]

  def _read(self, split, shuffle: bool, config: tfds.ReadConfig) -> tf.data.Dataset:
    ds = self.tfds_dataset.builder.as_dataset(
      split=split, shuffle_files=shuffle, read_config=config
    )
    return ds.map(lambda example: {"targets": example[self._text_key], "is_last": True})


def _make_tfds_source(cfg: DataConfig) -> TfdsSource:
  splits = {"train": cfg.train, "validation": cfg.valid}
  source = TfdsSource(cfg.name, splits, cfg.text_key)
  try:
    builder = source.tfds_dataset.builder
  except (ValueError, AssertionError) as error:  # The latter for an unknown version.
    raise ValueError(
      f"TFDS must know name, got name={cfg.name!r}: {str(error).splitlines()[0]}"
    ) from None
  try:
    builder.download_and_prepare()
  except ImportError as error:  # Apache Beam, or what reads the dumps.
    raise ValueError(
      f"TFDS must have built {cfg.name}, which needs more packages: "
      f"`tfds build {cfg.name.split(':')[0]}`, or set $TFDS_DATA_DIR to where it is, "
      f"got {error}."
    ) from None
  for field in ("train", "valid"):
    split = getattr(cfg, field)
    try:
      builder.info.splits[split]
    except ValueError as error:
      raise ValueError(
        f"{field} must be a split of {cfg.name}, got {field}={split!r}: "
        f"{str(error).splitlines()[0]}"
      ) from None
  specs = builder.info.features.get_tensor_spec()
  text_keys = [key for key in specs if specs[key] == tf.TensorSpec((), tf.string)]
  if cfg.text_key not in text_keys:
    raise ValueError(
      f"text_key must be one of {', '.join(text_keys)} for {cfg.name}, got "
      f"text_key={cfg.text_key!r}."
    )
  return source
