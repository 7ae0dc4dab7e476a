"""A config at the door: which keys, which types, and the least of every number."""

import dataclasses

from ml_collections import ConfigDict
import pytest

from configs import base
from mhmoe_jax.train.config import LoopConfig, describe_changes, resolve

LEAST = dict.fromkeys(("num_steps", "batch_size", "accumulate_steps", "log_every"), 1)
LEAST |= dict.fromkeys(("eval_every", "checkpoint_every", "keep_last"), 1)
LEAST |= dict.fromkeys(("eval_batches", "profile_steps", "image_every"), 0)
LEAST |= dict.fromkeys(("harness_every", "harness_limit"), 0)


def test_the_least_of_every_number():
  table = base.get_config().train.to_dict()
  numbers = {x.name for x in dataclasses.fields(LoopConfig) if x.type is int}
  assert numbers - {"seed"} == LEAST.keys()
  for name, least in LEAST.items():
    assert getattr(LoopConfig(**table | {name: least}), name) == least
    with pytest.raises(ValueError) as error:
      LoopConfig(**table | {name: least - 1})
    message = f"{name} must be at least {least}, got {name}={least - 1}."
    assert str(error.value) == message


def test_an_integer_is_a_float_and_a_bool_no_integer():
  table = base.get_config().to_dict()
  table["objective"]["balance_weight"] = 2
  assert type(resolve(ConfigDict(table)).objective.balance_weight) is float
  config = base.get_config()
  with config.ignore_type():
    config.model.moe.top_k = True
  with pytest.raises(ValueError) as error:
    resolve(config)
  assert str(error.value) == (
    "config.model.moe.top_k must be of type int, got True of type bool."
  )


def test_a_missing_key_and_an_unknown_task():
  config = base.get_config()
  with config.unlocked():
    del config.mesh.fsdp
    with pytest.raises(ValueError) as error:
      resolve(config)
    assert str(error.value) == (
      "config.mesh must have the keys replica, data, expert, model, fsdp, got missing "
      "key 'fsdp'."
    )
    config.task = "vision"
  with pytest.raises(ValueError) as error:
    resolve(config)
  assert str(error.value) == (
    "config.task must be one of language, masked, vqa, nlvr, captioning, got 'vision'."
  )


def test_what_is_for_another_task():
  cfg = resolve(base.get_config())
  cfg.need("language", "mhmoe sample")
  with pytest.raises(ValueError) as error:
    cfg.need("masked", "mhmoe fill")
  assert str(error.value) == "mhmoe fill needs a run of task masked, got language."


def test_changes_of_keys_that_come_and_go():
  before, now = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "e": 4}}
  assert describe_changes(before, now) == [
    "a.c was 2, is None",
    "a.e was None, is 4",
    "d was 3, is None",
  ]
