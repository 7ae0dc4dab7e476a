"""Answering questions: the loss by its formula, the head written out, the sums."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax.models.encoder import Encoder
from mhmoe_jax.tasks import pictured
from mhmoe_jax.tasks.vqa import binary_cross_entropy
from mhmoe_jax.train.config import resolve
from tests.tasks.pictures import noise_params, small_finetune

close = np.testing.assert_allclose


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """The task, parameters, a training batch, a validation batch, what comes of both."""
  cfg = resolve(small_finetune(tmp_path_factory.mktemp("vqa"), "vqa"))
  task, params = cfg.task, noise_params(cfg.task)
  train = next(task.train_feed(4, [0]))
  *_, (valid, _) = task.eval_batches(4)["questions"]

  @jax.jit
  def run(params, train, valid):
    found = task.loss(params, {}, train, jax.random.key(0), task.totals(train))
    logits_BV, _ = task._apply(params, train, None)
    inputs = pictured.inputs_of(task.model, train)
    x_BLD, _ = Encoder(task.model, norm_output=False).apply(
      {"params": params["encoder"]}, inputs
    )
    counted = task.count(params, {}, valid), task._apply(params, valid, None)[0]
    return found, logits_BV, x_BLD, counted

  return task, params, train, valid, run(params, train, valid)


def by_the_formula(logits, targets):
  """-sum over answers of t log s(x) + (1 - t) log (1 - s(x)), one after the other."""
  total = 0.0
  for x, t in zip(logits.ravel().tolist(), targets.ravel().tolist(), strict=True):
    p = 1 / (1 + math.exp(-x))
    total -= t * math.log(p) + (1 - t) * math.log(1 - p)
  return total


def test_loss_and_gradient_by_hand():
  """Logits 0 and 2, targets .3 and 1: log 2 + log(1 + e^-2); s(x) - t."""
  logits_BV = jnp.array([[0.0, 2.0]])
  targets_BV = jnp.array([[0.3, 1.0]])
  expected = math.log(2) + math.log1p(math.exp(-2))
  close(binary_cross_entropy(logits_BV, targets_BV), [expected], rtol=1e-6)
  grads = jax.grad(lambda x: binary_cross_entropy(x, targets_BV).sum())(logits_BV)
  close(grads, [[0.2, 1 / (1 + math.exp(-2)) - 1]], rtol=1e-6)
  # Of large logits nothing overflows.
  close(binary_cross_entropy(jnp.array([[-200.0, 200.0]]), targets_BV), [60], rtol=1e-6)


def test_the_loss_of_a_batch(made):
  """Summed over the answers, the mean over the questions."""
  _, _, train, _, (found, logits_BV, _, _) = made
  targets_BV = np.asarray(train["targets"])
  assert targets_BV.shape == logits_BV.shape
  assert (targets_BV.sum(axis=1) == 1).all()  # There is one right answer.
  close(found.share, by_the_formula(np.asarray(logits_BV), targets_BV) / 4, rtol=1e-5)
  close(found.shares["loss"], found.share)
  best = np.asarray(logits_BV).argmax(axis=1)
  close(found.shares["accuracy"], targets_BV[np.arange(4), best].mean())
  close(found.mean, 0.01 * found.means["shared/balance_loss"].sum(), rtol=1e-6)
  assert found.means["text/router/load_HE"].shape == (1, 2, 4)


def test_the_head_written_out(made):
  """[CLS] without the last norm: norm, linear, tanh; linear, norm, GELU, linear."""
  task, params, _, _, (_, logits_BV, x_BLD, _) = made
  head = jax.tree.map(lambda x: np.asarray(x, np.float64), params["answer_head"])

  def norm(x, part):
    scale, bias = (head[part][k] for k in sorted(head[part], reverse=True))
    x = x - x.mean(axis=1, keepdims=True)
    return x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-5) * scale + bias

  x = np.asarray(x_BLD, np.float64)[:, 0]
  x = np.tanh(norm(x, "pooler_norm") @ head["pooler"]["w_DP"] + head["pooler"]["b_P"])
  x = norm(x @ head["in"]["w_DF"] + head["in"]["b_F"], "norm")
  x = x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
  x = x @ head["out"]["w_FV"] + head["out"]["b_V"]
  close(logits_BV, x, rtol=1e-4, atol=1e-4)
  assert params["encoder"].keys() == {"picture", "text", "moe_layers"}
  assert head["in"]["w_DF"].shape == (16, 32)
  assert task.tokens_per_example == 17 + 62


def test_what_is_counted(made):
  """The last batch has three questions and a row that fills it up."""
  task, _, _, valid, (_, _, _, (sums, logits_BV)) = made
  np.testing.assert_array_equal(valid["real"], [1, 1, 1, 0])
  best = np.asarray(logits_BV).argmax(axis=1)
  accuracy, count = np.zeros(3), np.zeros(3)
  for row in range(3):
    kind = valid["type"][row]
    accuracy[kind] += valid["accuracies"][row, best[row]]
    count[kind] += 1
  close(sums["accuracy"], accuracy)
  close(sums["count"], count)
  loss = by_the_formula(np.asarray(logits_BV)[:3], np.asarray(valid["targets"])[:3])
  close(sums["loss"], loss, rtol=1e-5)
  tokens = {name: float(part["tokens"]) for name, part in sums["loads"].items()}
  assert tokens == {"image": 3 * 17, "text": (valid["segments"] > 0).sum()}

  found = task.summarize({"questions": jax.tree.map(np.asarray, sums)})
  assert found.accuracy == pytest.approx(accuracy.sum() / 3)
  assert found.loss == pytest.approx(loss / 3, rel=1e-5)
  assert sum(n for _, n in found.by_type.values()) == 3
  for load_NHE in found.loads.values():
    close(load_NHE.sum(axis=-1), np.ones((1, 2)), rtol=1e-5)
  assert found.in_words()[0].endswith(" of 3 questions")
  with pytest.raises(ValueError, match="must have a question, got none"):
    task.summarize({"questions": {}})


def test_what_is_wrong_at_the_door(made):
  task = made[0]
  other = dataclasses.replace(
    task, model=dataclasses.replace(task.model, num_answers=99)
  )
  with pytest.raises(ValueError) as error:
    other.check()
  assert str(error.value) == (
    "model.num_answers must be the number of known answers, got num_answers=99, and "
    f"{task.model.num_answers} answers of at least 1 training questions each."
  )
  with pytest.raises(ValueError, match=r"at least data.text_length, got"):
    dataclasses.replace(task, model=dataclasses.replace(task.model, text_length=61))
  with pytest.raises(ValueError, match="vocab_size must be at least"):
    dataclasses.replace(
      task, model=dataclasses.replace(task.model, vocab_size=258)
    ).check()
