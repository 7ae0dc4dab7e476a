import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading

import jax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from mhmoe_jax.train import checkpoint
from mhmoe_jax.train.checkpoint import Checkpoints, load_config, restore_params

CONFIG = {"model": {"embed_dim": 8}, "optimizer": {"betas": [0.9, 0.95]}}


def make_mesh(data, expert):
  devices = jax.devices()[: data * expert]
  return jax.make_mesh(
    (data, expert), ("data", "expert"), (AxisType.Auto,) * 2, devices=devices
  )


def make_state(mesh, seed=0, hidden=16):
  """As awkward as a real one: a masked optimizer, scalars, bfloat16, odd floats."""
  rng = np.random.default_rng(seed)
  w_EMF = rng.standard_normal((4, 8, hidden)).astype(np.float32)
  w_EMF[0, 0, :4] = [-0.0, np.inf, np.nan, 1e-40]
  params = {"decoder": {"w_EMF": w_EMF, "scale_D": np.ones(8, jax.numpy.bfloat16)}}
  mask = {"decoder": {"w_EMF": True, "scale_D": False}}
  optimizer = optax.chain(
    optax.clip_by_global_norm(1.0), optax.masked(optax.adamw(1e-3), mask)
  )
  state = {
    "step": np.int32(seed),
    "params": params,
    "opt_state": optimizer.init(params),
    "rng": np.asarray(jax.random.key_data(jax.random.key(seed))),
  }

  def place(x):
    x = np.asarray(x)
    spec = P("expert", None, "data") if x.ndim == 3 else P()
    sharding = NamedSharding(mesh, spec)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

  return jax.tree.map(place, state)


def abstract(state):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
  )


def assert_same_bits(found, wanted):
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    assert (x.shape, x.dtype) == (y.shape, y.dtype)
    assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


@pytest.fixture
def mesh():
  return make_mesh(data=2, expert=4)


@pytest.fixture
def restart(tmp_path):
  """Opens the checkpoints of `tmp_path`, as a process does that starts."""
  opened = []

  def open_checkpoints(keep_last=3):
    if opened:
      opened.pop().close()
    opened.append(Checkpoints(tmp_path, keep_last))
    return opened[0]

  yield open_checkpoints
  if opened:
    opened.pop().close()


def save_all(checkpoints, mesh, losses):
  """Saves a state for each step of `losses`, of which it can be told."""
  for step, loss in losses.items():
    data_state = f"iterator at {step}".encode()
    checkpoints.save(step, make_state(mesh, seed=step), data_state, CONFIG, loss)
  checkpoints.wait()


def directory(tmp_path, step):
  return tmp_path / "checkpoints" / str(step)


def array_file(step_directory):
  return max(step_directory.glob("state/**/d/*"), key=lambda f: f.stat().st_size)


# What a checkpoint is.


def test_everything_comes_back_as_it_was(restart, mesh):
  state = make_state(mesh)
  restart().save(7, state, b"\x00iterator\xff", CONFIG)
  restored = restart().restore(abstract(state))
  assert restored.step == 7
  assert restored.data_state == b"\x00iterator\xff"
  assert restored.config == CONFIG
  assert_same_bits(restored.state, state)


@pytest.mark.parametrize(("data", "expert"), [(2, 4), (1, 4), (4, 2), (1, 2), (1, 1)])
def test_restores_onto_another_mesh(restart, mesh, data, expert):
  state = make_state(mesh)
  wanted = abstract(make_state(make_mesh(data, expert)))
  checkpoints = restart()
  checkpoints.save(1, state, b"", CONFIG)
  restored = checkpoints.restore(wanted).state
  assert_same_bits(restored, state)
  for x, y in zip(jax.tree.leaves(restored), jax.tree.leaves(wanted), strict=True):
    assert x.sharding == y.sharding


def test_no_checkpoint_at_all(restart, mesh, tmp_path):
  checkpoints = restart()
  assert checkpoints.restore(abstract(make_state(mesh))) is None
  assert checkpoints.steps() == []
  assert checkpoints.latest_step() is None
  assert checkpoints.best_step() is None
  for workdir in (tmp_path, tmp_path / "nowhere"):
    with pytest.raises(ValueError, match=f"^no checkpoint under {workdir}/checkpoints"):
      load_config(workdir)


def test_an_older_step_can_be_asked_for(restart, mesh):
  checkpoints = restart()
  save_all(checkpoints, mesh, {1: None, 2: None})
  restored = checkpoints.restore(abstract(make_state(mesh)), step=1)
  assert (restored.step, restored.data_state) == (1, b"iterator at 1")
  assert_same_bits(restored.state, make_state(mesh, seed=1))
  with pytest.raises(
    ValueError, match=r"^no checkpoint 3 under .*, there are \[2, 1\]"
  ):
    checkpoints.restore(abstract(make_state(mesh)), step=3)


def test_config_and_params_are_read_alone(restart, mesh, tmp_path, monkeypatch):
  save_all(restart(), mesh, {1: None, 2: None})
  monkeypatch.chdir(tmp_path.parent)
  relative = tmp_path.name
  wanted = abstract(make_state(make_mesh(data=1, expert=2)))["params"]
  params = restore_params(relative, wanted)
  assert_same_bits(params, make_state(mesh, seed=2)["params"])
  assert params["decoder"]["w_EMF"].sharding == wanted["decoder"]["w_EMF"].sharding
  assert_same_bits(
    restore_params(tmp_path, wanted, step=1), make_state(mesh, seed=1)["params"]
  )
  assert load_config(tmp_path) == load_config(relative, step=1) == CONFIG


# Saving.


def test_state_may_be_donated_right_after_save(restart, mesh):
  state = make_state(mesh, hidden=1 << 14)
  kept = jax.tree.map(lambda x: np.array(x, copy=True), state)
  wanted = abstract(state)
  step = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 + 1, s), donate_argnums=0)
  checkpoints = restart()
  checkpoints.save(1, state, b"", CONFIG)
  for _ in range(20):
    state = step(state)
  jax.block_until_ready(state)
  assert_same_bits(checkpoints.restore(wanted).state, kept)


def test_save_returns_before_the_checkpoint_is_there(
  restart, mesh, tmp_path, monkeypatch
):
  go_on = threading.Event()
  finalize = checkpoint._RunHandler.finalize

  def slow_finalize(self, where):
    assert go_on.wait(60)
    finalize(self, where)

  monkeypatch.setattr(checkpoint._RunHandler, "finalize", slow_finalize)
  checkpoints = restart()
  checkpoints.save(1, make_state(mesh), b"", CONFIG)
  assert not directory(tmp_path, 1).exists()
  go_on.set()
  checkpoints.wait()
  assert directory(tmp_path, 1).exists()


def test_failure_in_the_background_is_raised(restart, mesh, monkeypatch):
  def no_space(self, where):
    raise OSError(28, "No space left on device")

  checkpoints = restart()
  save_all(checkpoints, mesh, {1: None})
  with monkeypatch.context() as patch:
    patch.setattr(checkpoint._RunHandler, "finalize", no_space)
    checkpoints.save(2, make_state(mesh), b"", CONFIG)
    with pytest.raises(OSError, match="No space left"):
      checkpoints.wait()
  assert checkpoints.steps() == [1]
  save_all(checkpoints, mesh, {2: None})
  assert checkpoints.restore(abstract(make_state(mesh))).step == 2


def test_steps_must_ascend(restart, mesh):
  checkpoints = restart()
  save_all(checkpoints, mesh, {5: None})
  for step in (4, 5):
    with pytest.raises(ValueError, match=f"got step={step}, latest=5"):
      checkpoints.save(step, make_state(mesh), b"", CONFIG)


def test_config_must_be_json(restart, mesh):
  with pytest.raises(TypeError, match="not JSON serializable"):
    restart().save(1, make_state(mesh), b"", {"dtype": np.float32})


@pytest.mark.parametrize("below", ["file", "file/run"])
def test_unwritable_workdir(tmp_path, below):
  (tmp_path / "file").write_text("")
  with pytest.raises(ValueError, match=r"^cannot write checkpoints to .*file") as error:
    Checkpoints(tmp_path / below, keep_last=1)
  assert "\n" not in str(error.value)


def test_bucket_paths_stay_bucket_paths():
  assert str(checkpoint._directory("gs://bucket/run")) == "gs://bucket/run/checkpoints"


def test_orbax_is_silent_below_warnings(restart, mesh, caplog):
  with caplog.at_level(logging.INFO):
    save_all(restart(), mesh, {1: None})
  assert [r.getMessage() for r in caplog.records if "/orbax/" in r.pathname] == []


# Which checkpoints stay.


def test_the_last_and_the_best_stay(restart, mesh):
  checkpoints = restart(keep_last=2)
  save_all(checkpoints, mesh, {1: 3.0, 2: 1.0, 3: 2.0, 4: 2.5})
  assert checkpoints.steps() == [2, 3, 4]
  assert checkpoints.best_step() == 2
  # Losses survive a restart, and a better one frees the best so far.
  checkpoints = restart(keep_last=1)
  assert checkpoints.best_step() == 2
  save_all(checkpoints, mesh, {5: 1.5})
  assert checkpoints.steps() == [2, 5]
  save_all(checkpoints, mesh, {6: 0.5})
  assert checkpoints.steps() == [6]
  assert restart().steps() == [6]


def test_without_a_finite_loss_none_is_best(restart, mesh):
  checkpoints = restart(keep_last=1)
  save_all(checkpoints, mesh, {1: None, 2: float("nan"), 3: float("-inf")})
  assert checkpoints.best_step() is None
  assert checkpoints.steps() == [3]
  save_all(checkpoints, mesh, {4: 9.0, 5: None, 6: float("nan")})
  assert checkpoints.best_step() == 4
  assert checkpoints.steps() == [4, 6]


def test_keep_last_must_be_positive(tmp_path):
  with pytest.raises(ValueError, match="keep_last must be at least 1, got keep_last=0"):
    Checkpoints(tmp_path, keep_last=0)


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
  "iterator lost": lambda d: (d / "run/process_0").unlink(),
  "iterator cut": lambda d: cut(d / "run/process_0"),
  "iterator garbled": lambda d: garble(d / "run/process_0"),
  "empty directory": empty,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint_is_passed_over(restart, mesh, tmp_path, caplog, damage):
  save_all(restart(), mesh, {1: None, 2: 3.0, 3: 2.0})
  DAMAGES[damage](directory(tmp_path, 3))
  checkpoints = restart()
  restored = checkpoints.restore(abstract(make_state(mesh)))
  assert (restored.step, restored.data_state) == (2, b"iterator at 2")
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
    found = checkpoints.restore(abstract(make_state(mesh)), step).state
    assert_same_bits(found, make_state(mesh, seed=step))


def test_damage_in_a_row(restart, mesh, tmp_path, caplog):
  checkpoints = restart()
  save_all(checkpoints, mesh, {1: None, 2: None, 3: None})
  wanted = abstract(make_state(mesh))
  for step in (3, 2):
    empty(directory(tmp_path, step))
  assert load_config(tmp_path) == CONFIG
  assert_same_bits(
    restore_params(tmp_path, wanted["params"]), make_state(mesh, seed=1)["params"]
  )
  with pytest.raises(ValueError, match=r"^none of the checkpoints \[2\] can be read: "):
    checkpoints.restore(wanted, step=2)
  assert checkpoints.restore(wanted).step == 1
  empty(directory(tmp_path, 1))
  with pytest.raises(
    ValueError, match=r"^none of the checkpoints \[3, 2, 1\] can"
  ) as e:
    restart().restore(wanted)
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
  assert checkpoints.restore(abstract(make_state(mesh))).step == 1


def test_orbax_bookkeeping_is_not_missed(restart, mesh, tmp_path):
  save_all(restart(), mesh, {1: None, 2: None})
  (directory(tmp_path, 2) / "_CHECKPOINT_METADATA").unlink()
  restored = restart().restore(abstract(make_state(mesh)))
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
    checkpoints.restore(abstract(make_state(mesh)))


def test_a_sharding_that_does_not_fit_is_not_damage(restart, mesh):
  checkpoints = restart()
  save_all(checkpoints, mesh, {1: None, 2: None})
  wanted = abstract(make_state(mesh))
  scale = wanted["params"]["decoder"]["scale_D"]
  wanted["params"]["decoder"]["scale_D"] = scale.update(
    sharding=NamedSharding(make_mesh(data=3, expert=1), P("data"))
  )
  with pytest.raises(ValueError, match="evenly divide"):
    checkpoints.restore(wanted)


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
    checkpoints.restore(other)
  with pytest.raises(ValueError, match=re.escape(message.format(0))):
    restore_params(tmp_path, other["params"])


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
      checkpoints.restore(wanted)


# Other processes.


def start_child(script, *args, **env):
  header = """
import os, pathlib, signal, sys, time
import jax, numpy as np
from mhmoe_jax.train import checkpoint
from test_checkpoint import CONFIG, abstract, make_mesh, make_state
"""
  path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
  return subprocess.Popen(
    [sys.executable, "-W", "error", "-c", header + script, *map(str, args)],
    env={**os.environ, "PYTHONPATH": path, **env},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


KILLED = """
workdir, moment = sys.argv[1:]
mesh = make_mesh(data=2, expert=4)
checkpoints = checkpoint.Checkpoints(workdir, keep_last=1)
checkpoints.save(1, make_state(mesh, 1), b"iterator at 1", CONFIG, 1.0)
checkpoints.wait()

def die(*args):
  os.kill(os.getpid(), signal.SIGKILL)

if moment == "before the commit":
  checkpoint._RunHandler.finalize = die
else:
  checkpoint._RunHandler.finalize = lambda *args: time.sleep(60)
checkpoints.save(2, make_state(mesh, 2), b"iterator at 2", CONFIG, 0.5)
if moment == "while writing":
  while not any(pathlib.Path(workdir).glob("checkpoints/2*/state*/*")):
    time.sleep(0.001)
  die()
checkpoints.wait()
"""


@pytest.mark.parametrize("moment", ["while writing", "before the commit"])
def test_kill_during_a_save(restart, mesh, tmp_path, moment):
  child = start_child(KILLED, tmp_path, moment)
  output, _ = child.communicate(timeout=120)
  assert child.returncode == -signal.SIGKILL, output
  found = tmp_path / "checkpoints"
  assert len(list(found.iterdir())) == 2  # Step 1, and what is left of 2.

  checkpoints = restart(keep_last=1)
  assert checkpoints.steps() == [1]
  restored = checkpoints.restore(abstract(make_state(mesh)))
  assert (restored.step, restored.data_state) == (1, b"iterator at 1")
  assert_same_bits(restored.state, make_state(mesh, seed=1))
  # The next save also clears away what is left of step 2.
  save_all(checkpoints, mesh, {3: 0.5})
  assert [path.name for path in found.iterdir()] == ["3"]


PAIR = """
port, rank, workdir = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{port}", 2, rank)
mesh = make_mesh(data=2, expert=4)
checkpoints = checkpoint.Checkpoints(workdir, keep_last=3)
for step in (1, 2, 3):
  data_state = f"iterator {rank} at {step}".encode() * (rank + 1)
  checkpoints.save(step, make_state(mesh, step), data_state, CONFIG)
checkpoints.wait()

def restore():
  restored = checkpoints.restore(abstract(make_state(mesh)))
  print("found", rank, restored.step, restored.data_state.decode())
  saved = make_state(mesh, restored.step)
  for x, y in zip(jax.tree.leaves(restored.state), jax.tree.leaves(saved)):
    for a, b in zip(x.addressable_shards, y.addressable_shards, strict=True):
      assert np.asarray(a.data).tobytes() == np.asarray(b.data).tobytes()

restore()
if rank == 1:  # Damage that only one of the two can see.
  os.truncate(f"{workdir}/checkpoints/3/run/process_1", 5)
restore()
checkpoints.save(3, make_state(mesh, 3), b"", CONFIG)
checkpoints.close()
"""


def test_two_processes(restart, mesh, tmp_path):
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    port = probe.getsockname()[1]
  pair = [
    start_child(PAIR, port, rank, tmp_path, JAX_NUM_CPU_DEVICES="4") for rank in (0, 1)
  ]
  outputs = [child.communicate(timeout=120)[0] for child in pair]
  assert [child.returncode for child in pair] == [0, 0], "\n".join(outputs)
  for rank, output in enumerate(outputs):
    assert re.findall("^found .*", output, re.MULTILINE) == [
      f"found {rank} 3 " + f"iterator {rank} at 3" * (rank + 1),
      f"found {rank} 2 " + f"iterator {rank} at 2" * (rank + 1),
    ]
  assert "falling back to checkpoint 2" in outputs[0]
  assert "falling back" not in outputs[1]
  # One process cannot go on with the iterators of two, but with all the rest.
  restored = restart().restore(abstract(make_state(mesh)))
  assert (restored.step, restored.data_state) == (3, None)
  assert_same_bits(restored.state, make_state(mesh, seed=3))
