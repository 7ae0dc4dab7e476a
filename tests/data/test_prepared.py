"""Prepared text: the batches of the text itself, or one line that says why not."""

import dataclasses
import json
import pathlib
import re

import pytest

from mhmoe_jax.data.prepared import PreparedSource
from mhmoe_jax.data.preparing import prepare
from mhmoe_jax.data.quiet import seqio
from mhmoe_jax.data.sources import make_source, mixture_rates
from mhmoe_jax.data.streams import make_train_feed
from mhmoe_jax.data.tasks import cut_windows, iterate_texts, make_task, read_windows
from mhmoe_jax.data.validation import count_bytes, make_eval_feed
from mhmoe_jax.data.vocabularies import count_token_bytes, make_vocabulary
from tests.data.batches import assert_equal, take


def make(cfg, folder, shards=3):
  """Returns the config that reads what is prepared of another."""
  prepare(cfg, str(folder), shards, lambda progress: None)
  return dataclasses.replace(cfg, prepared=str(folder))


@pytest.mark.parametrize(
  ("kind", "streams", "rows"), [("text_cfg", 2, 20), ("jsonl_cfg", 1, 5)]
)
def test_batches_are_those_of_the_text(request, kind, streams, rows, tmp_path):
  cfg = request.getfixturevalue(kind)
  cfg = dataclasses.replace(cfg, streams=streams)
  ready = make(cfg, tmp_path / "ready")
  live, feed = make_train_feed(cfg, rows), make_train_feed(ready, rows)
  assert_equal(take(feed, 9), take(live, 9))  # past an epoch
  resumed = make_train_feed(ready, rows, [streams - 1])  # as another process may
  resumed.restore(feed.save(range(streams)))
  each = rows // streams
  assert_equal(
    take(resumed, 9),
    [{key: x[-each:] for key, x in batch.items()} for batch in take(live, 9)],
  )
  valid = list(make_eval_feed(cfg, 4))
  assert_equal(list(make_eval_feed(ready, 4)), valid)
  token_bytes_V = count_token_bytes(make_vocabulary(cfg.vocabulary))
  assert sum(count_bytes(batch, token_bytes_V) for batch in valid) == sum(
    len(text.encode()) for text in iterate_texts(ready, "validation")
  )


def test_one_folder_is_for_every_length(jsonl_cfg, tmp_path):
  ready = make(jsonl_cfg, tmp_path / "ready")
  for length in (5, 999):
    a, b = (dataclasses.replace(c, sequence_length=length) for c in (jsonl_cfg, ready))
    assert_equal(list(make_eval_feed(b, 2)), list(make_eval_feed(a, 2)))


def test_mixture_of_pieces(pieces_cfg, jsonl_cfg, tmp_path):
  keys = ("source", "train", "valid", "text_key")
  members = {
    name: {key: getattr(member, key) for key in keys}
    for name, member in {"a": pieces_cfg, "b": jsonl_cfg}.items()
  }
  cfg = dataclasses.replace(pieces_cfg, mixture=members, mixture_exponent=0.5)
  ready = make(cfg, tmp_path / "ready")
  assert mixture_rates(ready) == mixture_rates(cfg)
  live, feed = make_train_feed(cfg, 8), make_train_feed(ready, 8)
  assert_equal(take(feed, 15), take(live, 15))
  resumed = make_train_feed(ready, 8)
  resumed.restore(feed.save([0]))
  assert_equal(take(resumed, 15), take(live, 15))
  for a, b in zip(cfg.members().values(), ready.members().values(), strict=True):
    assert_equal(list(make_eval_feed(b, 4)), list(make_eval_feed(a, 4)))


def test_tfds_in_an_order_of_its_own(tfds_cfg, tmp_path):
  cfg = dataclasses.replace(tfds_cfg, streams=2)
  ready = make(cfg, tmp_path / "ready")
  live, source = make_source(cfg), make_source(ready)
  for split in ("train", "validation"):
    documents = {
      bytes((row["targets"][:-1] - 3).tolist())
      for index in (0, 1)
      for row in source.get_dataset(
        split, shard_info=seqio.ShardInfo(index, 2) if split == "train" else None
      ).as_numpy_iterator()
    }
    assert documents == {*live.iterate_texts(split)}
    assert source.size(split) == live.size(split)
  take(make_train_feed(ready, 4), 9)


def test_seqio_reads_it(jsonl_cfg, tmp_path):
  make(jsonl_cfg, tmp_path / "ready")
  vocabulary = make_vocabulary("bytes")
  task = seqio.Task(
    "ready",
    source=seqio.FunctionDataSource(lambda split, shuffle_files: None, ["train"]),
    preprocessors=[seqio.CacheDatasetPlaceholder(required=True), cut_windows],
    output_features={"targets": seqio.Feature(vocabulary, add_eos=False)},
    shuffle_buffer_size=100,
  )
  before = seqio.get_global_cache_dirs()
  seqio.set_global_cache_dirs([str(tmp_path)])
  try:
    stats = task.get_cached_stats("train")
    cached = [
      e["targets"].tolist()
      for e in task.get_dataset(
        {"targets": 64}, "train", use_cached=True, shuffle=False
      ).as_numpy_iterator()
    ]
  finally:
    seqio.set_global_cache_dirs(before)
  live = read_windows(make_task(jsonl_cfg, vocabulary), "train", 64)
  texts = [window["targets"].tolist() for window in live.as_numpy_iterator()]
  assert sorted(cached) == sorted(texts)
  assert stats == {
    "examples": 100,
    "targets_tokens": sum(map(len, texts)) - 100,
    "targets_max_tokens": max(map(len, texts)) - 1,
  }


def test_moves_and_does_not_need_the_text(text_cfg, tmp_path):
  ready = make(text_cfg, tmp_path / "ready")
  feed = make_train_feed(ready, 40)
  take(feed, 3)
  states, expected = feed.save([0]), take(feed, 3)
  (tmp_path / "ready").rename(tmp_path / "moved")
  for path in tmp_path.glob("*.txt"):
    path.unlink()
  moved = dataclasses.replace(ready, prepared=str(tmp_path / "moved"))
  feed = make_train_feed(moved, 40)
  feed.restore(states)
  assert_equal(take(feed, 3), expected)


def test_a_state_of_the_text_is_another(text_cfg, tmp_path):
  ready = make(text_cfg, tmp_path / "ready")
  states = make_train_feed(text_cfg, 8).save([0])
  with pytest.raises(ValueError, match=r"got prepared=None in the state but '"):
    make_train_feed(ready, 8).restore(states)


def test_refuses_what_is_not_of_the_config(text_cfg, pieces_cfg, tmp_path, refuses):
  folder = tmp_path / "ready"
  with refuses(
    f"prepared must be a folder that the verb prepare has finished, got "
    f"prepared='{folder}'."
  ):
    PreparedSource(dataclasses.replace(text_cfg, prepared=str(folder)))
  ready = make(text_cfg, folder)
  was = f"{folder} must be prepared from what is read now, got"
  with pytest.raises(ValueError, match=r"got vocabulary 'bytes' when it was prepared"):
    PreparedSource(dataclasses.replace(ready, vocabulary=pieces_cfg.vocabulary))
  with refuses(f"{was} text_key '' when it was prepared, 'body' now."):
    PreparedSource(dataclasses.replace(ready, text_key="body"))
  with refuses(
    f"{folder} must be prepared with the data.streams that read it, because its text "
    "is short, got spans of 609, not of 152 as for 4 streams."
  ):
    make_train_feed(dataclasses.replace(ready, streams=4), 8)
  path = pathlib.Path(ready.valid)
  path.write_text(path.read_text() + "more\n")
  with pytest.raises(ValueError, match=rf"got file {path} '\d+ bytes, .* when it was"):
    PreparedSource(ready)


def test_missing_and_broken_shards(jsonl_cfg, tmp_path, refuses):
  ready = make(jsonl_cfg, tmp_path / "ready")
  path = tmp_path / "ready" / "train.tfrecord-00001-of-00003"
  data = path.read_bytes()
  path.write_bytes(data[:-7])
  with refuses(
    f"A shard must be as the verb prepare wrote it, got {len(data) - 7} bytes, not "
    f"{len(data)}, in {path}."
  ):
    make_train_feed(ready, 8)
  path.write_bytes(data)
  feed = make_train_feed(dataclasses.replace(ready, shuffle_buffer=1), 8)
  path.write_bytes(data[:-7])  # while it is read
  at = f"record before byte {len(data) - 7} of {path}."
  with pytest.raises(ValueError, match="^A shard must be as .*" + at):
    take(feed, 20)
  path.unlink()
  with refuses(f"{tmp_path}/ready must have all of its shards, got no {path.name}."):
    make_train_feed(ready, 8)


@pytest.mark.parametrize(
  ("name", "data", "problem"),
  [
    ("prepared.json", None, "cannot read {}/prepared.json: No such file or directory."),
    ("prepared.json", b"", "must be as the verb prepare wrote it, got no JSON: "),
    ("prepared.json", b"[]", "must be as the verb prepare wrote it, got no text and"),
    (
      "spans.train.json",
      b"[[1,",
      "must be as the verb prepare wrote it, got no JSON: ",
    ),
    (
      "COMPLETED",
      None,
      "prepared must be a folder that the verb prepare has finished,",
    ),
  ],
)
def test_damaged_notes(jsonl_cfg, tmp_path, name, data, problem):
  folder = tmp_path / "ready"
  ready = make(jsonl_cfg, folder)
  if data is None:
    (folder / name).unlink()
  else:
    (folder / name).write_bytes(data)
  with pytest.raises(ValueError, match=re.escape(problem.format(folder))):
    make_train_feed(ready, 8)


def test_a_damaged_record_is_one_line(jsonl_cfg, tmp_path, refuses):
  ready = make(jsonl_cfg, tmp_path / "ready", shards=1)
  path = tmp_path / "ready" / "train.tfrecord-00000-of-00001"
  data = bytearray(path.read_bytes())
  data[12] ^= 0xFF  # the first byte behind a record's length and its checksum
  path.write_bytes(data)
  with refuses(
    "prepared text must be as the verb prepare wrote it, got a damaged record."
  ):
    take(make_train_feed(ready, 8), 9)


def test_folders_of_earlier_versions_are_good(text_cfg, tmp_path):
  """They have no samples of the middle of a file."""
  for name in ("train_0.txt", "valid.txt"):
    (tmp_path / name).write_text("a line\n" * 30_000)
  ready = make(text_cfg, tmp_path / "ready")
  path = tmp_path / "ready" / "prepared.json"
  manifest = json.loads(path.read_text())
  prints = {k: v for k, v in manifest["text"].items() if k.startswith("file ")}
  assert sorted(text.count(", ") for text in prints.values()) == [1, 2, 2]
  for key, text in prints.items():
    manifest["text"][key] = ", ".join(text.split(", ")[:2])
  path.write_text(json.dumps(manifest))
  PreparedSource(ready)
  (tmp_path / "valid.txt").write_text("a line\n" * 29_999)
  with pytest.raises(ValueError, match=r"got file .*valid.txt '210000 bytes, "):
    PreparedSource(ready)
