"""Checkpoints: asynchronous, committed by one rename, readable after damage.

    <workdir>/checkpoints/<step>/state/           the arrays (zarr in OCDBT)
    <workdir>/checkpoints/<step>/run/about.json   config, loss, shapes, checksums
    <workdir>/checkpoints/<step>/run/files.json   fingerprints of the files of state/
    <workdir>/checkpoints/<step>/run/stream_<i>   place in stream i of the text

Nothing of this depends on the mesh or on how many processes there are.  This file
writes; `saved.py` beside it reads, and the two alone import orbax.  It is the v0
`CheckpointManager`: the v1 training `Checkpointer` of orbax 0.12.8 wraps that same
manager, and reports every failed read, a bug as well as a lost file, as one
`NoEntryError`.  What damage is, and how it is noticed: `integrity.py`.  When to save:
`train/loop.py`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import json
import math
from typing import Any, NamedTuple

from etils import epath
import jax
from jax.experimental import multihost_utils
import numpy as np
import orbax.checkpoint as ocp

from mhmoe_jax.checkpoints import integrity, saved
from mhmoe_jax.train import processes


class Restored(NamedTuple):
  """What `Checkpoints.restore` found.

  `data_states` has the place in each stream that was asked for, if it was saved.
  """

  step: int
  state: Any
  data_states: dict[int, bytes]
  config: dict[str, Any]


class Checkpoints:
  """The checkpoints of one run, a context manager; all processes make the same calls.

  The run's folder must be held (`train/lock.py`): a save that is not finished is taken
  for that of a dead process, and removed.  What the file system refuses in the body of
  the `with`, to whomever, is raised together with what is kept.

  Args:
    workdir: local or `gs://` directory of the run; created if missing.
    keep_last: how many of the newest to keep, at least 1, besides the best one.

  Raises:
    ValueError: the directory cannot be written.
  """

  def __init__(self, workdir: epath.PathLike, keep_last: int):
    if keep_last < 1:
      raise ValueError(f"keep_last must be at least 1, got keep_last={keep_last}.")
    self._directory = saved.checkpoints_directory(workdir)
    with processes.all_or_none():
      try:
        self._directory.mkdir(parents=True, exist_ok=True)
        probe = self._directory / f"writable_{jax.process_index()}"
        probe.write_text("")
        probe.unlink()
      except OSError as error:
        reason = error.strerror or error
        message = f"cannot write checkpoints to {self._directory}: {reason}."
        raise ValueError(message) from error
    self._damaged: list[int] = []  # Passed over by `restore`, to be removed by `save`.
    self._retention = _Retention(keep_last)
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    registry.add("state", ocp.args.PyTreeSave)  # First, so that it is finalized first.
    registry.add("run", _RunSave, _RunHandler)
    self._manager = ocp.CheckpointManager(
      self._directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=self._retention, cleanup_tmp_directories=True
      ),
      handler_registry=registry,
    )
    for step in self.steps():
      # `restore` reports damage, if it ever comes to this checkpoint.
      with contextlib.suppress(integrity.DamagedError):
        about = saved.read_about(self._directory / str(step))
        self._retention.losses[step] = about["loss"]

  def __enter__(self):
    return self

  def __exit__(self, kind, error, traceback):
    try:
      self.close()
    except OSError as failure:  # of the last save; an error before it is the reason.
      error = error or failure
    if isinstance(error, OSError):
      steps = saved.committed_steps(self._directory)
      kept = f"the checkpoint of step {max(steps)} is" if steps else "no checkpoint is"
      raise OSError(f"{error}; {kept} kept.") from error

  def steps(self) -> list[int]:
    """Steps that have a checkpoint, ascending; one being written counts."""
    return sorted(set(self._manager.all_steps()) - set(self._damaged))

  def latest_step(self) -> int | None:
    """The newest of `steps()`."""
    return max(self.steps(), default=None)

  def best_step(self) -> int | None:
    """The step of lowest loss; None if no checkpoint has a loss."""
    return self._retention.best(self.steps())

  def save(
    self,
    step: int,
    state: Any,
    data_states: Mapping[int, bytes],
    config: dict[str, Any],
    loss: float | None = None,
  ) -> None:
    """Starts to write; on return `state` may be donated.

    Waits for the save before, and raises its error if that failed in the background.

    Args:
      step: later than `latest_step()`.
      state: pytree of jax.Arrays; of a random key, its key data.
      data_states: place in each stream of the text that this process answers for;
        the processes together for streams 0, 1, 2 and so on.
      config: resolved config, of JSON values.
      loss: validation loss, if one was measured; NaN and infinity count as none.

    Raises:
      OSError: the file system refuses, now or in the save before.
      ValueError: `step` is not later than the latest.
      TypeError: `config` holds something that JSON does not know.
    """
    self.wait()
    latest = self.latest_step()
    if latest is not None and step <= latest:
      raise ValueError(
        f"a checkpoint must be later than the latest, got step={step}, latest={latest}."
      )
    about = {
      "config": config,
      "loss": loss if loss is not None and math.isfinite(loss) else None,
      "num_streams": int(
        np.sum(multihost_utils.process_allgather(np.asarray(len(data_states))))
      ),
      "shapes": integrity.shapes(state),
      "checksums": integrity.checksums(state),
    }
    run = _RunSave(json.dumps(about), data_states)
    while self._damaged:
      self._manager.delete(self._damaged.pop())
    self._retention.losses[step] = about["loss"]
    arrays = ocp.args.PyTreeSave(state, jax.tree.map(_in_pieces, state))
    items = ocp.args.Composite(state=arrays, run=run)
    with self._writing():
      self._manager.save(step, args=items, force=True)  # Orbax has no say in when.

  def restore(
    self, abstract_state: Any, streams: Sequence[int], step: int | None = None
  ) -> Restored | None:
    """Reads the newest checkpoint that is not damaged, or that of `step`.

    One warning line per damaged checkpoint; the next `save` removes them.

    Args:
      abstract_state: pytree of jax.ShapeDtypeStruct with shardings, on any mesh.
      streams: of the text, to give the places in.
      step: the only one to try; None tries all, newest first.

    Returns:
      None if there is no checkpoint at all.

    Raises:
      ValueError: `step` does not exist; none can be read; the checkpoint is of another
        model (an older one would be, too).
    """

    def read(directory: epath.Path) -> Restored:
      about = saved.read_about(directory)
      return Restored(
        step=int(directory.name),
        state=saved.read_arrays(directory, about, abstract_state),
        data_states=saved.read_data_states(directory, about, streams),
        config=about["config"],
      )

    self.wait()
    if not self.steps():
      return None
    restored, damaged = integrity.newest_undamaged(
      self._directory, self.steps(), step, read
    )
    self._damaged += damaged
    return restored

  def wait(self) -> None:
    """Returns when the last save is committed; raises its error if it failed."""
    with self._writing():
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits and ends the threads; no call may follow."""
    with self._writing():
      self._manager.close()

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    """A failed save is an OSError in one line; tensorstore's are ValueErrors."""
    try:
      yield
    except (OSError, ValueError) as error:
      reason = integrity.one_line(error)
      raise OSError(f"cannot write to {self._directory}: {reason}") from error


def _in_pieces(x: jax.Array) -> ocp.SaveArgs:
  """How to store an array: large ones by layers, so that one can be read alone."""
  is_stacked = x.ndim > 2 and x.nbytes > 2**20
  return ocp.SaveArgs(chunk_byte_size=2**27, shard_axes=(0,) if is_stacked else ())


@dataclasses.dataclass
class _Retention:
  """Orbax's `PreservationPolicy`: keeps the newest checkpoints, and the best."""

  keep_last: int
  losses: dict[int, float | None] = dataclasses.field(default_factory=dict)

  def best(self, steps: Iterable[int]) -> int | None:
    measured = [step for step in steps if self.losses.get(step) is not None]
    return min(measured, key=self.losses.__getitem__, default=None)

  def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
    del context
    steps = sorted(info.step for info in checkpoints)
    kept = {*steps[-self.keep_last :], self.best(steps)}
    return [info.step in kept for info in checkpoints]


class _RunHandler(ocp.AsyncCheckpointHandler):
  """Writes the item `run`, all that is not an array."""

  save = restore = None  # Abstract in orbax, which here only calls the other two.

  async def async_save(self, directory: epath.Path, args: "_RunSave") -> list[Any]:
    async def write():
      for stream, state in args.data_states.items():
        (directory / f"stream_{stream}").write_bytes(integrity.seal(state))
      if jax.process_index() == 0:
        (directory / "about.json").write_text(args.about)

    # Runs `write` in a thread, once process 0 has made the directory.
    return [ocp.future.CommitFutureAwaitingContractedSignals(write(), name="run")]

  def finalize(self, directory: epath.Path) -> None:
    # On process 0, when `state` is complete and before the step is committed.
    files = integrity.fingerprints(directory.parent / "state")
    (directory / "files.json").write_text(json.dumps(files))


@ocp.args.register_with_handler(_RunHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class _RunSave(ocp.args.CheckpointArgs):
  about: str
  data_states: Mapping[int, bytes]
