"""A resumed run equals an uninterrupted one bit for bit, whatever interrupted it."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tensorflow as tf

from mhmoe_jax.checkpoints.restore import load_model
from mhmoe_jax.train import loop
from mhmoe_jax.train.metrics import read_metrics

SECONDS = ("tokens_per_second",)


def rows(workdir):
  """The record of a run without what depends on the clock."""
  rows = read_metrics(pathlib.Path(workdir) / "metrics.jsonl")
  return [{k: v for k, v in row.items() if k not in SECONDS} for row in rows]


def assert_same_run(a, b):
  assert rows(a) == rows(b)
  (_, params_a), (_, params_b) = load_model(a), load_model(b)
  jax.tree.map(np.testing.assert_array_equal, params_a, params_b)


def pictures(workdir):
  """Step and name of the pictures for TensorBoard."""
  (path,) = (workdir / "tensorboard").iterdir()
  for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
    event = tf.compat.v1.Event.FromString(record)
    for value in event.summary.value:
      if value.metadata.plugin_data.plugin_name == "images":
        yield event.step, value.tag


@pytest.fixture
def whole(config, tmp_path):
  """The uninterrupted run."""
  workdir = str(tmp_path / "whole")
  loop.train(config, workdir)
  return workdir


def test_a_run_learns_and_reports(config, tmp_path):
  config.train.num_steps = 40
  config.train.eval_every = config.train.image_every = 20
  config.optimizer.learning_rate = 1e-2
  result = loop.train(config, str(tmp_path / "run"))
  losses = [row["loss"] for row in rows(tmp_path / "run") if "loss" in row]
  assert losses[-1] < losses[0] - 1.0
  assert result.step == 40
  assert result.evaluation.num_bytes == len((tmp_path / "valid.txt").read_bytes())
  np.testing.assert_allclose(result.evaluation.load_NHE.sum(axis=-1), 1.0, rtol=1e-5)
  assert list(pictures(tmp_path / "run")) == [
    (20, "router/load"),
    (20, "router/distinct_experts"),
    (40, "router/load"),
    (40, "router/distinct_experts"),
  ]


def test_resume_after_sigterm(config, tmp_path, whole, monkeypatch):
  """SIGTERM after step 3 saves step 3; the same command again goes on from there."""
  workdir = str(tmp_path / "stopped")
  place, seen = loop.sharding.place_batch, []

  def place_and_kill(*args):
    seen.append(1)
    if len(seen) == 3:
      os.kill(os.getpid(), signal.SIGTERM)
    return place(*args)

  with monkeypatch.context() as patch:
    patch.setattr(loop.sharding, "place_batch", place_and_kill)
    stopped = loop.train(config, workdir)
  assert stopped.step == 3
  assert loop.train(config, workdir).step == 6
  assert_same_run(workdir, whole)


@pytest.mark.parametrize("after", [2, 5])
def test_resume_after_sigkill(config, tmp_path, whole, after):
  """Killed once the record shows step `after`, wherever the process then is."""
  workdir = tmp_path / "killed"
  program = (
    "import json, sys; from ml_collections import ConfigDict;"
    "from mhmoe_jax.train import loop;"
    "loop.train(ConfigDict(json.loads(sys.argv[1])), sys.argv[2])"
  )
  child = subprocess.Popen(
    [sys.executable, "-c", program, json.dumps(config.to_dict()), str(workdir)],
    stderr=subprocess.DEVNULL,
  )
  record = workdir / "metrics.jsonl"
  while not (record.exists() and f'"step": {after}' in record.read_text()):
    assert child.poll() is None, "the run ended before it could be killed"
    time.sleep(0.01)
  # While it has not ended nobody else can train here, or change anything.
  child.send_signal(signal.SIGSTOP)
  os.waitid(os.P_PID, child.pid, os.WSTOPPED)  # A write under way ends first.
  before = files(workdir)
  with pytest.raises(
    ValueError, match=f"is held by host .* process {child.pid}, since"
  ):
    loop.train(config, str(workdir))
  assert files(workdir) == before
  child.kill()
  child.wait()
  loop.train(config, str(workdir))
  assert_same_run(workdir, whole)


def test_a_damaged_checkpoint_falls_back(config, tmp_path, whole, caplog):
  newest = pathlib.Path(whole) / "checkpoints" / "6"
  expected = rows(whole)
  for path in newest.glob("state/**/*"):
    if path.is_file():
      path.write_bytes(b"")
  assert loop.train(config, whole).step == 6
  assert "6" in caplog.text
  assert "4" in caplog.text
  assert rows(whole) == expected


def files(workdir):
  paths = pathlib.Path(workdir).rglob("*")
  return {path: path.read_bytes() for path in paths if path.is_file()}


def test_a_text_that_changed_is_refused_or_begins_anew(config, tmp_path, capfd):
  config.train.num_steps = 2
  workdir = str(tmp_path / "run")
  loop.train(config, workdir)
  config.train.num_steps = 3
  with open(config.data.train, "a", encoding="utf-8") as file:
    file.write("one more line\n")
  with pytest.raises(ValueError, match=rf"got file {config.data.train}='.* anew\.$"):
    loop.train(config, workdir)
  capfd.readouterr()
  assert loop.train(config, workdir, accept_changed_data=True).step == 3
  shown = capfd.readouterr().err
  assert "resuming after step 2\n" in shown
  assert "the text begins anew: A feed restores only" in shown
  assert config.data.train in shown


def test_a_finished_run_says_so(config, whole, capfd):
  before = files(whole)
  for num_steps in (6, 3):
    config.train.num_steps = num_steps
    result = loop.train(config, whole)
    assert result.step == 6
    assert result.evaluation.bits_per_byte > 0
    assert "already trained to step 6" in capfd.readouterr().err
    assert files(whole) == before


def test_nothing_but_the_checkpoints_is_needed_to_resume(config, tmp_path, whole):
  found = pathlib.Path(whole)
  wanted = rows(whole)
  shutil.rmtree(found / "checkpoints" / "6")
  (found / "checkpoints" / "8.orbax-checkpoint-tmp").mkdir()
  (found / "checkpoints" / "notes.txt").write_text("of mine")
  shutil.rmtree(found / "tensorboard")
  (found / "tensorboard").write_text("in the way")
  (found / "lock").write_text("{")
  (found / "metrics.tmp").write_text("left")
  record = (found / "metrics.jsonl").read_bytes()
  (found / "metrics.jsonl").write_bytes(b"\n\0\n" + record.replace(b"4", b"\xff", 1))
  assert loop.train(config, whole).step == 6
  assert len(rows(whole)) == len(wanted) - 1
  assert rows(whole)[-3:] == wanted[-3:]


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(config, tmp_path):
  config.optimizer.learning_rate = 1e30
  config.optimizer.schedule = "constant"
  config.optimizer.warmup_steps = 0
  config.train.checkpoint_every = 1
  workdir = tmp_path / "nan"
  with pytest.raises(FloatingPointError) as error:
    loop.train(config, str(workdir))
  assert "loss and gradients must be finite, got loss=" in str(error.value)
  bad = read_metrics(workdir / "metrics.jsonl")[-1]
  assert f"at step {bad['step']}." in str(error.value)
  assert not np.isfinite([bad["loss"], bad["grad_norm"]]).all()
  saved = [int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()]
  assert max(saved) == bad["step"] - 1


@pytest.mark.parametrize("ffn", ["dense", "smoe", "mhmoe"])
def test_eight_devices_give_the_same_losses_as_one(config, tmp_path, ffn):
  config.model.ffn = ffn
  one = str(tmp_path / "one")
  loop.train(config, one)
  config.mesh.data, config.mesh.expert, config.mesh.fsdp = 2, 4, True
  eight = str(tmp_path / "eight")
  loop.train(config, eight)
  keys = ["loss", "grad_norm", "valid/bits_per_byte"]
  for a, b in zip(rows(one), rows(eight), strict=True):
    for key in keys:
      # Sums over devices come in another order; six AdamW steps amplify it.
      np.testing.assert_allclose(b.get(key, 0), a.get(key, 0), rtol=2e-4)


def test_a_checkpoint_restores_on_other_meshes(config, tmp_path):
  """8 devices to step 2, 4 to step 4, then 1, against 1 throughout."""
  config.optimizer.schedule = "constant"  # which does not ask how long the run is
  one, moved = tmp_path / "one", tmp_path / "moved"
  loop.train(config, str(one))
  for data, expert, step in ((2, 4, 2), (2, 2, 4), (1, 1, 6)):
    config.mesh.data, config.mesh.expert = data, expert
    config.train.num_steps = step
    assert loop.train(config, str(moved)).step == step
  wanted = [row["loss"] for row in rows(one) if "loss" in row]
  found = [row["loss"] for row in rows(moved) if "loss" in row]
  np.testing.assert_allclose(found, wanted, rtol=2e-4)


def test_rates_change_in_a_run_and_a_profile_ends_with_it(
  config, tmp_path, monkeypatch
):
  calls = []
  for name in ("start_trace", "stop_trace"):
    monkeypatch.setattr(
      jax.profiler, name, lambda *args, name=name, **more: calls.append(name)
    )
  config.train.profile_steps = 5  # of steps 11 to 15
  config.train.eval_every = 100
  for num_steps, rates, decay in ((12, {}, 1.0), (14, {"attention": 0.5}, 0.9)):
    config.train.num_steps = num_steps
    config.optimizer.rates, config.optimizer.layer_decay = rates, decay
    assert loop.train(config, str(tmp_path / "run")).step == num_steps
  assert calls == ["start_trace", "stop_trace"]
