"""Sources: everything once, in order or shuffled, whole or dealt to processes."""

import dataclasses

import pytest

from mhmoe_jax.data.quiet import seqio, tf
from mhmoe_jax.data.sources import fingerprint_train, make_source, plain_errors


def _read(source, split="train", shuffle=False, seed=None, shard=None):
  ds = source.get_dataset(split, shuffle=shuffle, seed=seed, shard_info=shard)
  return [(e["targets"], bool(e["is_last"])) for e in ds.as_numpy_iterator()]


def test_bundled_corpus(cfg):
  source = make_source(cfg)
  for split, size in {"train": 1_003_857, "validation": 111_537}.items():
    texts = _read(source, split)
    text = b"".join(text for text, _ in texts)
    assert len(text) == size
    assert [is_last for _, is_last in texts] == [False] * (len(texts) - 1) + [True]
    assert text.endswith(b"\n")
  assert text.startswith(b"GREMIO:\nGood morrow, neighbour Baptista.\n")


def test_text_keeps_every_byte_and_ends_every_file(text_cfg, tmp_path, nasty):
  data = nasty.encode() + b"\0"
  (tmp_path / "train_0.txt").write_bytes(data)
  source = make_source(text_cfg)
  texts = _read(source, shard=seqio.ShardInfo(0, 1))
  ends = [index for index, (_, is_last) in enumerate(texts) if is_last]
  assert len(ends) == 2
  first = b"".join(text for text, _ in texts[: ends[0] + 1])
  assert first == data
  second = b"".join(text for text, _ in texts[ends[0] + 1 :])
  assert b"".join(source.iterate_texts("train")) == first + second
  assert second == (tmp_path / "train_1.txt").read_bytes()


def test_jsonl(jsonl_cfg):
  assert _read(make_source(jsonl_cfg), "validation")[:3] == [
    (b"valid 0", True),
    ("valid 1é".encode(), True),
    ("valid 2éé".encode(), True),
  ]


@pytest.mark.parametrize("kind", ["text_cfg", "jsonl_cfg", "tfds_cfg"])
@pytest.mark.parametrize("process_count", [2, 4])
def test_shards_are_disjoint_and_complete(request, kind, process_count):
  cfg = request.getfixturevalue(kind)
  task = seqio.Task("task", make_source(cfg), {}, shuffle_buffer_size=1)
  shares = [
    [
      example["targets"]
      for example in task.get_dataset(
        split="train",
        shuffle=False,
        shard_info=seqio.ShardInfo(index, process_count),
      ).as_numpy_iterator()
    ]
    for index in range(process_count)
  ]
  pieces = [piece for share in shares for piece in share]
  whole = b"".join(text for text, _ in _read(task.source))
  # Nothing in these texts occurs twice.
  assert sum(map(len, pieces)) == len(whole)
  assert len({*pieces}) == len(pieces)
  assert all(piece in whole for piece in pieces)
  sizes = [sum(map(len, share)) for share in shares]
  assert min(sizes) > 0.4 * max(sizes)


@pytest.mark.parametrize("kind", ["text_cfg", "jsonl_cfg"])
def test_shuffles_by_seed(request, kind):
  source = make_source(request.getfixturevalue(kind))
  shard = seqio.ShardInfo(0, 1)
  a, b, c = (_read(source, shuffle=True, seed=seed, shard=shard) for seed in (1, 1, 2))
  in_order = _read(source, shard=shard)
  assert a == b
  assert a != c
  assert a != in_order
  assert sorted(a) == sorted(c) == sorted(in_order)


def test_broken_line_becomes_a_plain_error(jsonl_cfg, refuses):
  with open(jsonl_cfg.train, "a", encoding="utf-8") as file:
    file.write('{"body": 1}\n')
  source = make_source(jsonl_cfg)
  with (
    refuses(
      "Every line must be a JSON object with a string in 'body', got a int in line "
      f"101 of {jsonl_cfg.train}."
    ),
    plain_errors(),
  ):
    _read(source)


def test_other_errors_stay_what_they_are():
  ds = tf.data.Dataset.from_tensors([1, 2]).map(
    lambda x: tf.ensure_shape(x[x[0] :], [2])
  )
  with pytest.raises(tf.errors.InvalidArgumentError), plain_errors():
    next(iter(ds))


def test_a_kind_of_file_is_one_kind_everywhere(jsonl_cfg, refuses):
  with refuses(
    "a .jsonl file must be read with source='jsonl', as every verb does, got "
    f"source='text' for {jsonl_cfg.train}."
  ):
    make_source(dataclasses.replace(jsonl_cfg, source="text"))


def test_fingerprints_are_of_what_is_trained_on(cfg, text_cfg, tfds_cfg, tmp_path):
  paths = [f"file {tmp_path}/train_{i}.txt" for i in (0, 1)]
  assert [*fingerprint_train(text_cfg)] == paths
  own = {"a": {"train": text_cfg.train}, "b": {"train": text_cfg.valid}}
  mixture = dataclasses.replace(text_cfg, mixture=own)
  assert [*fingerprint_train(mixture)] == [*paths, f"file {tmp_path}/valid.txt"]
  assert fingerprint_train(dataclasses.replace(text_cfg, prepared="x")) == {}
  ((name, made),) = fingerprint_train(tfds_cfg).items()
  assert name == "file tiny_news/1.0.0 train[:80%]"
  assert made.startswith("40 records, ")
  (bundled,) = fingerprint_train(cfg)
  assert bundled == "file tinyshakespeare_train.txt"  # wherever this package is
