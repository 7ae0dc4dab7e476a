"""The streams of training: epochs, who reads what, and resuming bit for bit."""

import collections
import dataclasses
import itertools
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from mhmoe_jax.data.snapshot import save_iterator
from mhmoe_jax.data.streams import make_train_feed, warn_of_overlap
from mhmoe_jax.data.validation import make_eval_feed
from tests.data.batches import assert_equal, segments, take, write_jsonl

ACCEPT = "With --accept_changed_data the run goes on and begins the text anew."


def test_shapes_and_types(cfg):
  two = dataclasses.replace(cfg, streams=2)
  for feed in (make_train_feed(two, 8, [1]), make_eval_feed(cfg, 4)):
    batch = next(feed)
    assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
      "inputs": ((4, 64), np.int32),
      "targets": ((4, 64), np.int32),
      "weights": ((4, 64), np.float32),
      "segments": ((4, 64), np.int32),
      "positions": ((4, 64), np.int32),
    }


def test_packing_never_mixes_documents(cfg, tmp_path):
  cfg = write_jsonl(cfg, tmp_path / "a.jsonl", sizes=[1, 2, 3, 5, 8, 13, 21, 34] * 20)
  batches = take(make_train_feed(cfg, 4), 50)
  rows = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
  for index in range(len(rows["targets"])):
    row = {key: value[index] for key, value in rows.items()}
    count = row["segments"].max()
    sizes = [(row["segments"] == segment).sum() for segment in range(1, count + 1)]
    padding = 64 - sum(sizes)
    expected = np.repeat([*range(1, count + 1), 0], [*sizes, padding])
    np.testing.assert_array_equal(row["segments"], expected)
    expected = np.concatenate([*map(np.arange, sizes), np.zeros(padding)])
    np.testing.assert_array_equal(row["positions"], expected)
    np.testing.assert_array_equal(row["weights"], row["segments"] > 0)
    np.testing.assert_array_equal(row["targets"] > 0, row["segments"] > 0)
    shifted = np.roll(row["targets"], 1) * (row["positions"] > 0)
    np.testing.assert_array_equal(row["inputs"], shifted)
  assert max(batch["segments"].max() for batch in batches) > 2


def test_every_epoch_has_every_window_once_in_a_new_order(cfg, tmp_path):
  # Each window is as long as a row, so that none waits for the next batch.
  cfg = write_jsonl(cfg, tmp_path / "a.jsonl", sizes=[21] * 10)
  cfg = dataclasses.replace(cfg, sequence_length=43, shuffle_buffer=1000)
  epochs = []
  for seed in (0, 1, 2**31 - 1):
    feed = make_train_feed(dataclasses.replace(cfg, seed=seed), 5)
    epochs += [segments(take(feed, 2)) for _ in range(4)]
  assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
  # Nor does one seed run through the orders of another.
  assert len({tuple(epoch) for epoch in epochs}) == 12


def test_order_follows_from_the_seed(cfg):
  a, b = (take(make_train_feed(cfg, 4), 20) for _ in range(2))
  assert_equal(a, b)
  c = take(make_train_feed(dataclasses.replace(cfg, seed=2**31 - 1), 4), 20)
  assert not np.array_equal(a[0]["targets"], c[0]["targets"])


def test_text_shorter_than_a_batch_is_repeated(cfg, tmp_path):
  cfg = write_jsonl(cfg, tmp_path / "a.jsonl", sizes=[10])
  batches = take(make_train_feed(cfg, 4), 3)
  assert {*segments(batches)} == {segments(batches)[0]}
  # Of 64 tokens a row, three times 20 bytes and EOS.
  assert all(batch["weights"].sum() == 4 * 3 * 21 for batch in batches)


def test_streams_are_disjoint(cfg, tmp_path):
  cfg = write_jsonl(cfg, tmp_path / "a.jsonl", sizes=[8] * 200)
  cfg = dataclasses.replace(cfg, streams=4)
  seen = [{*segments(take(make_train_feed(cfg, 8, [i]), 60))} for i in range(4)]
  times = collections.Counter(itertools.chain(*seen))
  assert len(times) == 200
  assert max(times.values()) == 1


def test_batches_do_not_depend_on_who_reads_the_streams(text_cfg):
  """One process reads both streams, then two read one each, then one again."""
  cfg = dataclasses.replace(text_cfg, streams=2)
  whole = take(make_train_feed(cfg, 8), 25)
  feed = make_train_feed(cfg, 8)
  assert_equal(take(feed, 9), whole[:9])
  states = feed.save([0, 1])
  pair = [make_train_feed(cfg, 8, [stream]) for stream in (0, 1)]
  for half in pair:
    half.restore(states)
  batches = zip(*(take(half, 9) for half in pair), strict=True)
  joined = [{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in batches]
  assert_equal(joined, whole[9:18])
  feed.restore(pair[0].save([0]) | pair[1].save([1]))
  assert_equal(take(feed, 7), whole[18:])


# With the rows of a batch, so that an epoch is about four batches.
@pytest.mark.parametrize(
  ("kind", "shuffle_buffer", "rows"),
  [
    ("text_cfg", 1, 40),
    ("text_cfg", 1000, 40),
    ("jsonl_cfg", 40, 5),
    ("tfds_cfg", 40, 3),
    ("pieces_cfg", 40, 18),
  ],
)
def test_resume_is_bit_for_bit(request, kind, shuffle_buffer, rows):
  cfg = request.getfixturevalue(kind)
  cfg = dataclasses.replace(cfg, shuffle_buffer=shuffle_buffer)
  feed = make_train_feed(cfg, rows)
  states, batches = {}, []
  for step in range(26):
    if step in (0, 1, 3, 4, 5, 9, 14):
      states[step] = feed.save([0])
    batches.append(next(feed))
  resumed = make_train_feed(cfg, rows)
  for step, state in states.items():
    resumed.restore(state)
    assert_equal(take(resumed, 12), batches[step : step + 12])


def test_resume_in_another_python(text_cfg, tmp_path):
  cfg = dataclasses.replace(text_cfg, streams=2)
  feed = make_train_feed(cfg, 16, [1])
  take(feed, 11)
  (tmp_path / "state").write_bytes(feed.save([1])[1])
  script = f"""
import numpy as np
from mhmoe_jax.data import DataConfig
from mhmoe_jax.data.streams import make_train_feed
feed = make_train_feed({cfg!r}, 16, [1])
with open("{tmp_path}/state", "rb") as file:
  feed.restore({{1: file.read()}})
np.savez("{tmp_path}/batches.npz", *(next(feed)["targets"] for _ in range(20)))
"""
  run = subprocess.run(
    [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True
  )
  assert run.returncode == 0, run.stderr
  with np.load(tmp_path / "batches.npz") as resumed:
    for index, batch in enumerate(take(feed, 20)):
      np.testing.assert_array_equal(resumed[f"arr_{index}"], batch["targets"])


def test_nothing_is_read_while_python_ends(cfg, tmp_path):
  # Reading goes on for seconds after the first batch: an epoch is a single row.
  cfg = write_jsonl(cfg, tmp_path / "a.jsonl", sizes=[1] * 16)
  script = f"""
import atexit, os, time
reads = 0

@atexit.register
def check():
  before = reads
  time.sleep(0.5)
  os._exit(0 if before == reads else 3)

from mhmoe_jax.data import DataConfig, texts
from mhmoe_jax.data.streams import make_train_feed

def count(*args):
  global reads
  reads += 1
  return read_documents(*args)

read_documents, texts.read_documents = texts.read_documents, count
feed = make_train_feed({cfg!r}, 32)
next(feed)
before = reads
time.sleep(0.1)
assert reads > before
"""
  run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
  assert (run.returncode, run.stderr) == (0, "")


def test_state_belongs_to_its_feed(text_cfg, refuses):
  state = make_train_feed(text_cfg, 16).save([0])
  cfg = dataclasses.replace(text_cfg, sequence_length=32, seed=7)
  with refuses(
    "A feed restores only the state of an equal feed, got batch_size=16 in the state "
    "but 8 here, seed=0 in the state but 7 here, sequence_length=64 in the state but 32"
    f" here. {ACCEPT}"
  ):
    make_train_feed(cfg, 8).restore(state)
  # The validation text does not matter to training.
  cfg = dataclasses.replace(text_cfg, valid=text_cfg.train)
  make_train_feed(cfg, 16).restore(state)


def _change(path, kind):
  text = path.read_bytes()
  if kind == "a byte":
    path.write_bytes(text.replace(b"line 100", b"line 10O"))
  elif kind == "shorter":
    path.write_bytes(text[:-20])
  elif kind == "gone":
    path.unlink()
  else:
    path.with_name("train_2.txt").write_bytes(text)


@pytest.mark.parametrize("kind", ["a byte", "shorter", "gone", "one more"])
def test_a_text_that_changed_is_named_and_refused(text_cfg, tmp_path, kind):
  cfg = dataclasses.replace(text_cfg, streams=2)
  feed = make_train_feed(cfg, 8)
  take(feed, 3)
  states = feed.save([0, 1])
  path = tmp_path / "train_1.txt"
  times = path.stat()
  _change(path, kind)
  if path.exists():  # As by `cp -p` or rsync.
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
  changed = make_train_feed(cfg, 8)
  name = "train_2.txt" if kind == "one more" else "train_1.txt"
  with pytest.raises(ValueError, match=rf"got file {tmp_path}/{name}=\S+ .*anew\.$"):
    changed.restore(states)
  note = changed.restore(states, accept_changes=True)
  assert note.startswith("the text begins anew: ")
  assert name in note
  assert_equal(take(changed, 3), take(make_train_feed(cfg, 8), 3))
  # From then on it is the text of the run.
  again = make_train_feed(cfg, 8)
  assert again.restore(changed.save([0, 1])) == ""
  assert_equal(take(again, 3), take(changed, 3))


def test_a_place_without_fingerprints_is_good_and_says_so(text_cfg):
  feed = make_train_feed(text_cfg, 8)
  old = {key: x for key, x in feed.pipeline.items() if not key.startswith("file ")}
  assert len(old) == len(feed.pipeline) - 2  # of two files
  take(feed, 3)
  state = save_iterator(feed._feeds[0]._iterators[0], old | {"stream": 0})
  resumed = make_train_feed(text_cfg, 8)
  assert resumed.restore({0: state}) == (
    "the checkpoint has no fingerprints of its text: whether it has changed is not "
    "known"
  )
  assert_equal(take(resumed, 3), take(feed, 3))


def test_a_file_that_is_lost_or_cut_while_it_is_read(text_cfg, tmp_path, refuses):
  cfg = dataclasses.replace(text_cfg, shuffle_buffer=1, sequence_length=16)
  path = tmp_path / "train_1.txt"
  for change, message in (
    ("shorter", f"at first and {path.stat().st_size - 20} now in {path}."),
    ("gone", f"cannot read {path}: No such file or directory."),
  ):
    feed = make_train_feed(cfg, 4)
    take(feed, 1)
    _change(path, change)
    with pytest.raises(ValueError, match=re.escape(message) + "$"):
      take(feed, 2_000)


def test_one_giant_line_feeds_several_streams(cfg, tmp_path):
  path = tmp_path / "a.txt"
  path.write_text("é" * 300_000)
  cfg = dataclasses.replace(
    cfg, source="text", train=str(path), valid=str(path), streams=2, shuffle_buffer=1
  )
  batch = next(make_train_feed(cfg, 8))
  assert set(batch["targets"][batch["weights"] > 0]) <= {*(b + 3 for b in "é".encode())}


def test_warns_of_text_that_is_trained_on_and_of_files_named_twice(text_cfg, caplog):
  path = text_cfg.valid
  warn_of_overlap(dataclasses.replace(text_cfg, train=f"{path},{path}"))
  assert [record.getMessage() for record in caplog.records] == [
    f"validation is of text that is trained on: {path} is in data.train and data.valid",
    f"{path} is named twice in data.train and read twice",
  ]
  caplog.clear()
  warn_of_overlap(text_cfg)
  assert not caplog.records


def test_number_of_streams_is_for_good(text_cfg, refuses):
  cfg = dataclasses.replace(text_cfg, streams=2)
  states = make_train_feed(cfg, 8).save([0, 1])
  with refuses(
    "A feed restores only the state of an equal feed, got streams=2 in the state but 1 "
    f"here. {ACCEPT}"
  ):
    make_train_feed(text_cfg, 8).restore(states)
  with refuses(
    "data.streams must stay what it was when a run began, got no state of stream 2. "
    f"{ACCEPT}"
  ):
    make_train_feed(dataclasses.replace(cfg, streams=4), 8).restore(states)
  with refuses(
    "A feed restores only the state of an equal feed, got stream=1 in the state but 0 "
    f"here. {ACCEPT}"
  ):
    make_train_feed(cfg, 8, [0]).restore({0: states[1]})


def test_batch_must_divide(cfg, refuses):
  cfg = dataclasses.replace(cfg, streams=4)
  with refuses(
    "data.streams must divide batch_size, got data.streams=4, batch_size=6."
  ):
    make_train_feed(cfg, 6)


def test_stream_without_text(cfg, tmp_path, refuses):
  cfg = write_jsonl(cfg, tmp_path / "a.jsonl", sizes=[9] * 2)
  cfg = dataclasses.replace(cfg, streams=4)
  with refuses("Every stream must have some train text, got none for stream 1 of 4."):
    make_train_feed(cfg, 8)


def test_broken_line(cfg, tmp_path, refuses):
  path = tmp_path / "a.jsonl"
  cfg = write_jsonl(cfg, path, sizes=[30] * 500)
  with open(path, "a") as file:
    file.write("{}\n")
  with refuses(
    "Every line must be a JSON object with a string in 't', got the fields [] in line "
    f"501 of {path}."
  ):
    take(make_train_feed(cfg, 8), 500)
  path.write_text("[]\n")
  with refuses(
    "Every line must be a JSON object with a string in 't', got a list in line 1 of "
    f"{path}."
  ):
    make_train_feed(cfg, 8)
