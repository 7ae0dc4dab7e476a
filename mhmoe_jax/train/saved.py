"""Reading checkpoints that `train/checkpoint.py` wrote, whole or in parts.

Onto any mesh, in any number of processes, without the run they belong to.
"""

from collections.abc import Callable, Iterable
import json
import logging
import pathlib
from typing import Any

from etils import epath
import jax
import orbax.checkpoint as ocp

from mhmoe_jax.train import integrity


def _is_not_chatter(record: logging.LogRecord) -> bool:
  return record.levelno >= logging.WARNING or "/orbax/" not in record.pathname


# At level INFO orbax writes some sixty lines per save.
logging.getLogger("absl").addFilter(_is_not_chatter)


# Keys of tables that runs may be older than, and what such runs did.
_YOUNGER = {"data": {"prepared": ""}, "train": {"image_every": 0}}


def load_config(workdir: epath.PathLike, step: int | None = None) -> dict[str, Any]:
  """Config of the newest readable checkpoint under `workdir`, or of `step`.

  Raises:
    ValueError: no checkpoint, or none that can be read.
  """
  saved = _read_newest(workdir, step, lambda path: read_about(path)["config"])
  return {table: _YOUNGER.get(table, {}) | keys for table, keys in saved.items()}


def newest_step(workdir: epath.PathLike) -> int:
  """Step of the newest checkpoint under `workdir`; ValueError if there is none."""
  return _read_newest(workdir, None, lambda directory: int(directory.name))


def restore_params(
  workdir: epath.PathLike, wanted: Any, step: int | None = None
) -> Any:
  """Parameters alone of the newest readable checkpoint under `workdir`, or of `step`.

  Args:
    workdir: local or `gs://` directory of the run.
    wanted: pytree of jax.ShapeDtypeStruct with shardings, on any mesh; or one sharding,
      for whatever the checkpoint has.
    step: the only one to try; None tries all, newest first.

  Raises:
    ValueError: no checkpoint, none that can be read, or one of another model.
  """

  def read(directory: epath.Path) -> Any:
    params = wanted
    if isinstance(wanted, jax.sharding.Sharding):
      params = integrity.on_every_process(lambda: _read_shapes(directory, wanted))
    return read_arrays(directory, read_about(directory), {"params": params})["params"]

  return _read_newest(workdir, step, read)


def _read_shapes(directory: epath.Path, layout: jax.sharding.Sharding) -> Any:
  """The parameters of a checkpoint as jax.ShapeDtypeStruct, without tracing a model."""
  found = ocp.PyTreeCheckpointHandler().metadata(directory / "state").tree["params"]
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout), found
  )


def checkpoints_directory(workdir: epath.PathLike) -> epath.Path:
  """Where the checkpoints of a run are."""
  # tensorstore wants absolute paths; epath's resolve() would garble a gs:// one.
  return epath.Path(pathlib.Path.cwd()) / epath.Path(workdir) / "checkpoints"


def _read_newest(
  workdir: epath.PathLike, step: int | None, read: Callable[[epath.Path], Any]
) -> Any:
  directory, steps = checkpoints_directory(workdir), []
  if directory.exists():
    committed = ocp.step.standard_name_format().find_all(directory)
    steps = [metadata.step for metadata in committed]
  return integrity.newest_undamaged(directory, steps, step, read)[0]


def read_about(directory: epath.Path) -> dict[str, Any]:
  """What `Checkpoints.save` wrote besides arrays and places."""
  path = directory / "run" / "about.json"
  return integrity.on_every_process(lambda: json.loads(path.read_text()))


def read_data_states(
  directory: epath.Path, about: dict[str, Any], streams: Iterable[int]
) -> dict[int, bytes]:
  """The places in those of `streams` that the run had when it was saved."""

  def read() -> dict[int, bytes]:
    return {
      stream: integrity.unseal((directory / "run" / f"stream_{stream}").read_bytes())
      for stream in streams
      if stream < about["num_streams"]
    }

  return integrity.on_every_process(read)


def read_arrays(directory: epath.Path, about: dict[str, Any], abstract: Any) -> Any:
  """The arrays of `abstract`, a dict of some entries of the state, as it shards them.

  Raises:
    ValueError: a checkpoint of another model.
    integrity.DamagedError: arrays that cannot be read, or are not those saved.
  """
  integrity.check_shapes(directory, about["shapes"], abstract)

  def load() -> Any:
    if jax.process_index() == 0:
      # Orbax would notice, too, but with pages of tracebacks from its threads.
      files = json.loads((directory / "run" / "files.json").read_text())
      integrity.check_fingerprints(directory / "state", files)
    args = ocp.args.PyTreeRestore(
      abstract,
      restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
      partial_restore=True,
    )
    return ocp.PyTreeCheckpointHandler().restore(directory / "state", args=args)

  state = integrity.on_every_process(load)
  integrity.check_checksums(state, about["checksums"])
  return state
