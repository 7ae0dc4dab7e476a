"""A folder of text in tokens: what is in it, and how it is read in place of the text.

`mhmoe prepare` (preparing.py) makes it, in the form of seqio's offline cache:

  prepared.json                   the text, the vocabulary and the form: `Manifest`
  train.tfrecord-00000-of-00016   {"targets": tokens} of a document, or of a span of a
                                  text file; "validation" likewise
  info.train.json, stats.train.json   for seqio
  spans.train.json                of each shard, the bytes of each of its spans
  COMPLETED                       written last

Between the text and its windows, so one folder is for every sequence_length. seqio's
own reader deals whole shards. This one deals and shuffles spans, as sources.py does
with those of the text: its batches are those of the text, bit for bit. Only of TFDS
they are not, which deals its own files.

The text need not be there any more. If its files are, they must be what was prepared
(fingerprints.py).
"""

from collections.abc import Iterator, Sequence
import hashlib
import json
import operator
import os
import struct

import numpy as np

from mhmoe_jax.data.config import DataConfig
from mhmoe_jax.data.files import file_sizes, match_files, reading
from mhmoe_jax.data.fingerprints import fingerprint, is_same
from mhmoe_jax.data.quiet import seqio, tf
from mhmoe_jax.data.spans import least_spans, span_bytes, span_records
from mhmoe_jax.data.vocabularies import identify_vocabulary

SPLITS = ("train", "validation")
MANIFEST = "prepared.json"
COMPLETED = "COMPLETED"
_TEXT = ("source", "name", "train", "valid", "text_key")
# A record of a TFRecord file: its length, a checksum of that, itself, another checksum.
_HEAD = struct.Struct("<Q4x")
FRAME_BYTES = _HEAD.size + 4


def describe_text(cfg: DataConfig) -> dict[str, str]:
  """Returns what decides the tokens of a text; files that are not there are left out.

  Raises:
    ValueError: the vocabulary's file is not there.
  """
  text = {key: getattr(cfg, key) for key in _TEXT}
  text["vocabulary"] = identify_vocabulary(cfg.vocabulary)
  if cfg.source in ("text", "jsonl"):
    paths = {*match_files(cfg.train), *match_files(cfg.valid)}
    text |= fingerprint(sorted(paths))
  return text


def check_equal(folder: str, made: dict, now: dict) -> None:
  """Raises ValueError if what a folder was made of is not what is wanted now."""
  for key in [*made, *now]:
    equal = is_same if key.startswith("file ") else operator.eq
    if not equal(made.get(key), now.get(key)):
      raise ValueError(
        f"{folder} must be prepared from what is read now, got {key} "
        f"{made.get(key)!r} when it was prepared, {now.get(key)!r} now."
      )


def load_json(folder: str, name: str):
  """Returns the values of a JSON file in a folder.

  Raises:
    ValueError: the file cannot be read, or is damaged.
  """
  path = os.path.join(folder, name)
  with reading(path), tf.io.gfile.GFile(path, "rb") as file:
    try:
      return json.loads(file.read())
    except ValueError as error:
      raise ValueError(
        f"{path} must be as the verb prepare wrote it, got no JSON: {error}."
      ) from None


def shard_name(split: str, part: int, parts: int) -> str:
  """Returns the name of a shard, as seqio looks for it."""
  return f"{split}.tfrecord-{part:05d}-of-{parts:05d}"


def identify_prepared(cfg: DataConfig) -> str:
  """Returns what tells the folder of a config from others, wherever it is."""
  configs = cfg.members().values() if cfg.mixture else [cfg]
  made = [_load_finished(config.prepared) for config in configs]
  return hashlib.sha256(json.dumps(made).encode()).hexdigest()


def _load_finished(folder: str) -> dict[str, dict]:
  with reading(folder):
    is_finished = tf.io.gfile.exists(os.path.join(folder, COMPLETED))
  if not is_finished:
    raise ValueError(
      "prepared must be a folder that the verb prepare has finished, got "
      f"prepared={folder!r}."
    )
  return load_manifest(folder)


def load_manifest(folder: str) -> dict[str, dict]:
  """Returns the text and the form that a folder is made of.

  Raises:
    ValueError: its file cannot be read, or is damaged.
  """
  manifest = load_json(folder, MANIFEST)
  if not isinstance(manifest, dict) or {*manifest} != {"text", "form"}:
    raise ValueError(
      f"{os.path.join(folder, MANIFEST)} must be as the verb prepare wrote it, got no "
      "text and form."
    )
  return manifest


class PreparedSource(seqio.DataSource):
  """The tokens of a folder, {"targets": (l,) int32}, dealt and shuffled by spans.

  Args:
    cfg: with `prepared`, and without a mixture.

  Raises:
    ValueError: the folder is not finished, is not whole, or is of another config.
  """

  def __init__(self, cfg: DataConfig):
    super().__init__(splits=SPLITS)
    self._folder = cfg.prepared
    manifest = _load_finished(self._folder)
    made, self._form = manifest["text"], manifest["form"]
    now = describe_text(cfg)
    if not any(key.startswith("file ") for key in now):
      now |= {key: made[key] for key in made if key.startswith("file ")}
    check_equal(self._folder, made, now)
    self._span_size = span_records if cfg.source == "tfds" else span_bytes

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return True

  def list_shards(self, split: str) -> Sequence[str]:
    return [path for path, _ in self._load_spans(split)]

  def get_dataset(
    self, split="train", shuffle=True, seed=None, shard_info=None, **unused_kwargs
  ) -> tf.data.Dataset:
    made = self._form[f"{split}_span"]
    now = self._span_size(self._form[f"{split}_size"], least_spans(shard_info))
    if made != now:
      streams = shard_info.num_shards if shard_info else 1
      raise ValueError(
        f"{self._folder} must be prepared with the data.streams that read it, because "
        f"its text is short, got spans of {made}, not of {now} as for {streams} "
        "streams."
      )
    places = [
      (path, end - size, end)
      for path, sizes in self._load_spans(split)
      for size, end in zip(sizes, np.cumsum(sizes), strict=True)
    ]
    ds = tf.data.Dataset.range(len(places))
    if shard_info:
      ds = ds.shard(shard_info.num_shards, shard_info.index)
    if shuffle:
      ds = ds.shuffle(len(places), seed=seed)

    def read(span):
      # As objects, because numpy's own strings lose zero bytes at their end.
      return np.array([*_read_records(*places[span])], dtype=object)

    # Without state, or an iterator over it could not be saved.
    ds = ds.map(lambda span: tf.numpy_function(read, [span], tf.string, stateful=False))
    ds = ds.map(lambda records: tf.ensure_shape(records, [None])).unbatch()
    return ds.map(_parse, num_parallel_calls=tf.data.AUTOTUNE)

  def size(self, split: str) -> int:
    """Returns the bytes of the text of a split; of TFDS, the records."""
    return self._form[f"{split}_size"]

  def _load_spans(self, split: str) -> list[tuple[str, list[int]]]:
    """Returns each shard and the bytes of each of its spans."""
    spans = load_json(self._folder, f"spans.{split}.json")
    names = [shard_name(split, part, len(spans)) for part in range(len(spans))]
    with reading(self._folder):
      missing = {*names} - {*tf.io.gfile.listdir(self._folder)}
    if missing:
      raise ValueError(
        f"{self._folder} must have all of its shards, got no {min(missing)}."
      )
    paths = [os.path.join(self._folder, name) for name in names]
    for path, made, size in zip(paths, spans, file_sizes(paths), strict=True):
      if sum(made) != size:
        raise ValueError(
          f"A shard must be as the verb prepare wrote it, got {size} bytes, not "
          f"{sum(made)}, in {path}."
        )
    return [*zip(paths, spans, strict=True)]


def _read_records(path: str, start: int, end: int) -> Iterator[bytes]:
  """Yields the records in a range of bytes of a TFRecord file."""
  with reading(path), tf.io.gfile.GFile(path, "rb") as file:
    file.seek(int(start))
    data = file.read(int(end - start))
  offset = 0
  while offset < end - start:
    size = _HEAD.unpack_from(data, offset)[0] if offset + 12 <= len(data) else 0
    record = data[offset + 12 : offset + 12 + size]
    offset += size + FRAME_BYTES
    if not size or offset > len(data):
      raise ValueError(
        f"A shard must be as the verb prepare wrote it, got another record before byte "
        f"{start + min(offset, len(data))} of {path}."
      )
    yield record


def _parse(record: tf.Tensor) -> dict[str, tf.Tensor]:
  tokens = tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True)
  example = tf.io.parse_single_example(record, {"targets": tokens})
  return {"targets": tf.cast(example["targets"], tf.int32)}
