"""Tasks: every token once, EOS where documents end, windows full but for the last."""

import dataclasses
import json

import numpy as np
import pytest

from mhmoe_jax.data.quiet import seqio
from mhmoe_jax.data.tokenizer import train_sentencepiece
from mhmoe_jax.data.vocabularies import count_token_bytes, make_vocabulary
from mhmoe_jax.data.windows import iterate_texts, make_task, read_windows

EOS = 1


def _windows(cfg, split="train", **kwargs):
  task = make_task(cfg, make_vocabulary(cfg.vocabulary))
  ds = read_windows(task, split, cfg.sequence_length, **kwargs)
  return [window["targets"] for window in ds.as_numpy_iterator()]


@pytest.mark.parametrize("sequence_length", [2, 7, 64, 10_000])
def test_a_file_is_a_document(text_cfg, sequence_length):
  cfg = dataclasses.replace(text_cfg, sequence_length=sequence_length)
  with open(cfg.valid, "rb") as file:
    data = file.read()
  windows = _windows(cfg, "validation")
  assert [len(window) for window in windows[:-1]] == [sequence_length] * (
    len(windows) - 1
  )
  tokens = np.concatenate(windows)
  assert tokens.dtype == np.int32
  assert bytes((tokens[:-1] - 3).tolist()) == data
  assert tokens[-1] == EOS


def test_only_the_last_span_of_a_file_ends_with_eos(text_cfg):
  windows = _windows(text_cfg, shard=seqio.ShardInfo(0, 1))
  short = [window for window in windows if len(window) < text_cfg.sequence_length]
  assert len(short) > 10
  ends = [window for window in windows if EOS in window]
  assert [np.flatnonzero(window == EOS).tolist() for window in ends] == [
    [len(window) - 1] for window in ends
  ]
  assert len(ends) == 2


def test_each_document_of_jsonl_ends_with_eos(cfg, tmp_path, nasty):
  documents = [nasty, "", "a", "b" * 63, "c" * 64, nasty * 3]
  path = tmp_path / "a.jsonl"
  path.write_text("".join(json.dumps({"t": d}) + "\n" for d in documents))
  cfg = dataclasses.replace(
    cfg, source="jsonl", train=str(path), valid=str(path), text_key="t"
  )
  expected = []
  for document in documents:
    tokens = [byte + 3 for byte in document.encode()] + [EOS]
    expected += [tokens[i : i + 64] for i in range(0, len(tokens), 64)]
  assert [window.tolist() for window in _windows(cfg)] == expected
  assert list(iterate_texts(cfg, "train")) == documents


def test_bytes_are_counted_alike_in_every_vocabulary(text_cfg, tmp_path, nasty):
  path = tmp_path / "nasty.txt"
  path.write_bytes(nasty.encode() * 20)
  model = str(tmp_path / "trained.model")
  cfg = dataclasses.replace(text_cfg, train=str(path))
  train_sentencepiece(iterate_texts(cfg, "train"), 380, model)
  for vocabulary in ("bytes", model):
    token_bytes_V = count_token_bytes(make_vocabulary(vocabulary))
    windows = _windows(dataclasses.replace(cfg, vocabulary=vocabulary))
    assert token_bytes_V[np.concatenate(windows)].sum() == path.stat().st_size


@pytest.mark.parametrize("process_count", [1, 3])
def test_shards_lose_nothing(text_cfg, process_count):
  shards = [seqio.ShardInfo(index, process_count) for index in range(process_count)]
  tokens = [np.concatenate(_windows(text_cfg, shard=shard)) for shard in shards]
  everything = np.concatenate(_windows(text_cfg))
  assert np.array_equal(np.sort(np.concatenate(tokens)), np.sort(everything))


def test_shuffles_windows(text_cfg):
  shuffled = [[*map(bytes, _windows(text_cfg, seed=seed))] for seed in (1, 1, 2)]
  assert shuffled[0] == shuffled[1]
  assert shuffled[0] != shuffled[2]
  in_order = [*map(bytes, _windows(text_cfg))]
  assert in_order != shuffled[0]
  assert sorted(in_order) == sorted(shuffled[0]) == sorted(shuffled[2])
  # Windows among themselves, and not only the spans that they are cut from.
  spans_alone = dataclasses.replace(text_cfg, shuffle_buffer=1)
  assert [*map(bytes, _windows(spans_alone, seed=1))] != shuffled[0]


def test_task_is_not_registered(cfg):
  task = make_task(cfg, make_vocabulary("bytes"))
  assert task.name not in seqio.TaskRegistry.names()
  assert tuple(task.splits) == ("train", "validation")
