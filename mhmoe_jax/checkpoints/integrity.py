"""Is what was read what was written?

A checkpoint carries the shape and a checksum of each of its arrays and a fingerprint of
each of its files.  Here they are taken and compared.  Lost, cut or garbled files are
damage, which an older checkpoint can repair; arrays of other names or shapes are
another model, which nothing repairs.  No orbax here: see `checkpoint.py`.
"""

from collections.abc import Callable, Iterable, Mapping
import concurrent.futures
import io
import logging
from typing import Any, TypeVar
import zlib

from etils import epath
import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np

_log = logging.getLogger(__name__)

# What reading raises for files that are gone, cut or garbled: tensorstore turns its
# status codes into ValueError, and broken JSON is one. Other OSErrors (permission,
# network) say nothing about the file and are left to stop the run.
DAMAGE = (FileNotFoundError, ValueError)

T = TypeVar("T")


class DamagedError(Exception):
  """A checkpoint that cannot be read; raised on every process alike, and says why."""


def on_every_process(read: Callable[[], T]) -> T:
  """`read()`; if it meets DAMAGE on any process, raises DamagedError on all of them.

  A process that fell back alone would train on from another step than the rest, or
  leave them waiting for it.
  """
  try:
    result, damage = read(), None
  except DAMAGE as error:
    result, damage = None, f"{type(error).__name__}: {one_line(error)}"
  if not multihost_utils.process_allgather(np.asarray(damage is None)).all():
    raise DamagedError(damage or "another process could not read it")
  return result


def one_line(error: Exception) -> str:
  """What went wrong, without the specification that tensorstore appends to it."""
  return str(error).partition("\n")[0].partition(" [tensorstore_spec")[0]


def newest_undamaged(
  directory: epath.Path,
  steps: Iterable[int],
  step: int | None,
  read: Callable[[epath.Path], T],
) -> tuple[T, list[int]]:
  """Reads the newest of `steps` under `directory` that is not damaged, or `step`.

  Returns:
    What was read, and the damaged steps passed over, each with a warning.

  Raises:
    ValueError: there are no steps, or not this `step`, or all are damaged.
  """
  steps = sorted(steps, reverse=True)
  if not steps:
    raise ValueError(f"no checkpoint under {directory}.")
  if step is not None and step not in steps:
    raise ValueError(f"no checkpoint {step} under {directory}, there are {steps}.")
  tries = steps if step is None else [step]
  for i, candidate in enumerate(tries):
    try:
      return read(directory / str(candidate)), tries[:i]
    except DamagedError as error:
      damage = f"checkpoint {candidate} is damaged ({error})"
      last = i + 1 == len(tries)
      # A run that goes on removes checkpoints while others read: that is no damage.
      if (
        not last and jax.process_index() == 0 and (directory / str(candidate)).exists()
      ):
        _log.warning("%s; falling back to checkpoint %d.", damage, tries[i + 1])
  raise ValueError(f"none of the checkpoints {tries} can be read: {damage}.")


def seal(content: bytes) -> bytes:
  """`content` behind its CRC-32."""
  return zlib.crc32(content).to_bytes(4) + content


def unseal(sealed: bytes) -> bytes:
  """The content of `seal`; raises ValueError if a byte of it is lost or changed."""
  content = sealed[4:]
  if seal(content) != sealed:
    raise ValueError("the state of the data iterator does not match its checksum")
  return content


def fingerprints(directory: epath.Path) -> dict[str, int]:
  """For each file below `directory`, by relative path, a number to compare it by.

  The CRC-32 of what is small: metadata and indices.  The size of what is bigger than a
  mebibyte: numbers, which are not worth being read twice and have their `checksums`.
  """

  def fingerprint(path: epath.Path) -> int:
    # Not stat(): that of epath fails where the owner has no name, as in containers.
    with path.open("rb") as file:
      content = file.read(2**20 + 1)
      file.seek(0, io.SEEK_END)
      return file.tell() if len(content) > 2**20 else zlib.crc32(content)

  files = [root / name for root, _, names in directory.walk() for name in names]
  names = [str(path.relative_to(directory)) for path in files]
  # In threads, because in a bucket each file is a request.
  with concurrent.futures.ThreadPoolExecutor(32) as pool:
    return dict(zip(names, pool.map(fingerprint, files), strict=True))


def check_fingerprints(directory: epath.Path, saved: Mapping[str, int]) -> None:
  """Raises ValueError if a file of `saved` is not there, or not the same."""
  found = fingerprints(directory)
  for name, fingerprint in saved.items():
    if found.get(name) != fingerprint:
      problem = "changed" if name in found else "lost"
      raise ValueError(f"{directory / name} is {problem}")


def shapes(tree: Any) -> dict[str, str]:
  """Shape and dtype of each array or ShapeDtypeStruct, as text, by its path."""
  return {name: f"shape {x.shape} {x.dtype}" for name, x in _by_path(tree).items()}


def check_shapes(
  checkpoint: epath.Path, saved: Mapping[str, str], abstract: Mapping[str, Any]
) -> None:
  """Checks that a checkpoint has the arrays of `abstract`, and of its entries no other.

  Args:
    checkpoint: to be named in the error.
    saved: `shapes` of the state that was saved.
    abstract: ShapeDtypeStructs, with shardings, of some or all entries of the state.

  Raises:
    ValueError: naming the first array that differs; or a sharding does not fit a shape.
  """
  wanted = shapes(abstract)
  saved = {name: x for name, x in saved.items() if name.split("/")[0] in abstract}
  # Parameters first: their names tell a reader more than those of the optimizer.
  names = sorted({**saved, **wanted}, key=lambda k: (not k.startswith("params/"), k))
  differing = [name for name in names if saved.get(name) != wanted.get(name)]
  if differing:
    name, *others = differing
    raise ValueError(
      f"checkpoint {checkpoint} is of another model: {name} has "
      f"{saved.get(name, 'no array')}, the config gives {wanted.get(name, 'no array')}"
      f" ({len(others)} others differ)."
    )
  for leaf in jax.tree.leaves(abstract):
    leaf.sharding.shard_shape(leaf.shape)


def checksums(tree: Any) -> dict[str, int]:
  """For each array, by its path, the sum of its bit patterns modulo 2^32.

  The same for every sharding.  Taken on the device, where it costs one pass over the
  memory: neither zarr nor orbax can tell garbled numbers from the numbers saved.
  """
  return {k: int(v) for k, v in jax.device_get(_bit_sums(_by_path(tree))).items()}


def check_checksums(tree: Any, saved: Mapping[str, int]) -> None:
  """Raises DamagedError if an array of `tree` is not what it was; alike everywhere."""
  for name, checksum in checksums(tree).items():
    if checksum != saved[name]:
      raise DamagedError(f"{name} does not match its checksum")


@jax.jit
def _bit_sums(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
  def bit_sum(x: jax.Array) -> jax.Array:
    return jnp.sum(x.view(f"uint{8 * x.dtype.itemsize}"), dtype=jnp.uint32)

  return jax.tree.map(bit_sum, arrays)


def _by_path(tree: Any) -> dict[str, Any]:
  leaves = jax.tree.leaves_with_path(tree)
  return {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in leaves}
