"""Folders of safetensors, read and written a tensor at a time.

A folder has `model.safetensors`, or shards and `model.safetensors.index.json`, which
says in which of them each tensor is.
"""

from collections.abc import Iterable, Iterator, Mapping
import json
import pathlib
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mhmoe_jax.data.files import reading

_FILE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_DTYPES = ("F32", "F16", "BF16", "F64")


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """A JSON object; ValueError if there is none."""
  try:
    with reading(str(path)):
      text = path.read_text()
    found = json.loads(text)
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise ValueError(f"cannot read {path}: {error}.") from error
  if not isinstance(found, dict):
    raise ValueError(f"{path} must hold a JSON object, got {type(found).__name__}.")
  return found


class Folder:
  """The tensors of a folder.

  Args:
    directory: local.

  Raises:
    ValueError: it has no safetensors, or they cannot be read, or do not agree with
      their index.
  """

  def __init__(self, directory: str):
    self._directory = pathlib.Path(directory)
    self._files = {name: self._open(name) for name in self._names()}
    self._where: dict[str, str] = {}
    for name, file in self._files.items():
      for tensor in file.offset_keys():
        if tensor in self._where:
          raise ValueError(
            f"A tensor must be in one file, got {tensor} in {self._where[tensor]} and "
            f"in {name} of {directory}."
          )
        self._where[tensor] = name
    index = self._index()
    wrong = sorted(t for t, name in index.items() if self._where.get(t) != name)
    if wrong:
      raise ValueError(
        f"{_INDEX} must say where each tensor is, got {wrong[0]} in {index[wrong[0]]}, "
        f"which does not have it ({len(wrong) - 1} others)."
      )

  def _names(self) -> list[str]:
    if not self._directory.is_dir():
      raise ValueError(f"--from must be a local folder, got {self._directory}.")
    if (self._directory / _INDEX).exists():
      names = sorted(set(self._index().values()))
      outside = [n for n in names if not n.endswith(".safetensors") or "/" in n]
      if outside or not names:
        raise ValueError(
          f"{_INDEX} must name safetensors beside it, got {(outside or ['none'])[0]!r}."
        )
      return names
    if (self._directory / _FILE).exists():
      return [_FILE]
    pickles = [p.name for kind in _PICKLES for p in self._directory.glob(kind)]
    if pickles:
      raise ValueError(
        f"{self._directory} must have safetensors, got {sorted(pickles)[0]}, a pickle: "
        "reading one can run anything."
      )
    raise ValueError(f"{self._directory} must have {_FILE} or {_INDEX}, got neither.")

  def _index(self) -> Mapping[str, str]:
    path = self._directory / _INDEX
    found = read_json(path).get("weight_map") if path.exists() else {}
    values = found.values() if isinstance(found, dict) else [None]
    if not all(isinstance(x, str) for x in values):
      raise ValueError(
        f"weight_map of {path} must give each tensor a file, got {str(found)[:50]!r}."
      )
    return found

  def _open(self, name: str):
    try:
      return safe_open(self._directory / name, framework="numpy")
    except (OSError, SafetensorError) as error:
      raise ValueError(f"cannot read {self._directory / name}: {error}.") from error

  def check(
    self, wanted: Mapping[str, tuple[int, ...]], ignored: Iterable[str] = ()
  ) -> None:
    """Checks that the folder has these tensors and no others.

    Args:
      wanted: shapes, by name.
      ignored: ends of names of tensors that may be there.

    Raises:
      ValueError: a tensor is missing, unexpected, of another shape, or of integers.
    """
    missing = [name for name in wanted if name not in self._where]
    if missing:
      raise ValueError(
        f"{self._directory} must have {missing[0]} with shape {wanted[missing[0]]}, "
        f"got no such tensor ({len(missing) - 1} others are missing)."
      )
    ends = tuple(ignored)
    extra = [n for n in self._where if n not in wanted and not n.endswith(ends or "\0")]
    if extra:
      shape = self._slice(extra[0]).get_shape()
      raise ValueError(
        f"config.json must speak of every tensor, got {extra[0]} with shape "
        f"{tuple(shape)}, which it does not ({len(extra) - 1} others)."
      )
    for name, shape in wanted.items():
      found = self._slice(name)
      if tuple(found.get_shape()) != shape:
        raise ValueError(
          f"{name} must have shape {shape}, as config.json says, got "
          f"{tuple(found.get_shape())}."
        )
      if found.get_dtype() not in _DTYPES:
        raise ValueError(
          f"{name} must be of {', '.join(_DTYPES)}, got {found.get_dtype()}."
        )

  def read(self, name: str) -> np.ndarray:
    """A tensor."""
    return self._files[self._where[name]].get_tensor(name)

  def _slice(self, name: str):
    return self._files[self._where[name]].get_slice(name)


def write(
  directory: str,
  sizes: Mapping[str, int],
  tensors: Iterator[tuple[str, np.ndarray]],
  shard_bytes: int,
) -> int:
  """Writes tensors to a folder, in one file or in shards.

  In memory is one shard at a time, which a tensor larger than it makes larger.

  Args:
    directory: exists.
    sizes: bytes of each tensor, in their order.
    tensors: names and values.
    shard_bytes: of tensors in a file, at most.

  Returns:
    The number of files.
  """
  shards, held = [[]], 0
  for name, size in sizes.items():
    if shards[-1] and held + size > shard_bytes:
      shards.append([])
      held = 0
    shards[-1].append(name)
    held += size
  where = {}
  for i, names in enumerate(shards, 1):
    numbered = f"model-{i:05}-of-{len(shards):05}.safetensors"
    file = numbered if len(shards) > 1 else _FILE
    shard = {}
    for name in names:
      found, shard[name] = next(tensors)
      assert found == name, (found, name)
      where[name] = file
    # "pt" says that transformers may read it.
    save_file(shard, pathlib.Path(directory) / file, metadata={"format": "pt"})
    del shard
  if len(shards) > 1:
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": where}
    (pathlib.Path(directory) / _INDEX).write_text(json.dumps(index, indent=2))
  return len(shards)
