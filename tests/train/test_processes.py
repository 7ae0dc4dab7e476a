"""Who reads which stream, on meshes that lie over the machine in several ways."""

import dataclasses
import re

import jax
from jax.sharding import Mesh
import numpy as np
import pytest

from mhmoe_jax import sharding
from mhmoe_jax.train import processes


@dataclasses.dataclass(frozen=True)
class Device:
  id: int
  process_index: int
  platform: str = "cpu"
  device_kind: str = "cpu"


def make_mesh(owners, shape):
  """A mesh of shape (replica, data, expert, model) of devices of these processes."""
  devices = [Device(i, owner) for i, owner in enumerate(owners)]
  return Mesh(np.array(devices).reshape(shape), sharding.MESH_AXES)


def deal(monkeypatch, mesh, batch_size, num_streams):
  count = len({device.process_index for device in mesh.devices.flat})
  monkeypatch.setattr(jax, "process_count", lambda: count)
  monkeypatch.setattr(jax, "device_count", lambda: mesh.size)
  dealt = []
  for process in range(count):
    monkeypatch.setattr(jax, "process_index", lambda p=process: p)
    dealt.append(tuple(processes.deal_streams(mesh, batch_size, num_streams)))
  return dealt


@pytest.mark.parametrize(
  ("owners", "shape", "num_streams", "dealt"),
  [
    ([0] * 4, (1, 2, 2, 1), 1, [([0], [0])]),
    ([0] * 4, (1, 2, 2, 1), 4, [([0, 1, 2, 3],) * 2]),
    ([0, 0, 1, 1], (1, 2, 2, 1), 2, [([0], [0]), ([1], [1])]),
    ([1, 1, 0, 0], (1, 2, 2, 1), 4, [([2, 3],) * 2, ([0, 1],) * 2]),
    # A process has a square of devices, and so rows that are no neighbours.
    ([0, 1, 0, 1], (1, 2, 2, 1), 4, [([0, 2],) * 2, ([1, 3],) * 2]),
    # `model` goes through both processes: they hold the same rows.
    ([0, 1, 0, 1], (1, 2, 1, 2), 2, [([0, 1], [0, 1]), ([0, 1], [])]),
  ],
)
def test_streams_are_dealt(monkeypatch, owners, shape, num_streams, dealt):
  assert deal(monkeypatch, make_mesh(owners, shape), 8, num_streams) == dealt


@pytest.mark.parametrize(
  ("owners", "num_streams", "message"),
  [
    (
      [0, 0, 1, 1],
      1,
      "data.streams must be a multiple of 2, so that each process reads whole streams, "
      "got data.streams=1, 2 processes, batch_size=8.",
    ),
    (
      [0, 1, 0, 1],
      2,
      "data.streams must be a multiple of 4, so that each process reads whole streams, "
      "got data.streams=2, 2 processes, batch_size=8.",
    ),
  ],
)
def test_a_part_of_a_stream(monkeypatch, owners, num_streams, message):
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    deal(monkeypatch, make_mesh(owners, (1, 2, 2, 1)), 8, num_streams)


def test_a_process_without_devices(monkeypatch):
  mesh = make_mesh([0] * 4, (1, 2, 2, 1))
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(jax, "device_count", lambda: 8)
  with pytest.raises(
    ValueError,
    match=r"^the mesh must have devices of every process, got a mesh of 4 devices, "
    r"8 devices in 2 processes\.$",
  ):
    processes.deal_streams(mesh, 8, 2)


def test_what_fails_on_another_process_fails_here(monkeypatch):
  fine, told = np.array([True, False, True]), []
  gather = lambda mine: told.append(bool(mine)) or fine  # noqa: E731
  monkeypatch.setattr(processes.multihost_utils, "process_allgather", gather)
  with (
    pytest.raises(
      ValueError, match=r"^every process must start, got an error on \[1\]"
    ),
    processes.all_or_none(),
  ):
    pass
  with pytest.raises(OSError, match=r"^my own$"), processes.all_or_none():
    raise OSError("my own")
  assert told == [True, False]


def test_processes_must_be_told(monkeypatch):
  monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
  monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
  # As on a machine that is part of nothing.
  monkeypatch.setattr(jax._src.xla_bridge, "backends_are_initialized", lambda: False)
  with pytest.raises(
    ValueError, match=r"JAX_PROCESS_ID, got None, \{'num_processes': 2\}: coordinator"
  ):
    processes.join()


def test_what_must_be_the_same_everywhere(monkeypatch):
  seen = []
  monkeypatch.setattr(
    processes.multihost_utils, "process_allgather", lambda x: seen.append(x) or x
  )
  processes.check_same({"a": 1, "b": "x"}, "the data")
  processes.check_same({"b": "x", "a": 1}, "the data")
  processes.check_same({"a": 1, "b": "y"}, "the data")
  np.testing.assert_array_equal(seen[0], seen[1])
  assert (seen[0] != seen[2]).any()
  monkeypatch.setattr(
    processes.multihost_utils,
    "process_allgather",
    lambda x: np.stack([seen[0], seen[1], seen[2], seen[0]]),
  )
  message = (
    "the data must be the same in every process, got others than process 0 on [2]; "
    "this is process 0."
  )
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    processes.check_same({"a": 1, "b": "x"}, "the data")
