"""Text to windows of tokens, as a seqio Task.

A document is tokenised, ended with EOS and cut into windows of exactly sequence_length
tokens; its last window is shorter. No token is lost and none is added but EOS. A plain
text file is one document that reaches the task in spans, each cut by itself.

The task is not put into seqio's global registry: it is made from a config and held by
whoever made it.
"""

from collections.abc import Iterator
import dataclasses

from mhmoe_jax.data.config import DataConfig
from mhmoe_jax.data.graph import in_graph
from mhmoe_jax.data.quiet import seqio, tf
from mhmoe_jax.data.sources import make_source
from mhmoe_jax.data.vocabularies import Vocabulary


def make_task(cfg: DataConfig, vocabulary: Vocabulary | None) -> seqio.Task:
  """Returns a task with the splits "train" and "validation" and the feature "targets".

  Its examples are {"targets": (l,) int32} with 1 <= l <= sequence_length if asked for
  with sequence_length={"targets": sequence_length}. What is prepared is in tokens, and
  needs no vocabulary.

  Raises:
    ValueError: the source cannot be read; see `make_source`.
  """
  if vocabulary is None:
    encoder = seqio.PassThroughVocabulary(size=0)
  else:
    encoder = in_graph(vocabulary)
  return seqio.Task(
    f"mhmoe_{cfg.source}",
    source=make_source(cfg),
    preprocessors=[cut_windows] if cfg.prepared else [tokenize, cut_windows],
    output_features={"targets": seqio.Feature(encoder)},
    shuffle_buffer_size=cfg.shuffle_buffer,
  )


def tokenize(ds: tf.data.Dataset, output_features) -> tf.data.Dataset:
  """Encodes each text and ends each document with EOS.

  seqio's own tokenize keeps 256 examples in flight, which would be saved with the
  iterator, and its append_eos ends every example, but not every span ends a document.
  """
  vocabulary = output_features["targets"].vocabulary
  return ds.map(
    lambda example: {"targets": encode(example, vocabulary)},
    num_parallel_calls=tf.data.AUTOTUNE,
  )


def encode(example: dict[str, tf.Tensor], vocabulary: seqio.Vocabulary) -> tf.Tensor:
  """Returns the tokens of a source's example, with EOS if a document ends with it."""
  tokens = vocabulary.encode_tf(example["targets"])
  eos = tf.fill([tf.cast(example["is_last"], tf.int32)], vocabulary.eos_id)
  return tf.concat([tokens, eos], axis=0)


def cut_windows(ds: tf.data.Dataset, sequence_length) -> tf.data.Dataset:
  """Cuts each example into windows of sequence_length["targets"] tokens."""
  length = sequence_length["targets"]
  return ds.flat_map(
    lambda tokens: tf.data.Dataset.from_tensors(tokens).rebatch(length)
  )


def read_windows(
  task: seqio.Task,
  split: str,
  sequence_length: int,
  shard: seqio.ShardInfo | None = None,
  seed: int | tf.Tensor | None = None,
) -> tf.data.Dataset:
  """Returns one pass over the windows of a split, shuffled if there is a seed."""
  return task.get_dataset(
    {"targets": sequence_length},
    split,
    shuffle=seed is not None,
    seed=seed,
    shard_info=shard,
    # A cache would be saved with the iterator.
    try_in_mem_cache=False,
    # Windows are never too long, and trimming costs more than cutting.
    trim_output_features=False,
  )


def iterate_texts(cfg: DataConfig, split: str) -> Iterator[str]:
  """Yields the texts of a split in order: documents, or spans of plain text files.

  Those of a mixture come member by member, all of each.

  Args:
    cfg: the data; its vocabulary is not used.
    split: "train" or "validation".

  Raises:
    ValueError: the text cannot be read.
  """
  cfg = dataclasses.replace(cfg, prepared="")
  for part in cfg.members().values() if cfg.mixture else [cfg]:
    for text in make_source(part).iterate_texts(split):
      yield text.decode()
