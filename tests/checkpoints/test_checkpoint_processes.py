"""Checkpoints of a process that is killed, and of two processes."""

import re
import signal
import subprocess
import sys

import pytest

from tests.checkpoints.states import abstract, assert_same_bits, make_state, save_all
from tests.train.pair import start_pair

HEADER = """
import os, pathlib, signal, sys, time
import jax, numpy as np
from mhmoe_jax.checkpoints import checkpoint
from mhmoe_jax.train import processes
from tests.train.pair import start_pair
from tests.checkpoints.states import CONFIG, abstract, make_mesh, make_state
"""


KILLED = """
workdir, moment = sys.argv[1:]
mesh = make_mesh(data=2, expert=4)
checkpoints = checkpoint.Checkpoints(workdir, keep_last=1)
checkpoints.save(1, make_state(mesh, 1), {0: b"iterator at 1"}, CONFIG, 1.0)
checkpoints.wait()

def die(*args):
  os.kill(os.getpid(), signal.SIGKILL)

if moment == "before the commit":
  checkpoint._RunHandler.finalize = die
else:
  checkpoint._RunHandler.finalize = lambda *args: time.sleep(60)
checkpoints.save(2, make_state(mesh, 2), {0: b"iterator at 2"}, CONFIG, 0.5)
if moment == "while writing":
  while not any(pathlib.Path(workdir).glob("checkpoints/2*/state*/*")):
    time.sleep(0.001)
  die()
checkpoints.wait()
"""


@pytest.mark.parametrize("moment", ["while writing", "before the commit"])
def test_kill_during_a_save(restart, mesh, tmp_path, moment):
  argv = [sys.executable, "-c", HEADER + KILLED, tmp_path, moment]
  child = subprocess.run(argv, capture_output=True, text=True, timeout=120)
  assert child.returncode == -signal.SIGKILL, child.stderr
  found = tmp_path / "checkpoints"
  assert len(list(found.iterdir())) == 2  # Step 1, and what is left of 2.

  checkpoints = restart(keep_last=1)
  assert checkpoints.steps() == [1]
  restored = checkpoints.restore(abstract(make_state(mesh)), [0])
  assert (restored.step, restored.data_states) == (1, {0: b"iterator at 1"})
  assert_same_bits(restored.state, make_state(mesh, seed=1))
  # The next save also clears away what is left of step 2.
  save_all(checkpoints, mesh, {3: 0.5})
  assert [path.name for path in found.iterdir()] == ["3"]


PAIR = """
workdir = sys.argv[1]
processes.join()
rank = jax.process_index()
mesh = make_mesh(data=2, expert=4)
checkpoints = checkpoint.Checkpoints(workdir, keep_last=3)
for step in (1, 2, 3):
  data_states = {rank: f"stream {rank} at {step}".encode()}
  checkpoints.save(step, make_state(mesh, step), data_states, CONFIG)
checkpoints.wait()

def restore(*streams):
  restored = checkpoints.restore(abstract(make_state(mesh)), streams)
  print("found", restored.step, restored.data_states)
  saved = make_state(mesh, restored.step)
  for x, y in zip(jax.tree.leaves(restored.state), jax.tree.leaves(saved)):
    for a, b in zip(x.addressable_shards, y.addressable_shards, strict=True):
      assert np.asarray(a.data).tobytes() == np.asarray(b.data).tobytes()

restore(rank)
if rank == 1:  # Damage that only one of the two can see.
  os.truncate(f"{workdir}/checkpoints/3/run/stream_1", 5)
restore(1 - rank)  # One of the two meets it, and both fall back.
checkpoints.save(3, make_state(mesh, 3), {rank: b"again"}, CONFIG)
checkpoints.close()
"""


def test_two_processes(restart, mesh, tmp_path):
  with start_pair([sys.executable, "-c", HEADER + PAIR, tmp_path], tmp_path) as pair:
    outputs = pair.finish()
  for rank, output in enumerate(outputs):
    assert re.findall("^found .*", output, re.MULTILINE) == [
      f"found 3 {{{rank}: b'stream {rank} at 3'}}",
      f"found 2 {{{1 - rank}: b'stream {1 - rank} at 2'}}",
    ]
  assert "falling back to checkpoint 2" in outputs[0]
  assert "falling back" not in outputs[1]
  # One process goes on with what two have saved.
  restored = restart().restore(abstract(make_state(mesh)), [0, 1])
  assert (restored.step, restored.data_states) == (3, {0: b"again", 1: b"again"})
  assert_same_bits(restored.state, make_state(mesh, seed=3))
