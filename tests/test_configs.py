"""Every config builds, shrinks, and takes one finite step; base.py is complete."""

import dataclasses
import functools
import importlib
import pathlib

import jax
import numpy as np
import pytest

from configs import base
from configs.paper1 import english, multimodal
from configs.paper2 import redpajama
from mhmoe_jax import MoeConfig
from mhmoe_jax.plan.accounting import count_parameters
from mhmoe_jax.sharding import REPLICATED, make_mesh, place_batch
from mhmoe_jax.train.config import describe_changes, resolve
from mhmoe_jax.train.optimizer import make_optimizer
from mhmoe_jax.train.state import abstract_state
from mhmoe_jax.train.step import make_train_step
from tests.train.test_step import make_batch

ROOT = pathlib.Path(__file__).parent.parent
NAMES = sorted(
  ".".join(path.relative_to(ROOT).with_suffix("").parts)
  for path in (ROOT / "configs").rglob("*.py")
)
MULTIMODAL = [("configs.paper1.multimodal", (row,)) for row in multimodal.ROWS]
VARIANTS = (
  [(name, ()) for name in NAMES]
  + [("configs.tiny", ("smoe",)), ("configs.tiny", ("dense",))]
  + [("configs.paper1.english", (row,)) for row in english.ROWS]
  + [("configs.paper1.english", ("mhmoe_8,logged",))]
  + [("configs.paper1.multilingual", (row,)) for row in english.MAIN_ROWS]
  + [("configs.paper2.redpajama", (row,)) for row in redpajama.ROWS]
  + MULTIMODAL
)


def shrink(config):
  """The same model, small: what is a choice stays, what is a size goes.

  The dense blocks between MoE blocks go too, and so do dropout and bfloat16, which have
  tests of their own: a program's size is its time to compile.
  """
  model, moe = config.model, config.model.moe
  if config.task != "language":
    model.picture_size, model.patch_size, model.num_codes = 16, 8, 8
    model.text_length = 8
    if config.task == "masked":
      config.data.text.sequence_length = config.data.pair_length = 8
    else:
      config.data.text_length = 8
    if config.task == "vqa":  # One program for all: optimizers differ in numbers.
      config.optimizer = base.get_config().optimizer
      config.train.num_steps = 100
    model.moe_last = min(model.moe_last, 2)
    model.drop_path = 0.0
    config.train.batch_size = 8
  model.num_layers = 2
  model.moe_every = 1
  model.num_attention_heads = 2
  model.vocab_size = 264
  model.ffn_dim = 16
  model.dropout = moe.expert_dropout = 0.0
  model.dtype = "float32"
  moe.num_heads = min(moe.num_heads, 2)
  moe.num_experts = min(moe.num_experts, 8)
  moe.top_k = 2 if moe.renormalize and moe.num_experts > 1 else 1
  moe.num_linear = min(moe.num_linear, 1)
  moe.expert_dim = 8
  moe.shared_dim = min(moe.shared_dim, 12)
  model.embed_dim = 16 * moe.num_heads
  return config


@functools.cache
def take_step(task, optimizer, num_steps, expert=0):
  """Many rows differ in sizes only, and are one program when small."""
  optimizer = make_optimizer(optimizer, num_steps)
  mesh = make_mesh(expert=expert) if expert else make_mesh(data=1)
  shapes = abstract_state(task, optimizer, mesh, REPLICATED)
  state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  for name in state.keys() & {"params", "fixed"}:
    state[name] = jax.tree.map(wave, state[name])
  state = jax.device_put(state, jax.tree.map(lambda x: x.sharding, shapes))
  batch = make_batch()
  if "inputs" not in task.batch_shapes(1):
    shapes = task.batch_shapes(8)
    batch = jax.tree.map(lambda x: wave(np.zeros(x.shape, x.dtype)), shapes)
  with jax.set_mesh(mesh):
    step = jax.jit(make_train_step(task, optimizer, 1))
    rows = len(jax.tree.leaves(batch)[0])
    state, metrics = step(state, place_batch(batch, mesh, rows))
  return state["params"], metrics


def wave(x):
  """The same numbers everywhere: waves, or where x is of integers 0 and 1."""
  waves = np.sin(1 + 0.7 * np.arange(x.size)).reshape(x.shape)
  is_float = np.issubdtype(x.dtype, np.floating)
  return (waves if is_float else waves > 0).astype(x.dtype)


@pytest.mark.parametrize(
  ("name", "args"), VARIANTS, ids=[":".join((n, *a)) for n, a in VARIANTS]
)
def test_takes_a_finite_step(name, args):
  config = importlib.import_module(name).get_config(*args)
  resolve(config)
  cfg = resolve(shrink(config))
  result = take_step(cfg.task, cfg.optimizer, cfg.train.num_steps)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(result))


@pytest.mark.parametrize("row", multimodal.ROWS)
def test_multimodal_rows_take_a_finite_step_on_eight_devices(row):
  cfg = resolve(shrink(multimodal.get_config(row)))
  result = take_step(cfg.task, cfg.optimizer, cfg.train.num_steps, expert=2)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(result))


def test_base_and_the_layer_agree_on_defaults():
  """base.py is the home of defaults; the layer has the same, for use without it.

  Its biases and the norm inside its FFNs follow the model's, in base.py.
  """
  table = base.get_config().model.moe.to_dict()
  follow = {"use_bias", "ffn_norm", "ffn_norm_epsilon"}
  for field in dataclasses.fields(MoeConfig):
    if field.default is not dataclasses.MISSING and field.name not in follow:
      assert table[field.name] == field.default, field.name


def test_the_norm_inside_ffns_follows_the_model_or_not():
  config = base.get_config()
  config.model.norm, config.model.norm_epsilon = "layernorm", 1e-4
  config.model.dropout = 0.2
  model = resolve(config).model
  for table in (model, model.moe):
    assert (table.ffn_norm, table.ffn_norm_epsilon) == ("layernorm", 1e-4)
  assert (model.moe_dropout, model.moe.expert_dropout) == (0.2, 0.0)
  config.model.ffn_norm, config.model.moe_dropout = "rmsnorm", 0.0
  model = resolve(config).model
  assert (model.norm, model.ffn_norm, model.moe.ffn_norm) == ("layernorm",) + 2 * (
    "rmsnorm",
  )
  assert (model.dropout, model.moe_dropout) == (0.2, 0.0)


def test_tiny_baselines_have_as_many_parameters():
  tiny = importlib.import_module("configs.tiny")

  def count(ffn):
    return count_parameters(resolve(tiny.get_config(ffn)).task)

  mhmoe, smoe, dense = map(count, ("mhmoe", "smoe", "dense"))
  assert abs(smoe.total / mhmoe.total - 1) < 0.12
  assert dense.total < mhmoe.active


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (
      lambda c: c.model.update({"width": 3}),
      "config.model must have the keys vocab_size, ",
    ),
    (
      lambda c: c.train.update({"num_steps": 1.5}),
      "config.train.num_steps must be of type int, got 1.5 of type float.",
    ),
    (lambda c: c.train.update({"batch_size": 0}), "batch_size must be at least 1, got"),
    (
      lambda c: c.train.update({"accumulate_steps": 3}),
      "accumulate_steps must divide batch_size, got accumulate_steps=3, batch_size=32.",
    ),
    (
      lambda c: c.optimizer.update({"learning_rate": 0.0}),
      "learning_rate must be positive, got learning_rate=0.0.",
    ),
    (
      lambda c: c.objective.update({"balance_weight": -1.0}),
      "balance_weight must be at least 0, got balance_weight=-1.0.",
    ),
  ],
)
def test_impossible_values(change, message):
  config = base.get_config()
  with config.unlocked(), config.ignore_type():
    change(config)
  with pytest.raises(ValueError) as error:
    resolve(config)
  assert message in str(error.value)
  assert "\n" not in str(error.value)


def test_describe_changes():
  before, now = base.get_config().to_dict(), base.get_config().to_dict()
  assert describe_changes(before, now) == []
  now["model"]["moe"]["top_k"] = 3
  assert describe_changes(before, now) == ["model.moe.top_k was 2, is 3"]
