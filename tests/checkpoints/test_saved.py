"""Reading what was damaged, or belongs to another model."""

import copy
import json
import re
import shutil

from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict
import numpy as np
import orbax.checkpoint as ocp
import pytest

from configs import base
from mhmoe_jax.checkpoints import saved
from mhmoe_jax.train.config import resolve
from tests.checkpoints.states import (
  CONFIG,
  abstract,
  array_file,
  assert_same_bits,
  directory,
  make_mesh,
  make_state,
  save_all,
)

# Damage.


def cut(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garble(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 0x10
  path.write_bytes(content)


def empty(path):
  shutil.rmtree(path)
  path.mkdir()


DAMAGES = {
  "manifest lost": lambda d: (d / "state/manifest.ocdbt").unlink(),
  "manifest emptied": lambda d: (d / "state/manifest.ocdbt").write_bytes(b""),
  "tree metadata lost": lambda d: (d / "state/_METADATA").unlink(),
  "tree metadata garbled": lambda d: garble(d / "state/_METADATA"),
  "array file lost": lambda d: array_file(d).unlink(),
  "array file cut": lambda d: cut(array_file(d)),
  "array file garbled": lambda d: garble(array_file(d)),
  "state lost": lambda d: shutil.rmtree(d / "state"),
  "run lost": lambda d: shutil.rmtree(d / "run"),
  "about.json cut": lambda d: cut(d / "run/about.json"),
  "files.json lost": lambda d: (d / "run/files.json").unlink(),
  "iterator lost": lambda d: (d / "run/stream_0").unlink(),
  "iterator cut": lambda d: cut(d / "run/stream_0"),
  "iterator garbled": lambda d: garble(d / "run/stream_0"),
  "empty directory": empty,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint_is_passed_over(restart, mesh, tmp_path, caplog, damage):
  save_all(restart(), mesh, {1: None, 2: 3.0, 3: 2.0})
  DAMAGES[damage](directory(tmp_path, 3))
  checkpoints = restart()
  restored = checkpoints.restore(abstract(make_state(mesh)), [0])
  assert (restored.step, restored.data_states) == (2, {0: b"iterator at 2"})
  assert_same_bits(restored.state, make_state(mesh, seed=2))
  (warning,) = [r.getMessage() for r in caplog.records if r.name.startswith("mhmoe")]
  assert re.fullmatch(r"checkpoint 3 is damaged .*; falling back to .* 2\.", warning)
  assert checkpoints.steps() == [1, 2]
  assert checkpoints.best_step() == 2
  # Its step can be saved again, and the others are not harmed.
  save_all(checkpoints, mesh, {3: None})
  checkpoints = restart()
  assert checkpoints.steps() == [1, 2, 3]
  for step in (1, 2, 3):
    found = checkpoints.restore(abstract(make_state(mesh)), [0], step).state
    assert_same_bits(found, make_state(mesh, seed=step))


def test_damage_in_a_row(restart, mesh, tmp_path, caplog):
  checkpoints = restart()
  save_all(checkpoints, mesh, {1: None, 2: None, 3: None})
  wanted = abstract(make_state(mesh))
  for step in (3, 2):
    empty(directory(tmp_path, step))
  assert saved.load_config(tmp_path) == CONFIG
  assert_same_bits(
    saved.restore_params(tmp_path, wanted["params"]), make_state(mesh, seed=1)["params"]
  )
  with pytest.raises(ValueError, match=r"^none of the checkpoints \[2\] can be read: "):
    checkpoints.restore(wanted, [0], step=2)
  assert checkpoints.restore(wanted, [0]).step == 1
  empty(directory(tmp_path, 1))
  with pytest.raises(
    ValueError, match=r"^none of the checkpoints \[3, 2, 1\] can"
  ) as e:
    restart().restore(wanted, [0])
  assert "\n" not in str(e.value)
  # Reading destroys nothing.
  assert restart().steps() == [1, 2, 3]


def test_what_orbax_alone_would_not_notice(restart, mesh, tmp_path, monkeypatch):
  """Garbled numbers, of which no file knows."""
  restore = ocp.PyTreeCheckpointHandler.restore

  def flip_a_bit(self, where, args):
    state = restore(self, where, args=args)
    if "/2/" in str(where):
      params = state["params"]["decoder"]
      params["scale_D"] = params["scale_D"].at[3].add(2**-7)
    return state

  checkpoints = restart()
  save_all(checkpoints, mesh, {1: None, 2: None})
  monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", flip_a_bit)
  assert checkpoints.restore(abstract(make_state(mesh)), [0]).step == 1


def test_orbax_bookkeeping_is_not_missed(restart, mesh, tmp_path):
  save_all(restart(), mesh, {1: None, 2: None})
  (directory(tmp_path, 2) / "_CHECKPOINT_METADATA").unlink()
  restored = restart().restore(abstract(make_state(mesh)), [0])
  assert restored.step == 2
  assert_same_bits(restored.state, make_state(mesh, seed=2))


@pytest.mark.parametrize("error", [TypeError, KeyError, AttributeError, RuntimeError])
def test_a_bug_is_not_damage(restart, mesh, monkeypatch, error):
  def buggy(self, where, args):
    raise error("a bug")

  checkpoints = restart()
  save_all(checkpoints, mesh, {1: None, 2: None})
  monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", buggy)
  with pytest.raises(error, match="a bug"):
    checkpoints.restore(abstract(make_state(mesh)), [0])


def test_a_sharding_that_does_not_fit_is_not_damage(restart, mesh):
  checkpoints = restart()
  save_all(checkpoints, mesh, {1: None, 2: None})
  wanted = abstract(make_state(mesh))
  scale = wanted["params"]["decoder"]["scale_D"]
  wanted["params"]["decoder"]["scale_D"] = scale.update(
    sharding=NamedSharding(make_mesh(data=3, expert=1), P("data"))
  )
  with pytest.raises(ValueError, match="evenly divide"):
    checkpoints.restore(wanted, [0])


# Another model.


def test_another_shape(restart, mesh, tmp_path):
  checkpoints = restart()
  save_all(checkpoints, mesh, {1: None, 2: None})
  other = abstract(make_state(mesh, hidden=32))
  where = directory(tmp_path, 2)
  message = (
    f"checkpoint {where} is of another model: params/decoder/w_EMF has shape "
    "(4, 8, 16) float32, the config gives shape (4, 8, 32) float32 ({} others differ)."
  )
  # With Adam's two moments; alone.
  with pytest.raises(ValueError, match=re.escape(message.format(2))):
    checkpoints.restore(other, [0])
  with pytest.raises(ValueError, match=re.escape(message.format(0))):
    saved.restore_params(tmp_path, other["params"])


def test_another_dtype_or_tree(restart, mesh):
  checkpoints = restart()
  save_all(checkpoints, mesh, {1: None})
  bf16, f16 = "shape (8,) bfloat16", "shape (8,) float16"
  for name, dtype, text in [
    ("scale_D", "float16", f"has {bf16}, the config gives {f16}"),
    ("scale_D", None, f"has {bf16}, the config gives no array"),
    ("bias_D", "float16", f"has no array, the config gives {f16}"),
  ]:
    wanted = abstract(make_state(mesh))
    params = wanted["params"]["decoder"]
    if dtype is None:
      del params[name]
    else:
      params[name] = params["scale_D"].update(dtype=np.dtype(dtype))
    with pytest.raises(ValueError, match=re.escape(f"params/decoder/{name} {text}")):
      checkpoints.restore(wanted, [0])


def read_as_config(tmp_path, config):
  path = directory(tmp_path, 1) / "run" / "about.json"
  about = json.loads(path.read_text())
  about["config"] = config
  path.write_text(json.dumps(about))
  return saved.load_config(tmp_path)


def test_config_older_than_a_setting(restart, mesh, tmp_path):
  save_all(restart(), mesh, {1: None})
  old = {
    "train": {"num_steps": 1},
    "data": {"prepared": "folder", "vocabulary": "bytes"},
  }
  today = base.get_config().train.to_dict()
  names = ("harness_every", "harness_tasks", "harness_data", "harness_limit")
  none = {"image_every": 0, **{name: today[name] for name in names}}
  assert none["harness_every"] == 0
  assert read_as_config(tmp_path, old) == {
    "task": "language",
    "init": "",
    "train": {"num_steps": 1, **none},
    "data": {"prepared": "folder", "vocabulary": "bytes"},
  }
  # Runs of other tasks are older than some, too.
  old = {"task": "masked", "optimizer": {"b1": 0.9}}
  expected = {"b1": 0.9, "layer_decay": 1.0, "rates": {}}
  assert read_as_config(tmp_path, old) == old | {"init": "", "optimizer": expected}
  # The rate of a task's heads had a key of its own.
  for rate, rates in ((1.0, {}), (20.0, {"answer_head": 20.0})):
    old = {"task": "vqa", "optimizer": {"layer_decay": 0.9, "head_rate": rate}}
    found = read_as_config(tmp_path, old)["optimizer"]
    assert found == {"layer_decay": 0.9, "rates": rates}
  old = {"task": "vqa", "data": {"augment": {"flip": True}}}
  found = read_as_config(tmp_path, old)["data"]
  assert found == {"augment": {"flip": True, "randaugment": 0}}
  # Blocks were computed again, or nothing was.
  for was, name in ((True, "blocks"), (False, "none"), ("norms", "norms")):
    for task in ("masked", "language"):
      old = {"task": task, "model": {"norm_epsilon": 1e-5, "remat": was}}
      assert read_as_config(tmp_path, old)["model"]["remat"] == name
  # A way to the experts is gone, and another in its place.
  for was, name in (("ragged", "rounds"), ("sorted", "sorted")):
    for task in ("masked", "language"):
      moe = {"dispatch": was, "activation": "gelu"}
      old = {"task": task, "model": {"norm_epsilon": 1e-5, "moe": moe}}
      assert read_as_config(tmp_path, old)["model"]["moe"]["dispatch"] == name


# What was fixed before the keys below were there.
FIXED = {
  "norm_epsilon": {"rmsnorm": 1e-6, "layernorm": 1e-5},
  "ffn_norm": "layernorm",
  "ffn_norm_epsilon": 1e-5,
  "gate_bias": False,
  "init": "flax",
}
FEATURES = {"num_kv_heads", "head_dim", "qk_norm", "scale_embeddings"}
FIXED_OF_MOE = {"linear_bias": False, "expert_dropout": 0.0, "router_norm": 0.0}
FIXED_OF_MOE["round_factor"] = 1.25


@pytest.mark.parametrize("norm", ["rmsnorm", "layernorm"])
@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_a_run_from_before_exact_gelu(restart, mesh, tmp_path, norm, activation):
  """It computes what it did: "gelu" was the tanh form, and norms had one epsilon."""
  save_all(restart(), mesh, {1: None})
  config = base.get_config()
  config.model.update({"norm": norm, "activation": activation, "dropout": 0.2})
  today = config.to_dict()
  old = copy.deepcopy(today)
  del old["task"]
  for name in (*FIXED, *FEATURES, "moe_dropout"):
    del old["model"][name]
  for name in (*FIXED, *FIXED_OF_MOE):
    old["model"]["moe"].pop(name, None)
  found = read_as_config(tmp_path, old)
  expected = FIXED | {"norm_epsilon": FIXED["norm_epsilon"][norm], "moe_dropout": 0.2}
  expected["activation"] = "gelu_tanh" if activation == "gelu" else activation
  for name, value in expected.items():
    assert found["model"][name] == value, name
    assert found["model"]["moe"].get(name, value) == value, name
  for name, value in FIXED_OF_MOE.items():
    assert found["model"]["moe"][name] == value, name
  for name in FEATURES:
    assert found["model"][name] == today["model"][name], name
  resolve(ConfigDict(found))
  # One from after is left as it is.
  assert read_as_config(tmp_path, today) == json.loads(json.dumps(today))


def test_a_description_without_a_key_is_damage(restart, mesh, tmp_path):
  checkpoints = restart()
  save_all(checkpoints, mesh, {1: None, 2: None})
  about = directory(tmp_path, 2) / "run" / "about.json"
  about.write_text(about.read_text().replace('"loss"', '"lozs"'))
  assert restart().restore(abstract(make_state(mesh)), [0]).step == 1
