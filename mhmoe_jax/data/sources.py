"""The sources of text, each a seqio DataSource.

Every one yields {"targets": UTF-8 text, "is_last": whether a document ends with it}, so
that tasks.py need not know where text comes from.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import re

import numpy as np

from mhmoe_jax.data.config import DataConfig, named
from mhmoe_jax.data.files import file_sizes
from mhmoe_jax.data.fingerprints import fingerprint
from mhmoe_jax.data.prepared import PreparedSource
from mhmoe_jax.data.quiet import seqio, tf
from mhmoe_jax.data.spans import (
  Span,
  cut_spans,
  least_spans,
  span_bytes,
)
from mhmoe_jax.data.texts import find_texts, read_texts
from mhmoe_jax.data.tfds_source import make_tfds_source

# What tf.data says of files that it reads itself.
_OF_FILES = (
  tf.errors.DataLossError,
  tf.errors.FailedPreconditionError,
  tf.errors.NotFoundError,
  tf.errors.PermissionDeniedError,
  tf.errors.UnavailableError,
)
_DAMAGED = "prepared text must be as the verb prepare wrote it, got a damaged record."


def make_source(cfg: DataConfig) -> seqio.DataSource:
  """Returns the source of a config, with the splits "train" and "validation".

  Raises:
    ValueError: a file is missing, empty or not UTF-8; TFDS does not know the name, a
      split or the field; what is prepared is of another config.
  """
  if cfg.prepared:
    return PreparedSource(cfg)
  if cfg.source == "tfds":
    return make_tfds_source(cfg)
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


def fingerprint_train(cfg: DataConfig) -> dict[str, str]:
  """Returns what tells a training text from another of the same config, by "file ..".

  Of prepared text it is empty, for that is told by `identify_prepared`.

  Raises:
    ValueError: the text cannot be read.
  """
  prints = {}
  for name, member in (cfg.members() or {"": cfg}).items():
    if member.prepared:
      continue
    with named(name) if name else contextlib.nullcontext():
      found = make_source(member).fingerprint("train")
    if member.source == "bundled":  # The folder of this package is another elsewhere.
      found = {f"file {key.rpartition('/')[2]}": found[key] for key in found}
    prints |= found
  return prints


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
  """Raises what was wrong with a file while tf.data read it, in one line.

  tf.data turns the exception of a Python function, such as a FileSource's, into text,
  with a traceback, and raises that. The files of TFDS it reads by itself.

  Raises:
    ValueError: a file cannot be read, is not UTF-8, is damaged, or a line of JSONL is
      not a document.
  """
  try:
    yield
  except tf.errors.InvalidArgumentError as error:
    raised = re.search(r"ValueError: (.*)", error.message)
    if raised is not None:
      raise ValueError(raised[1]) from None
    if "Could not parse example" not in error.message:
      raise
    raise ValueError(_DAMAGED) from None
  except UnicodeDecodeError:  # Of a message that shows such an example.
    raise ValueError(_DAMAGED) from None
  except _OF_FILES as error:
    # "{{node ...}} path; reason [Op:...] name: "
    reason = re.sub(r"{{.*?}}|\[(\[|Op:).*", "", error.message, flags=re.DOTALL)
    raise ValueError(f"cannot read the text: {' '.join(reason.split())}.") from None


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
    paths = [path for paths in split_to_paths.values() for path in paths]
    self._sizes = dict(zip(paths, file_sizes(paths), strict=True))
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
    return sum(self._sizes[path] for path in self._split_to_paths[split])

  def fingerprint(self, split: str) -> dict[str, str]:
    """Returns what tells the text of a split from another of the same files."""
    return fingerprint(self._split_to_paths[split])

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
      yield from self._read_texts(span)[0]

  def _read(self, span: Span) -> dict[str, tf.Tensor]:
    def read(path, start, end):
      texts, is_last = self._read_texts(Span(path.decode(), start, end))
      # As objects, because numpy's own strings lose zero bytes at their end.
      return np.array(texts, dtype=object), np.full(len(texts), is_last)

    # Without state, or an iterator over it could not be saved.
    texts, is_last = tf.numpy_function(read, span, (tf.string, tf.bool), stateful=False)
    return {
      "targets": tf.ensure_shape(texts, [None]),
      "is_last": tf.ensure_shape(is_last, [None]),
    }

  def _read_texts(self, span: Span) -> tuple[list[bytes], bool]:
    return read_texts(span, self._text_key, self._sizes.get(span.path))


def _slice(spans: Sequence[Span]) -> tf.data.Dataset:
  columns = Span(*(np.array(column) for column in zip(*spans, strict=True)))
  return tf.data.Dataset.from_tensor_slices(columns)
