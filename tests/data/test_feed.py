"""Feeds: shapes, completeness, epochs, processes, and resuming bit for bit."""

import collections
import dataclasses
import itertools
import subprocess
import sys

import numpy as np
import pytest

from mhmoe_jax.data.feed import count_bytes, make_eval_feed, make_train_feed
from mhmoe_jax.data.vocabularies import count_token_bytes, make_vocabulary


def _take(feed, count):
  return list(itertools.islice(feed, count))


def _assert_equal(batches, others):
  assert len(batches) == len(others)
  for batch, other in zip(batches, others, strict=True):
    assert batch.keys() == other.keys()
    for key in batch:
      assert batch[key].dtype == other[key].dtype
      np.testing.assert_array_equal(batch[key], other[key])


def _segments(batches):
  """Returns the targets of every segment, as bytes, in order."""
  return [
    row[segments == segment].tobytes()
    for batch in batches
    for row, segments in zip(batch["targets"], batch["segments"], strict=True)
    for segment in range(1, segments.max() + 1)
  ]


def _write_jsonl(cfg, path, sizes):
  """Writes documents of given sizes, each of its own text, to train and validate on."""
  lines = (f'{{"t": "{f"{n}-" * size}"}}\n' for n, size in enumerate(sizes))
  path.write_text("".join(lines))
  return dataclasses.replace(
    cfg, source="jsonl", train=str(path), valid=str(path), text_key="t"
  )


def test_shapes_and_types(cfg):
  for make_feed in (make_train_feed, make_eval_feed):
    batch = next(make_feed(cfg, 8, process_index=1, process_count=2))
    assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
      "inputs": ((4, 64), np.int32),
      "targets": ((4, 64), np.int32),
      "weights": ((4, 64), np.float32),
      "segments": ((4, 64), np.int32),
      "positions": ((4, 64), np.int32),
    }


def test_packing_never_mixes_documents(cfg, tmp_path):
  cfg = _write_jsonl(cfg, tmp_path / "a.jsonl", sizes=[1, 2, 3, 5, 8, 13, 21, 34] * 20)
  batches = _take(make_train_feed(cfg, 4), 50)
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
  cfg = _write_jsonl(cfg, tmp_path / "a.jsonl", sizes=[21] * 10)
  cfg = dataclasses.replace(cfg, sequence_length=43, shuffle_buffer=1000)
  epochs = []
  for seed in (0, 1, 2**31 - 1):
    feed = make_train_feed(dataclasses.replace(cfg, seed=seed), 5)
    epochs += [_segments(_take(feed, 2)) for _ in range(4)]
  assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
  # Nor does one seed run through the orders of another.
  assert len({tuple(epoch) for epoch in epochs}) == 12


def test_order_follows_from_the_seed(cfg):
  a, b = (_take(make_train_feed(cfg, 4), 20) for _ in range(2))
  _assert_equal(a, b)
  c = _take(make_train_feed(dataclasses.replace(cfg, seed=2**31 - 1), 4), 20)
  assert not np.array_equal(a[0]["targets"], c[0]["targets"])


def test_text_shorter_than_a_batch_is_repeated(cfg, tmp_path):
  cfg = _write_jsonl(cfg, tmp_path / "a.jsonl", sizes=[10])
  batches = _take(make_train_feed(cfg, 4), 3)
  assert {*_segments(batches)} == {_segments(batches)[0]}
  # Of 64 tokens a row, three times 20 bytes and EOS.
  assert all(batch["weights"].sum() == 4 * 3 * 21 for batch in batches)


def test_eval_is_one_pass_in_order_with_every_byte(cfg, tmp_path, nasty):
  (tmp_path / "a.txt").write_bytes(nasty.encode() * 8)
  path = str(tmp_path / "a.txt")
  cfg = dataclasses.replace(cfg, source="text", train=path, valid=path)
  batches = list(make_eval_feed(cfg, 4))
  assert all(batch["targets"].shape == (4, 64) for batch in batches)
  tokens = np.concatenate([b["targets"][b["weights"] > 0] for b in batches])
  assert bytes((tokens[:-1] - 3).tolist()) == nasty.encode() * 8
  token_bytes_V = count_token_bytes(make_vocabulary("bytes"))
  counted = sum(count_bytes(batch, token_bytes_V) for batch in batches)
  assert counted == len(nasty.encode()) * 8
  # The last batch has rows to spare, and they are empty.
  rows = -(-len(tokens) // 64)
  assert len(batches) == -(-rows // 4)
  assert rows % 4 > 0
  for value in batches[-1].values():
    assert not value[rows % 4 :].any()


def test_counts_no_bytes_without_weight():
  token_bytes_V = np.array([0, 0, 0, 1, 4])
  batch = {"targets": np.array([[3, 4, 4, 0]]), "weights": np.array([[1.0, 1, 0, 0]])}
  assert count_bytes(batch, token_bytes_V) == 5


@pytest.mark.parametrize("process_count", [2, 4])
def test_eval_batches_do_not_depend_on_processes(text_cfg, process_count):
  whole = list(make_eval_feed(text_cfg, 8))
  parts = [
    list(make_eval_feed(text_cfg, 8, index, process_count))
    for index in range(process_count)
  ]
  joined = [
    {key: np.concatenate([part[key] for part in batch]) for key in batch[0]}
    for batch in zip(*parts, strict=True)
  ]
  _assert_equal(whole, joined)


def test_processes_train_on_disjoint_text(cfg, tmp_path):
  cfg = _write_jsonl(cfg, tmp_path / "a.jsonl", sizes=[8] * 200)
  seen = [
    {*_segments(_take(make_train_feed(cfg, 8, index, 4), 60))} for index in range(4)
  ]
  times = collections.Counter(itertools.chain(*seen))
  assert len(times) == 200
  assert max(times.values()) == 1


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
      states[step] = feed.save()
    batches.append(next(feed))
  resumed = make_train_feed(cfg, rows)
  for step, state in states.items():
    resumed.restore(state)
    _assert_equal(_take(resumed, 12), batches[step : step + 12])


def test_resume_of_eval(text_cfg):
  feed = make_eval_feed(text_cfg, 16)
  _take(feed, 2)
  state = feed.save()
  rest = list(feed)
  assert rest
  resumed = make_eval_feed(text_cfg, 16)
  resumed.restore(state)
  _assert_equal(list(resumed), rest)


def test_resume_in_another_python(text_cfg, tmp_path):
  feed = make_train_feed(text_cfg, 16, 1, 2)
  _take(feed, 11)
  (tmp_path / "state").write_bytes(feed.save())
  script = f"""
import numpy as np
from mhmoe_jax.data import DataConfig
from mhmoe_jax.data.feed import make_train_feed
feed = make_train_feed({text_cfg!r}, 16, 1, 2)
with open("{tmp_path}/state", "rb") as file:
  feed.restore(file.read())
np.savez("{tmp_path}/batches.npz", *(next(feed)["targets"] for _ in range(20)))
"""
  run = subprocess.run(
    [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True
  )
  assert run.returncode == 0, run.stderr
  with np.load(tmp_path / "batches.npz") as resumed:
    for index, batch in enumerate(_take(feed, 20)):
      np.testing.assert_array_equal(resumed[f"arr_{index}"], batch["targets"])


def test_nothing_is_read_while_python_ends(cfg, tmp_path):
  # Reading goes on for seconds after the first batch: an epoch is a single row.
  cfg = _write_jsonl(cfg, tmp_path / "a.jsonl", sizes=[1] * 16)
  script = f"""
import atexit, os, time
reads = 0

@atexit.register
def check():
  before = reads
  time.sleep(0.5)
  os._exit(0 if before == reads else 3)

from mhmoe_jax.data import DataConfig, sources
from mhmoe_jax.data.feed import make_train_feed

def count(*args):
  global reads
  reads += 1
  return read_documents(*args)

read_documents, sources.read_documents = sources.read_documents, count
feed = make_train_feed({cfg!r}, 32)
next(feed)
before = reads
time.sleep(0.1)
assert reads > before
"""
  run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
  assert (run.returncode, run.stderr) == (0, "")


def test_state_belongs_to_its_feed(text_cfg, refuses):
  state = make_train_feed(text_cfg, 16).save()
  cfg = dataclasses.replace(text_cfg, sequence_length=32, seed=7)
  with refuses(
    "A feed restores only the state of an equal feed, got batch_size=16 in the state "
    "but 8 here, seed=0 in the state but 7 here, sequence_length=64 in the state but 32"
    " here."
  ):
    make_train_feed(cfg, 8).restore(state)
  # The validation text does not matter to training.
  cfg = dataclasses.replace(text_cfg, valid=text_cfg.train)
  make_train_feed(cfg, 16).restore(state)


@pytest.mark.parametrize("make_feed", [make_train_feed, make_eval_feed])
def test_batch_must_divide(cfg, refuses, make_feed):
  with refuses(
    "process_count must divide batch_size, got process_count=4, batch_size=6."
  ):
    make_feed(cfg, 6, 0, 4)
  with refuses(
    "process_index must be at least 0 and less than process_count, got "
    "process_index=2, process_count=2."
  ):
    make_feed(cfg, 6, 2, 2)


def test_process_without_text(cfg, tmp_path, refuses):
  cfg = _write_jsonl(cfg, tmp_path / "a.jsonl", sizes=[9] * 2)
  with refuses(
    "Every process must have some train text, got none for process_index=1, "
    "process_count=4."
  ):
    make_train_feed(cfg, 8, 1, 4)


def test_blank_validation(cfg, tmp_path, refuses):
  cfg = _write_jsonl(cfg, tmp_path / "a.jsonl", sizes=[9])
  (tmp_path / "blank.jsonl").write_text("\n\n")
  cfg = dataclasses.replace(cfg, valid=str(tmp_path / "blank.jsonl"))
  with refuses(
    "Every process must have some validation text, got none for process_index=0, "
    "process_count=1."
  ):
    make_eval_feed(cfg, 8)


def test_broken_line(cfg, tmp_path, refuses):
  path = tmp_path / "a.jsonl"
  cfg = _write_jsonl(cfg, path, sizes=[30] * 500)
  with open(path, "a") as file:
    file.write("{}\n")
  with refuses(
    "Every line must be a JSON object with a string in 't', got the fields [] in line "
    f"501 of {path}."
  ):
    _take(make_train_feed(cfg, 8), 500)
  path.write_text("[]\n")
  with refuses(
    "Every line must be a JSON object with a string in 't', got a list in line 1 of "
    f"{path}."
  ):
    make_train_feed(cfg, 8)
