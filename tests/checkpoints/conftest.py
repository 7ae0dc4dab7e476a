"""Small runs, and their checkpoints."""

import pytest

from mhmoe_jax.checkpoints.checkpoint import Checkpoints
from tests.checkpoints.states import make_mesh
from tests.train.small import small_config


@pytest.fixture
def config(tmp_path):
  return small_config(tmp_path)


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
