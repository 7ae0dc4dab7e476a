"""A task of a few lines goes through the loop and the checkpoints as any."""

import dataclasses
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from mhmoe_jax.checkpoints import restore
from mhmoe_jax.tasks.task import Loss, Task
from mhmoe_jax.train import config as train_config
from mhmoe_jax.train import loop, metrics


@dataclasses.dataclass(frozen=True)
class Model:
  ffn: str

  layer = None
  moe_blocks = ()


@dataclasses.dataclass(frozen=True)
class Data:
  streams: int


class Feed:
  """Batch n is of pairs (x, 3 x) of which n is a part."""

  def __init__(self):
    self.next, self.pipeline = 0, {"kind": "line"}

  def __next__(self):
    self.next += 1
    x_B = np.sin(np.arange(16.0) + self.next).astype(np.float32)
    return {"points": {"x_B": x_B, "y_B": 3 * x_B}}

  def save(self, streams):
    return {stream: json.dumps(self.next).encode() for stream in streams}

  def restore(self, states, accept_changes=False):
    self.next = json.loads(states[0])
    return "goes on"


class Found(dict):
  loads = types.MappingProxyType({})
  loss = property(lambda self: self["loss"])
  scalars = dict.copy

  def in_short(self):
    return f"loss {self.loss:.3f}"

  def in_words(self):
    return [f"validation      {self.loss:.3f}"]


@dataclasses.dataclass(frozen=True)
class Line(Task):
  """y = a x, where half of a is learned and half is fixed."""

  __hash__ = Task.__hash__
  tokens_per_example = 1

  def init(self, key):
    return {"a_D": jnp.zeros(1)}

  def fixed_shapes(self):
    return {"half_D": jax.ShapeDtypeStruct((1,), jnp.float32)}

  def prepare(self, workdir, say):
    np.save(f"{workdir}/half.npy", np.full(1, 1.5, np.float32))

  def make_fixed(self, workdir):
    return {"half_D": np.load(f"{workdir}/half.npy")}

  def batch_shapes(self, batch_size):
    x_B = jax.ShapeDtypeStruct((batch_size,), jnp.float32)
    return {"points": {"x_B": x_B, "y_B": x_B}}

  def totals(self, batch):
    return jnp.float32(len(batch["points"]["x_B"]))

  def loss(self, params, fixed, batch, key, totals):
    loss = self.count(params, fixed, batch)["sum"] / totals
    return Loss(loss, jnp.float32(0), {"loss": loss}, {})

  def count(self, params, fixed, batch):
    x_B, y_B = batch["points"]["x_B"], batch["points"]["y_B"]
    a = params["a_D"][0] + fixed["half_D"][0]
    return {"sum": ((a * x_B - y_B) ** 2).sum()}

  def summarize(self, sums):
    return Found(loss=float(sums["points"]["sum"]) / sums["points"]["n"])

  def check(self):
    pass

  def train_feed(self, batch_size, streams):
    return Feed()

  def eval_batches(self, batch_size):
    return {"points": iter([(next(Feed()), {"n": batch_size})])}

  def show(self, params, fixed, batches):
    x_B = batches["points"]["points"]["x_B"]
    return {"x": x_B.max() * fixed["half_D"][0]}

  def draw(self, shown):
    return {"x": np.full((2, 2, 3), round(float(shown["x"])), np.uint8)}


@pytest.fixture
def config(monkeypatch):
  kind = train_config._Kind(Line, Model, Data, Data)
  monkeypatch.setitem(train_config.TASKS, "line", kind)
  config = base.get_config()
  with config.unlocked():
    config.task = "line"
    config.model = {"ffn": "dense"}
    config.data = config.objective = {"streams": 1}
  config.train.update({"num_steps": 40, "batch_size": 16, "checkpoint_every": 20})
  config.train.update({"accumulate_steps": 2, "eval_every": 20, "log_every": 20})
  config.optimizer.update({"learning_rate": 0.1, "weight_decay": 0.0})
  config.optimizer.update({"schedule": "constant", "warmup_steps": 0})
  return config


def test_trains_and_goes_on(config, tmp_path, capsys):
  whole = loop.train(config, str(tmp_path / "whole"))
  assert whole.evaluation.loss < 0.01
  np.testing.assert_allclose(whole.params["a_D"], 1.5, atol=0.1)
  config.train.num_steps = 20
  loop.train(config, str(tmp_path / "parts"))
  (tmp_path / "parts" / "half.npy").unlink()  # It is in the checkpoint.
  config.train.num_steps = 40
  parts = loop.train(config, str(tmp_path / "parts"))
  assert "goes on" in capsys.readouterr().err
  np.testing.assert_array_equal(parts.params["a_D"], whole.params["a_D"])
  rows = metrics.read_metrics(tmp_path / "whole" / "metrics.jsonl")
  assert rows[-1]["valid/loss"] == pytest.approx(whole.evaluation.loss)


def test_is_restored_and_told_from_others(config, tmp_path):
  config.train.num_steps = 1
  loop.train(config, str(tmp_path))
  cfg, params = restore.load_model(str(tmp_path))
  assert params.keys() == {"a_D"}
  with pytest.raises(
    ValueError, match="sampling needs a run of task language, got lin"
  ):
    cfg.need("language", "sampling")


def test_an_unknown_task(config):
  config.task = "lines"
  with pytest.raises(
    ValueError, match=r"config.task must be one of language.* 'lines'"
  ):
    train_config.resolve(config)
