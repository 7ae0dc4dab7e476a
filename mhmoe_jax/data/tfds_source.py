"""The source of text that reads a data set of TensorFlow Datasets."""

from collections.abc import Iterator, Mapping
import contextlib
import hashlib
import urllib.error
import urllib.request

from absl import logging

from mhmoe_jax.data.config import DataConfig
from mhmoe_jax.data.quiet import seqio, tf, tfds
from mhmoe_jax.data.spans import least_spans, span_records


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

  def fingerprint(self, split: str) -> dict[str, str]:
    """Returns what tells the records of a split from those of another build."""
    builder = self.tfds_dataset.builder
    made = builder.info.splits[self._tfds_splits[split]]
    shards = hashlib.sha256(repr(made.shard_lengths).encode()).hexdigest()
    name = f"file {builder.info.full_name} {self._tfds_splits[split]}"
    return {name: f"{made.num_examples} records, {shards[:16]}"}

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


def _build(builder: tfds.core.DatasetBuilder, name: str) -> None:
  """Downloads and builds a data set that is not there, if it needs nothing else."""
  urls = [url for url in builder.url_infos or {} if url.startswith("http")]
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)  # A paragraph about Apache Beam.
  try:
    if builder.is_prepared():
      return
    for url in urls[:1]:  # Where nobody answers, TFDS would try for minutes.
      with contextlib.suppress(urllib.error.HTTPError):
        urllib.request.urlopen(url, timeout=20).close()
    builder.download_and_prepare()
  except (OSError, ImportError) as error:  # Apache Beam, or what reads the dumps.
    raise ValueError(
      f"TFDS must have built {name}: `tfds build {name.split(':')[0]}`, or set "
      f"$TFDS_DATA_DIR to where it is, got {' '.join(str(error).split())}."
    ) from None
  finally:
    logging.set_verbosity(verbosity)


def make_tfds_source(cfg: DataConfig) -> TfdsSource:
  """Returns the source of a config, downloaded and built if TFDS can do so by itself.

  Raises:
    ValueError: TFDS does not know the name, a split or the field, or has not built it.
  """
  splits = {"train": cfg.train, "validation": cfg.valid}
  source = TfdsSource(cfg.name, splits, cfg.text_key)
  try:
    builder = source.tfds_dataset.builder
  except (ValueError, AssertionError) as error:  # The latter for an unknown version.
    reason = str(error).strip().splitlines()[0]
    raise ValueError(f"TFDS must know name, got name={cfg.name!r}: {reason}") from None
  _build(builder, cfg.name)
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
