"""The feed of validation: one pass, every byte, and the batches of the other feed."""

import dataclasses

import numpy as np
import pytest

from mhmoe_jax.data import packing, validation
from mhmoe_jax.data.feed import open_split, open_task
from mhmoe_jax.data.quiet import tf
from mhmoe_jax.data.validation import count_bytes, make_eval_feed
from mhmoe_jax.data.vocabularies import count_token_bytes, make_vocabulary
from tests.data.batches import assert_equal, write_jsonl


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


def test_a_file_of_many_spans_ends_once(text_cfg, monkeypatch):
  cut = validation.cut_spans
  monkeypatch.setattr(validation, "cut_spans", lambda paths, least: cut(paths, 9))
  tokens = np.concatenate(
    [b["targets"][b["weights"] > 0] for b in make_eval_feed(text_cfg, 4)]
  )
  assert np.flatnonzero(tokens == 1).tolist() == [len(tokens) - 1]


def test_counts_no_bytes_without_weight():
  token_bytes_V = np.array([0, 0, 0, 1, 4])
  batch = {"targets": np.array([[3, 4, 4, 0]]), "weights": np.array([[1.0, 1, 0, 0]])}
  assert count_bytes(batch, token_bytes_V) == 5


@pytest.mark.parametrize("source", ["text", "pieces", "jsonl"])
def test_batches_are_those_of_the_pipeline_of_training(
  text_cfg, pieces_cfg, jsonl_cfg, source
):
  cfg = {"text": text_cfg, "pieces": pieces_cfg, "jsonl": jsonl_cfg}[source]
  windows = open_split(open_task(cfg), "validation", cfg.sequence_length)()
  pipeline = packing.pack(windows, cfg.sequence_length, 4).as_numpy_iterator()
  batches = list(make_eval_feed(cfg, 4))
  assert len(batches) > 1
  assert_equal(batches, list(pipeline))


@pytest.mark.parametrize("seed", range(3))
def test_packs_as_training_does(seed):
  rng = np.random.default_rng(seed)
  windows = [rng.integers(1, 99, n, np.int32) for n in rng.integers(1, 13, 40)]
  ds = tf.data.Dataset.from_generator(
    lambda: ({"targets": window} for window in windows),
    output_signature={"targets": tf.TensorSpec([None], tf.int32)},
  )
  oracle = list(packing.pack(ds, 12, 4, begin=9).as_numpy_iterator())
  assert_equal(list(validation.pack(windows, 12, 4, begin=9)), oracle)


def test_blank_validation(cfg, tmp_path, refuses):
  cfg = write_jsonl(cfg, tmp_path / "a.jsonl", sizes=[9])
  (tmp_path / "blank.jsonl").write_text("\n\n")
  cfg = dataclasses.replace(cfg, valid=str(tmp_path / "blank.jsonl"))
  with refuses("The validation split must have some text, got none."):
    next(make_eval_feed(cfg, 8))
