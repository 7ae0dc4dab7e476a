"""Preparing: shards that a kill leaves whole, and progress."""

import dataclasses
import json

import pytest

from mhmoe_jax.data.preparing import prepare
from mhmoe_jax.data.windows import iterate_texts


def contents(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_kill_costs_one_shard(jsonl_cfg, tmp_path):
  whole, part, progress = tmp_path / "whole", tmp_path / "part", []
  prepare(jsonl_cfg, str(whole), 4, progress.append)

  def die(made):
    if made.tokens and made.share > 0.6:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    prepare(jsonl_cfg, str(part), 4, die)
  left = contents(part)
  assert sorted(left) == [
    "prepared.json",
    "spans.train-00000-of-00004.json",
    "spans.train-00001-of-00004.json",
    "train.tfrecord-00000-of-00004",
    "train.tfrecord-00001-of-00004",
    "train.tfrecord-00002-of-00004.begun",
  ]
  times = {path: path.stat().st_mtime_ns for path in part.glob("train*[0-9]")}
  again = []
  prepare(jsonl_cfg, str(part), 4, again.append)
  assert contents(part) == contents(whole)
  assert {path: path.stat().st_mtime_ns for path in times} == times
  # Deterministic, and known when it is over.
  assert [made.share for made in again[:2]] == [0.25, 0.5]
  assert sum(made.tokens for made in again[:2]) == 0
  assert [made.share for made in progress if made.split == "train"][-1] == 1.0
  shares = [made.share for made in progress if made.split == "validation"]
  assert shares == sorted(shares)
  text = "".join(iterate_texts(jsonl_cfg, "train")).encode()
  tokens = sum(made.tokens for made in progress if made.split == "train")
  assert tokens == len(text) + 100


def test_spans_without_text_are_kept(text_cfg, tmp_path):
  (tmp_path / "train_0.txt").write_text("a" * 5_000 + "\n")  # many spans long
  prepare(text_cfg, str(tmp_path / "ready"), 2, lambda progress: None)
  spans = json.loads((tmp_path / "ready" / "spans.train.json").read_text())
  assert [len(shard) for shard in spans] == [8, 9]
  assert spans[0].count(0) > 3


def test_refuses_another_folder(text_cfg, tmp_path, refuses):
  folder = tmp_path / "ready"

  def run(shards=2, **changes):
    cfg = dataclasses.replace(text_cfg, **changes)
    prepare(cfg, str(folder), shards, lambda progress: None)

  run()
  was = f"{folder} must be prepared from what is read now, got"
  with refuses(f"{was} shards 2 when it was prepared, 3 now."):
    run(shards=3)
  with pytest.raises(ValueError, match=r"got train_span \d+ when it was prepared"):
    run(streams=2)
  with refuses(f"the folder to prepare must be new or begun, got '{tmp_path}'."):
    prepare(text_cfg, str(tmp_path), 2, lambda progress: None)
  with pytest.raises(ValueError, match=r"^cannot write .*train_0.txt/x: "):
    prepare(text_cfg, f"{tmp_path}/train_0.txt/x", 2, lambda progress: None)


def test_names_the_member_that_is_wrong(text_cfg, tmp_path, refuses):
  nowhere = str(tmp_path / "none")
  cfg = dataclasses.replace(text_cfg, mixture={"b": {"train": nowhere}})
  with refuses(
    f"Every pattern must match a file, got none for '{nowhere}', in mixture 'b'."
  ):
    prepare(cfg, str(tmp_path / "ready"), 2, lambda progress: None)
