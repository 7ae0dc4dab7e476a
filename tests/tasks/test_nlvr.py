"""Judging statements: the head written out over pictures alone, and what is counted."""

import math

import jax
import numpy as np
import pytest

from mhmoe_jax.models.encoder import Encoder, Inputs
from mhmoe_jax.models.patches import normalize, to_patches
from mhmoe_jax.train.config import resolve
from tests.tasks.pictures import noise_params, small_finetune

close = np.testing.assert_allclose


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """The task, parameters, a training batch, a validation batch, what comes of both."""
  cfg = resolve(small_finetune(tmp_path_factory.mktemp("nlvr"), "nlvr"))
  task, params = cfg.task, noise_params(cfg.task)
  train = next(task.train_feed(4, [0]))
  *_, (valid, _) = task.eval_batches(4)["statements"]

  @jax.jit
  def run(params, train, valid):
    found = task.loss(params, {}, train, jax.random.key(0), task.totals(train))
    alone = []
    for nth in range(2):
      patches_BPU = normalize(to_patches(train["pixels"][:, nth], 4))
      text = (train[name] for name in ("tokens", "positions", "segments"))
      inputs = Inputs(patches_BPU, None, *text)
      apply = Encoder(task.model).apply
      alone.append(apply({"params": params["encoder"]}, inputs)[0])
    counted = task.count(params, {}, valid), task._apply(params, valid, None)[0]
    return found, task._apply(params, train, None)[0], alone, counted

  return task, params, train, valid, run(params, train, valid)


def test_the_head_written_out(made):
  """[CLS] and the first token of the left picture, then of the right one."""
  task, params, train, _, (_, logits_BV, alone, _) = made
  assert train["pixels"].shape == (4, 2, 16, 16, 3)
  assert (train["pixels"][:, 0] != train["pixels"][:, 1]).any(axis=(1, 2, 3)).all()
  head = jax.tree.map(lambda x: np.asarray(x, np.float64), params["statement_head"])

  def norm(x, part):
    scale, bias = (head[part][k] for k in sorted(head[part], reverse=True))
    x = x - x.mean(axis=1, keepdims=True)
    return x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-5) * scale + bias

  seen = [np.asarray(x_BLD, np.float64)[:, i] for x_BLD in alone for i in (0, 17)]
  x = norm(np.concatenate(seen, axis=1), "in_norm")
  x = norm(x @ head["in"]["w_DF"] + head["in"]["b_F"], "norm")
  x = x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
  x = x @ head["out"]["w_FV"] + head["out"]["b_V"]
  close(logits_BV, x, rtol=1e-4, atol=1e-4)
  assert head["in"]["w_DF"].shape == (4 * 16, 2 * 16)
  assert task.tokens_per_example == 2 * (17 + 62)


def test_the_loss_by_hand(made):
  _, _, train, _, (found, logits_BV, _, _) = made
  logits, labels = np.asarray(logits_BV, np.float64), train["label"]
  p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
  close(found.share, -np.log(p[np.arange(4), labels]).mean(), rtol=1e-5)
  close(found.shares["accuracy"], (logits.argmax(axis=1) == labels).mean())


def test_the_head_begins_small(made):
  head = jax.jit(made[0].init)(jax.random.key(0))["statement_head"]
  for part in ("in", "out"):
    (name,) = (name for name in head[part] if name.startswith("w_"))
    assert 5e-6 < np.asarray(head[part][name]).std() < 5e-5


def test_what_is_counted(made):
  """Three statements and a row that fills up the batch."""
  _, _, _, valid, (_, _, _, (sums, logits_BV)) = made
  np.testing.assert_array_equal(valid["real"], [1, 1, 1, 0])
  right = np.asarray(logits_BV).argmax(axis=1)[:3] == valid["label"][:3]
  close([sums["right"], sums["count"]], [right.sum(), 3])
  close(sums["said"], valid["sentence"].sum(axis=0))
  close(sums["wrong"], valid["sentence"][:3][~right].sum(axis=0))
  texts = 2 * int((valid["segments"] > 0).sum())
  tokens = {name: float(part["tokens"]) for name, part in sums["loads"].items()}
  assert tokens == {"image": 3 * 2 * 17, "text": texts}


def test_consistency_by_hand(made):
  """Of four sentences the first is always told right, the second once of twice."""
  task, *_, (_, _, _, (sums, _)) = made
  said, wrong = np.array([3, 2, 1, 0]), np.array([0, 1, 1, 0])
  sums = {"said": said, "wrong": wrong, "loss": 3.0, "right": 4, "count": 6.0}
  found = task.summarize({"statements": sums | {"loads": {}}})
  assert found.scalars() == {
    "loss": 0.5,
    "accuracy": pytest.approx(4 / 6),
    "consistency": pytest.approx(1 / 3),
  }
  assert found.in_words() == [
    "validation      accuracy 66.67% of 6 statements",
    "  consistency   33.33% of 3 sentences are told right of all their pictures",
  ]
  with pytest.raises(ValueError, match="must have a statement, got none"):
    task.summarize({"statements": {}})
