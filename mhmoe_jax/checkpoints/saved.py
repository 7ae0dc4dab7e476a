"""Reading checkpoints that `checkpoint.py` wrote, whole or in parts.

Onto any mesh, in any number of processes, without the run they belong to.
"""

from collections.abc import Callable, Iterable
import json
import logging
import pathlib
from typing import Any

from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore

from mhmoe_jax.checkpoints import integrity
from mhmoe_jax.checkpoints.older import in_todays_words

_ABOUT = {"config", "loss", "num_streams", "shapes", "checksums"}  # of about.json


def _is_not_chatter(record: logging.LogRecord) -> bool:
  warns = record.levelno >= logging.WARNING and not record.exc_info
  return warns or "/orbax/" not in record.pathname


# At level INFO orbax writes some sixty lines per save; what it logs with a traceback,
# from its threads, it raises as well.
logging.getLogger("absl").addFilter(_is_not_chatter)
# And so does asyncio, of tasks of orbax that failed beside another.
logging.getLogger("asyncio").addFilter(lambda record: not record.exc_info)


def load_config(workdir: epath.PathLike, step: int | None = None) -> dict[str, Any]:
  """Config of the newest readable checkpoint under `workdir`, or of `step`.

  Raises:
    ValueError: no checkpoint, or none that can be read.
  """
  config = _read_newest(workdir, step, lambda path: read_about(path)["config"])
  return _find_tokenizer(config, workdir)


def _find_tokenizer(config: dict[str, Any], workdir: epath.PathLike) -> dict[str, Any]:
  """The config; a tokenizer inside the run is found where the run is now."""
  data = config.get("data", {})
  if "vocabulary" not in data:
    return config
  home, name = checkpoints_directory(workdir).parent / "tokenizer", data["vocabulary"]
  kind = next((k for k in ("hf:", "xlmr:") if name.startswith(k)), "")
  path = epath.Path(name.removeprefix(kind))
  for own, folder in ((home, path), (home / path.name, path.parent)):
    if folder.name == home.name and own.exists() and not path.exists():
      return config | {"data": data | {"vocabulary": f"{kind}{own}"}}
  return config


def with_own_answers(config: dict[str, Any], workdir: epath.PathLike) -> dict[str, Any]:
  """The config of a run of questions, with the answers that the run knows.

  A run that goes on finds them in its training questions, which others may not have.
  """
  data = config.get("data", {})
  own = checkpoints_directory(workdir).parent / "answers.json"
  if "answers" not in data or data["answers"]["path"] or not own.exists():
    return config
  return config | {"data": data | {"answers": data["answers"] | {"path": str(own)}}}


def newest_step(workdir: epath.PathLike) -> int:
  """Step of the newest checkpoint under `workdir`; ValueError if there is none."""
  return _read_newest(workdir, None, lambda directory: int(directory.name))


def restore_params(
  workdir: epath.PathLike,
  wanted: Any,
  step: int | None = None,
  entry: str = "params",
) -> Any:
  """One entry of the newest readable checkpoint under `workdir`, or of that of `step`.

  Args:
    workdir: local or `gs://` directory of the run.
    wanted: pytree of jax.ShapeDtypeStruct with shardings, on any mesh; or one sharding,
      for whatever the checkpoint has.
    step: the only one to try; None tries all, newest first.
    entry: of the state.

  Raises:
    ValueError: no checkpoint, none that can be read, or one of another model.
  """

  def read(directory: epath.Path) -> Any:
    arrays = wanted
    if isinstance(wanted, jax.sharding.Sharding):
      arrays = integrity.on_every_process(
        lambda: _read_shapes(directory, entry, wanted)
      )
    return read_arrays(directory, read_about(directory), {entry: arrays})[entry]

  return _read_newest(workdir, step, read)


class StoredParams:
  """The parameters of a checkpoint, read in parts: a host need not hold them all.

  Args:
    directory: of the checkpoint.

  Attributes:
    step: of the checkpoint.
    about: what was saved besides arrays and places.

  Raises:
    integrity.DamagedError: files are lost or changed.
  """

  def __init__(self, directory: epath.Path):
    self.step, self._state = int(directory.name), directory / "state"
    self.about = read_about(directory)
    self._sums: dict[str, int] = {}

    def check() -> None:
      files = json.loads((directory / "run" / "files.json").read_text())
      integrity.check_fingerprints(self._state, files)

    integrity.on_every_process(check)

  def read(self, path: tuple[str, ...], index: tuple[int, ...] = ()) -> np.ndarray:
    """Reads a parameter, or the part of it at `index` of its leading dimensions."""
    base = str(self._state) if "://" in str(self._state) else f"file://{self._state}"
    store = tensorstore.open(
      {
        "driver": "zarr",
        "kvstore": {"driver": "ocdbt", "base": f"{base}/"},
        "path": ".".join(("params", *path)),
      }
    ).result()
    part = store[index].read().result() if index else store.read().result()
    bits = part.view(f"uint{8 * part.dtype.itemsize}")
    name = "/".join(("params", *path))
    self._sums[name] = self._sums.get(name, 0) + int(bits.sum(dtype=np.uint32))
    return part

  def check(self) -> None:
    """Raises ValueError unless what was read is what was saved.

    Every part of every parameter must have been read once.
    """
    for name, found in self._sums.items():
      if found % 2**32 != self.about["checksums"][name]:
        raise ValueError(f"the checkpoint is damaged: {name} has another checksum.")


def open_params(workdir: epath.PathLike, step: int | None = None) -> StoredParams:
  """Parameters of the newest readable checkpoint under `workdir`, or of `step`.

  Raises:
    ValueError: no checkpoint, or none that can be read.
  """
  return _read_newest(workdir, step, StoredParams)


def _read_shapes(
  directory: epath.Path, entry: str, layout: jax.sharding.Sharding
) -> Any:
  """An entry of the state as jax.ShapeDtypeStruct, without tracing a model."""
  found = ocp.PyTreeCheckpointHandler().metadata(directory / "state").tree[entry]
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout), found
  )


def checkpoints_directory(workdir: epath.PathLike) -> epath.Path:
  """Where the checkpoints of a run are."""
  # tensorstore wants absolute paths; epath's resolve() would garble a gs:// one.
  path = epath.Path(workdir)
  if not path.is_absolute():
    path = epath.Path(pathlib.Path.cwd()) / path
  return path / "checkpoints"


def committed_steps(directory: epath.Path) -> list[int]:
  """Steps of the checkpoints under `directory` that are complete."""
  if not directory.exists():
    return []
  return [x.step for x in ocp.step.standard_name_format().find_all(directory)]


def _read_newest(
  workdir: epath.PathLike, step: int | None, read: Callable[[epath.Path], Any]
) -> Any:
  directory = checkpoints_directory(workdir)
  steps = committed_steps(directory)
  while True:
    try:
      return integrity.newest_undamaged(directory, steps, step, read)[0]
    except ValueError:
      # A run that goes on may have replaced all of them in the meantime.
      before, steps = steps, committed_steps(directory)
      if step is not None or max(steps, default=0) <= max(before, default=0):
        raise


def read_about(directory: epath.Path) -> dict[str, Any]:
  """What `Checkpoints.save` wrote besides arrays and places; the config as of today."""
  path = directory / "run" / "about.json"

  def read() -> dict[str, Any]:
    about = json.loads(path.read_text())
    if missing := sorted(_ABOUT - about.keys()):
      raise ValueError(f"{path} lacks {missing[0]!r}")
    return about

  about = integrity.on_every_process(read)
  return about | {"config": in_todays_words(about["config"])}


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
  parts = len(abstract.get("opt_state", ()))

  def load() -> Any:
    if jax.process_index() == 0:
      # Orbax would notice, too, but with pages of tracebacks from its threads.
      files = json.loads((directory / "run" / "files.json").read_text())
      integrity.check_fingerprints(directory / "state", files)
    wanted = _with_empty_ends(directory, abstract) if parts else abstract
    args = ocp.args.PyTreeRestore(
      wanted,
      restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
      partial_restore=True,
    )
    return ocp.PyTreeCheckpointHandler().restore(directory / "state", args=args)

  state = integrity.on_every_process(load)
  if parts:
    state["opt_state"] = state["opt_state"][:parts]
  integrity.check_checksums(state, about["checksums"])
  return state


def _with_empty_ends(directory: epath.Path, abstract: Any) -> Any:
  """`abstract` with the parts without a state that older runs' optimizers end in."""
  metadata = json.loads((directory / "state" / "_METADATA").read_text())
  keys = [entry["key_metadata"] for entry in metadata["tree_metadata"].values()]
  saved = {path[1]["key"] for path in keys if path[0]["key"] == "opt_state"}
  more = len(saved) - len(abstract["opt_state"])
  return abstract | {"opt_state": (*abstract["opt_state"], *[None] * more)}
