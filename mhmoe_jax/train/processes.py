"""Several processes, one run: joining it, dealing the data, failing together.

Every process runs the same program on its own devices; jax makes one machine of them.
How they agree to stop: `train/signals.py`.
"""

from collections.abc import Iterator
import contextlib
import hashlib
import json
import math
import os
from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh
import numpy as np

from mhmoe_jax import sharding


def join() -> None:
  """Joins this process to the others; to be called before jax sees any device.

  On Cloud TPU (one slice or several, VMs or GKE), Slurm and Open MPI jax finds the
  others by itself. Elsewhere JAX_COORDINATOR_ADDRESS, which jax reads, says where
  process 0 listens, and JAX_NUM_PROCESSES and JAX_PROCESS_ID, which it does not, the
  rest.

  Raises:
    ValueError: there is no telling who the others are.
  """
  keys = {"num_processes": "JAX_NUM_PROCESSES", "process_id": "JAX_PROCESS_ID"}
  given = {
    name: int(os.environ[key]) for name, key in keys.items() if key in os.environ
  }
  try:
    jax.distributed.initialize(**given)
  except ValueError as error:
    raise ValueError(
      "processes must be on a TPU slice or started by Slurm or Open MPI, or be told "
      "JAX_COORDINATOR_ADDRESS=host:port, JAX_NUM_PROCESSES and JAX_PROCESS_ID, got "
      f"{os.environ.get('JAX_COORDINATOR_ADDRESS')}, {given}: {error}"
    ) from error


class Streams(NamedTuple):
  """Of the text, by number, ascending."""

  read: list[int]  # by this process
  save: list[int]  # those of them whose place it saves


def deal_streams(mesh: Mesh, batch_size: int, num_streams: int) -> Streams:
  """The streams of text that this process reads, and those of them that it saves.

  Stream i feeds rows i * batch_size / num_streams and following. Processes whose
  devices hold the same rows, because the mesh's `model` axis goes through both, read
  the same streams; the first of them saves their places.

  Raises:
    ValueError: a process has no device in the mesh, or would need a part of a stream.
  """
  rows = sharding.process_rows(mesh, batch_size)
  if len(rows) < jax.process_count():
    raise ValueError(
      "the mesh must have devices of every process, got a mesh of "
      f"{mesh.size} devices, {jax.device_count()} devices in {jax.process_count()} "
      "processes."
    )
  cuts = {batch_size}
  for held in rows.values():
    is_held = np.isin(np.arange(batch_size), held)
    cuts.update(np.flatnonzero(is_held[1:] != is_held[:-1]) + 1)
  least = batch_size // math.gcd(*map(int, cuts))
  if num_streams % least:
    raise ValueError(
      f"data.streams must be a multiple of {least}, so that each process reads whole "
      f"streams, got data.streams={num_streams}, {len(rows)} processes, "
      f"batch_size={batch_size}."
    )
  owners = {}
  for process, held in sorted(rows.items()):
    for stream in np.unique(held * num_streams // batch_size).tolist():
      owners.setdefault(stream, process)
  me = jax.process_index()
  read = np.unique(rows[me] * num_streams // batch_size).tolist()
  return Streams(read, [stream for stream in read if owners[stream] == me])


@contextlib.contextmanager
def all_or_none() -> Iterator[None]:
  """What a user can repair, and stops the body on one process, stops it on all.

  Else the others would wait for minutes for the one that is gone. The body must not
  wait for other processes.
  """
  failure = None
  try:
    yield
  except (ValueError, OSError) as error:
    failure = error
  fine = multihost_utils.process_allgather(np.asarray(failure is None))
  if failure is not None:
    raise failure
  if not np.all(fine):
    failed = np.flatnonzero(~np.asarray(fine)).tolist()
    raise ValueError(f"every process must start, got an error on {failed}.")


def check_same(values: dict[str, Any], what: str) -> None:
  """Raises ValueError if values, of JSON, are not the same in every process."""
  digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).digest()
  mine = np.frombuffer(digest, np.uint32)
  all_PX = np.reshape(multihost_utils.process_allgather(mine), (-1, len(mine)))
  others = np.flatnonzero((all_PX != all_PX[0]).any(axis=1)).tolist()
  if others:
    raise ValueError(
      f"{what} must be the same in every process, got others than process 0 on "
      f"{others}; this is process {jax.process_index()}."
    )
