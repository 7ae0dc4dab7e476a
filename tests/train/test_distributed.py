"""Two processes train like one, stop together, and one goes on where they stopped.

Everything goes through `mhmoe train --distributed`, over localhost and gloo.
"""

import json
import signal
import sys

import numpy as np
import pytest

from mhmoe_jax.checkpoints.restore import load_model
from mhmoe_jax.cli.models import EXIT_STOPPED
from mhmoe_jax.train import loop
from mhmoe_jax.train.metrics import read_metrics
from tests.train.pair import start_pair
from tests.train.small import small_config

CONFIG_FILE = """
import json
from configs import base

def get_config():
  config = base.get_config()
  config.update(json.loads({!r}))
  return config
"""


def make_config(directory):
  config = small_config(directory)
  config.model.num_layers = config.model.moe_every = 1
  config.data.streams = 2
  config.optimizer.schedule = "constant"  # which does not ask how long the run is
  config.train.eval_every = config.train.checkpoint_every = 1_000
  config.train.image_every = 2
  config.mesh.data, config.mesh.expert = 1, 8  # experts of a layer in both processes
  return config


def command(directory, config, workdir):
  path = directory / "config.py"
  path.write_text(CONFIG_FILE.format(json.dumps(config.to_dict())))
  program = [sys.executable, "-m", "mhmoe_jax.cli", "train", "--distributed"]
  return [*program, f"--config={path}", f"--workdir={workdir}"]


def losses(workdir):
  rows = read_metrics(workdir / "metrics.jsonl")
  return {row["step"]: row["loss"] for row in rows if "loss" in row}


def validation(workdir):
  rows = read_metrics(workdir / "metrics.jsonl")
  return {r["step"]: r["valid/bits_per_byte"] for r in rows if "valid/loss" in r}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """Six steps of two processes."""
  directory = tmp_path_factory.mktemp("trained")
  config = make_config(directory)
  workdir = directory / "run"
  with start_pair(command(directory, config, workdir), directory) as pair:
    return workdir, pair.finish()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, trained):  # After it, which has compiled the step.
  """Two processes of a run without end, one of which was sent SIGTERM."""
  directory = tmp_path_factory.mktemp("stopped")
  config = make_config(directory)
  config.train.num_steps = 1_000_000
  workdir = directory / "run"
  with start_pair(command(directory, config, workdir), directory) as pair:
    pair.wait_for(workdir / "metrics.jsonl", '"step": 1')
    pair.signal(1, signal.SIGTERM)
    outputs = pair.finish(EXIT_STOPPED)
  (step,) = (int(path.name) for path in (workdir / "checkpoints").iterdir())
  return config, workdir, outputs, step


@pytest.fixture(scope="module")
def whole(tmp_path_factory, stopped):
  """One process with eight devices, uninterrupted, three steps past `stopped`."""
  directory = tmp_path_factory.mktemp("whole")
  config = make_config(directory)
  config.train.eval_every = 6
  config.train.num_steps = max(6, stopped[-1] + 3)
  loop.train(config, str(directory / "run"))
  return directory / "run"


def assert_close(found, wanted):
  # Sums over devices come in another order; steps of AdamW amplify it.
  np.testing.assert_allclose(found, wanted, rtol=2e-4)


def test_two_processes_train_like_one(trained, whole):
  workdir, _ = trained
  found, wanted = losses(workdir), losses(whole)
  assert sorted(found) == [1, 2, 3, 4, 5, 6]
  assert_close(list(found.values()), [wanted[step] for step in found])
  assert_close(validation(workdir)[6], validation(whole)[6])


def test_only_process_0_tells(trained):
  workdir, (first, second) = trained
  for text in ("bits per byte", "active experts", "try next", "expert_load.png"):
    assert text in first
    assert text not in second
  assert "step 1/6" in first
  assert "step 1/6" not in second
  assert (workdir / "expert_load.png").exists()
  assert len(list((workdir / "tensorboard").iterdir())) == 1


def test_one_process_reads_what_two_saved(trained):
  cfg, params = load_model(str(trained[0]))
  w_in_NEMF = params["layers"]["block_0"]["moe"]["experts"]["w_in_EMF"]
  assert w_in_NEMF.shape[1] == cfg.model.moe.num_experts
  assert np.isfinite(w_in_NEMF).all()


def test_one_asked_to_stop_all_stop(stopped, whole):
  _, workdir, (first, second), step = stopped
  found, wanted = losses(workdir), losses(whole)
  assert sorted(found) == list(range(1, step + 1))
  assert_close(list(found.values()), [wanted[i] for i in found])
  assert "stopped by a signal; the same command continues" in first
  assert f"all stop after step {step}" in first
  assert "all stop" not in second
  assert "trained" not in second


def test_one_process_goes_on(stopped, whole):
  """On four devices instead of eight, with the text that comes next."""
  config, workdir, _, step = stopped
  config.mesh.data, config.mesh.expert = 2, 2
  config.train.num_steps = step + 3
  assert loop.train(config, str(workdir)).step == step + 3
  found, wanted = losses(workdir), losses(whole)
  assert sorted(found) == list(range(1, step + 4))
  steps = range(step + 1, step + 4)
  assert_close([found[i] for i in steps], [wanted[i] for i in steps])
