"""Text to tokens once, before training: what `mhmoe prepare` does.

Shards are finished one by one: written under another name, renamed, and then their
spans are noted beside them. Whatever is killed goes on with the first shard that has no
note. prepared.py says what is in the folder.
"""

from collections.abc import Callable
import dataclasses
import json
import os
from typing import NamedTuple

import numpy as np

from mhmoe_jax.data import prepared
from mhmoe_jax.data.config import DataConfig, named
from mhmoe_jax.data.files import writing
from mhmoe_jax.data.graph import in_graph
from mhmoe_jax.data.quiet import seqio, tf
from mhmoe_jax.data.sources import make_source, plain_errors
from mhmoe_jax.data.vocabularies import make_vocabulary
from mhmoe_jax.data.windows import encode


class Progress(NamedTuple):
  """How far it is, after every span and every shard that was there already."""

  split: str  # of a mixture with the member: "de train"
  share: float  # of the split, 0 to 1
  tokens: int  # more than at the progress before; none of shards that were there


def prepare(
  cfg: DataConfig, folder: str, shards: int, report: Callable[[Progress], None]
) -> None:
  """Writes both splits of a config in tokens; each member of a mixture by itself.

  Args:
    cfg: the text, the vocabulary and, for short texts, the streams.
    folder: where to, local or gs://.
    shards: files of each split, if it has so many spans.
    report: called with the progress.

  Raises:
    ValueError: the text cannot be read, or the folder is of another config.
  """
  cfg = dataclasses.replace(cfg, prepared=folder)
  if not cfg.mixture:
    _prepare(cfg, shards, "", report)
  for name, member in cfg.members().items():
    with named(name):
      _prepare(member, shards, f"{name} ", report)


def _prepare(cfg: DataConfig, shards: int, label: str, report) -> None:
  with writing(cfg.prepared):  # What is read has errors of its own.
    _write_all(cfg, shards, label, report)


def _write_all(cfg: DataConfig, shards: int, label: str, report) -> None:
  folder, source = cfg.prepared, make_source(dataclasses.replace(cfg, prepared=""))
  vocabulary = in_graph(make_vocabulary(cfg.vocabulary))
  # As the feeds of training and validation deal them.
  deals = {"train": seqio.ShardInfo(0, cfg.streams), "validation": None}
  form: dict[str, int] = {"shards": shards}
  for split, shard_info in deals.items():
    form[f"{split}_size"] = source.size(split)
    form[f"{split}_span"] = source.span_size(split, shard_info)
  _begin(folder, {"text": prepared.describe_text(cfg), "form": form})
  for split, shard_info in deals.items():
    parts = min(shards, -(-form[f"{split}_size"] // form[f"{split}_span"]))
    notes = []
    for part in range(parts):
      note = f"spans.{split}-{part:05d}-of-{parts:05d}.json"

      def tell(share, tokens, part=part, parts=parts, split=split):
        report(Progress(label + split, (part + share) / parts, tokens))

      if tf.io.gfile.exists(os.path.join(folder, note)):
        tell(1.0, 0)
      else:
        spans = source.read_spans(split, shard_info, part, parts)
        path = os.path.join(folder, prepared.shard_name(split, part, parts))
        _write_json(folder, note, _write_shard(spans, vocabulary, path, tell))
      notes.append(prepared.load_json(folder, note))
    _finish_split(folder, split, notes)
  with tf.io.gfile.GFile(os.path.join(folder, prepared.COMPLETED), "w") as file:
    file.write("")


def _begin(folder: str, manifest: dict[str, dict]) -> None:
  tf.io.gfile.makedirs(folder)
  if tf.io.gfile.exists(os.path.join(folder, prepared.MANIFEST)):
    made = prepared.load_manifest(folder)
    prepared.check_equal(
      folder, made["text"] | made["form"], manifest["text"] | manifest["form"]
    )
  elif {*tf.io.gfile.listdir(folder)} - {prepared.MANIFEST + ".begun"}:
    raise ValueError(f"the folder to prepare must be new or begun, got {folder!r}.")
  else:
    _write_json(folder, prepared.MANIFEST, manifest)


def _write_shard(
  spans: tf.data.Dataset, vocabulary: seqio.Vocabulary, path: str, tell
) -> dict[str, int | list[int]]:
  """Writes a TFRecord file; returns its statistics and the bytes of each span."""
  size_S = np.zeros(int(spans.cardinality()), np.int64)
  examples = tokens = longest = at = 0
  with plain_errors(), tf.io.TFRecordWriter(path + ".begun") as writer:
    for row in _tokenize(spans, vocabulary).as_numpy_iterator():
      record = seqio.dict_to_tfexample({"targets": row["targets"]}).SerializeToString()
      writer.write(record)
      if row["span"] > at:
        at = int(row["span"])
        tell(at / len(size_S), 0)
      size_S[at] += len(record) + prepared.FRAME_BYTES
      count = int((row["targets"] != vocabulary.eos_id).sum())
      examples, tokens, longest = examples + 1, tokens + count, max(longest, count)
      tell(at / len(size_S), len(row["targets"]))
  tf.io.gfile.rename(path + ".begun", path, overwrite=True)
  tell(1.0, 0)
  return {
    "spans": size_S.tolist(),
    "examples": examples,
    "targets_tokens": tokens,
    "targets_max_tokens": longest,
  }


def _tokenize(spans: tf.data.Dataset, vocabulary: seqio.Vocabulary) -> tf.data.Dataset:
  """Rows of tokens, each with the number of its span."""

  def number(span, examples):
    spans = tf.fill(tf.shape(examples["is_last"]), span)
    return examples | {"span": spans}

  def encode_row(example):
    return {"targets": encode(example, vocabulary), "span": example["span"]}

  ds = spans.enumerate().map(number).unbatch()
  ds = ds.map(encode_row, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
  return ds.prefetch(tf.data.AUTOTUNE)


def _finish_split(folder: str, split: str, notes: list[dict]) -> None:
  """Writes what PreparedSource and seqio want to know of all shards together."""
  _write_json(folder, f"spans.{split}.json", [note["spans"] for note in notes])
  info = {
    "num_shards": len(notes),
    "features": {"targets": {"shape": [None], "dtype": "int32"}},
    "seqio_version": seqio.__version__,
  }
  _write_json(folder, f"info.{split}.json", info)
  stats = {key: sum(n[key] for n in notes) for key in ("examples", "targets_tokens")}
  stats["targets_max_tokens"] = max(note["targets_max_tokens"] for note in notes)
  _write_json(folder, f"stats.{split}.json", stats)


def _write_json(folder: str, name: str, values) -> None:
  path = os.path.join(folder, name)
  with tf.io.gfile.GFile(path + ".begun", "w") as file:
    file.write(json.dumps(values))
  tf.io.gfile.rename(path + ".begun", path, overwrite=True)
