"""`mhmoe train` where nothing is as it should be, and on a disk that fills up."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from mhmoe_jax import cli
from mhmoe_jax.cli import models
from mhmoe_jax.train import loop
from tests.train.small import small_config

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = """
import json
from beside import TEXT
from configs import base

def get_config():
  config = base.get_config()
  config.update(json.loads(TEXT))
  return config
"""
# Of what decides nothing about training, all is wrong.
ODD = {
  "MPLBACKEND": "module://nothing_there",
  "HOME": "/nowhere/home",
  "TMPDIR": "/nowhere/tmp",
  "LC_ALL": "C",
  "PYTHONUTF8": "0",
  "PYTHONPATH": str(ROOT),
}


def start(directory, stdout, limit="unlimited"):
  """Runs the command in a working folder that has been deleted.

  Args:
    directory: of the config, and of the run.
    stdout: where to.
    limit: of the size of a file that is written, in KiB.
  """
  command = [sys.executable, "-m", "mhmoe_jax.cli", "train"]
  flags = [f"--config={directory}/mine.py", f"--workdir={directory}/run"]
  gone = directory / "gone"
  gone.mkdir()
  shell = f'ulimit -f {limit} && cd "$0" && rmdir "$0" && exec "$@"'
  return subprocess.run(
    ["bash", "-c", shell, str(gone), *command, *flags],
    env={**os.environ, **ODD, "JAX_ENABLE_COMPILATION_CACHE": "0"},  # It writes, too.
    stdout=stdout,
    stderr=subprocess.PIPE,
    text=True,
    timeout=300,
    check=False,
  )


def write_config(directory, config):
  text = json.dumps(config.to_dict())
  (directory / "beside.py").write_text(f"TEXT = {text!r}")
  (directory / "mine.py").write_text(CONFIG)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """Two steps of six, whose output nobody reads."""
  directory = tmp_path_factory.mktemp("trained")
  config = small_config(directory)
  config.model.embed_dim = 48  # A checkpoint has files of 300 KiB.
  config.optimizer.schedule = "constant"
  config.train.num_steps = 2
  write_config(directory, config)
  reader, writer = os.pipe()
  os.close(reader)
  child = start(directory, writer)
  os.close(writer)
  return directory, config, child


def test_what_decides_nothing_about_training_is_not_asked(trained):
  directory, _, child = trained
  assert child.returncode == 0, child.stderr
  assert [line[:12] for line in child.stderr.splitlines()] == [
    "step 1/2  lo",
    "step 2/2  lo",
    "step 2  vali",
  ]
  assert (directory / "run" / "checkpoints" / "2").exists()


def test_a_full_disk_is_one_line_and_harms_nothing(trained):
  """A limit on the size of files stands in for a disk that has no place left."""
  directory, config, _ = trained
  config.train.num_steps = 6
  write_config(directory, config)

  child = start(directory, subprocess.DEVNULL, limit=60)
  assert child.returncode == 1, child.stderr
  told = [line for line in child.stderr.splitlines() if not line.startswith("step ")]
  assert told[:-1] == [
    "resuming after step 2",
    "changed since the checkpoint: train.num_steps was 2, is 6",
  ]
  where = directory / "run" / "checkpoints"
  assert told[-1].startswith(f"mhmoe train: error: cannot write to {where}: ")
  assert told[-1].endswith("; the checkpoint of step 2 is kept.")
  assert loop.train(config, str(directory / "run")).step == 6


def test_writes_that_a_full_disk_abandons_say_nothing():
  """Which of orbax's coroutines nobody awaits is a matter of timing."""
  program = """
from mhmoe_jax import cli
async def write_fragment(): pass
cli.main(["sample"])
abandoned = write_fragment()
"""
  child = subprocess.run(
    [sys.executable, "-c", program],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  assert len(child.stderr.splitlines()) == 1, child.stderr


def test_interrupted_before_the_first_step(monkeypatch, capsys):
  def interrupted(argv):
    raise KeyboardInterrupt

  monkeypatch.setattr(models, "train", interrupted)
  assert cli.main(["train"]) == 130
  assert capsys.readouterr().err == "mhmoe train: interrupted\n"
