"""A run from a folder of safetensors."""

import collections
import pathlib
import shutil
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict
import numpy as np

from mhmoe_jax.checkpoints.older import in_todays_words
from mhmoe_jax.data.huggingface import TOKENIZER_FILES
from mhmoe_jax.data.vocabularies import make_vocabulary
from mhmoe_jax.interop import families, layout, runs, tensors
from mhmoe_jax.train.config import resolve

# What transformers itself leaves out of a model, or computes when it loads one.
_IGNORED = ("rotary_emb.inv_freq",)


class Imported(NamedTuple):
  """What was made of a folder."""

  model_type: str
  num_parameters: int
  max_length: int  # tokens that the model was made for; 0 if the folder does not say
  vocabulary: str  # what `data.vocabulary` became


def import_model(source: str, config: ConfigDict, workdir: str) -> Imported:
  """Writes a run whose parameters are those of a folder.

  Args:
    source: local folder with config.json and safetensors, of one of
      `families.FAMILIES`, or written by `exporting`.
    config: of the run; what the folder decides is set in it: all of the model that is
      not a matter of training, and the vocabulary if the folder has one.
    workdir: of the run, which must be new.

  Raises:
    ValueError: the folder is not of a model that can be expressed here, or is damaged.
  """
  about = tensors.read_json(pathlib.Path(source) / "config.json")
  runs.check_new(workdir)
  kind, max_length = about.get("model_type"), about.get("max_position_embeddings") or 0
  if type(max_length) is not int:
    raise ValueError(
      "max_position_embeddings of config.json must be an integer, got "
      f"max_position_embeddings={max_length!r}."
    )
  if kind == "mhmoe":
    try:
      _set(config, {"model": in_todays_words(about["config"])["model"]})
    except (AttributeError, KeyError, TypeError) as error:
      raise ValueError(
        f"config.json must hold the config of a run of mhmoe, got {error}."
      ) from error
    cfg = resolve(config)
    pieces = layout.own_pieces(cfg.model)
  else:
    family = families.find_family(about)
    _set(config, {"model": families.read_model(family, about)})
    cfg = resolve(config)
    pieces = family.pieces(cfg.model)
  folder = tensors.Folder(source)
  tied = ("lm_head.weight",) if cfg.model.tie_embeddings else ()
  folder.check({p.name: p.file_shape for p in pieces}, (*_IGNORED, *tied))

  vocabulary = _take_vocabulary(source, about, workdir)
  config.data.vocabulary = vocabulary or config.data.vocabulary
  params = load(folder, pieces, runs.lay_out(resolve(config))["params"])
  runs.start_run(config, workdir, params)
  return Imported(
    model_type=kind,
    num_parameters=sum(x.size for x in jax.tree.leaves(params)),
    max_length=max_length,
    vocabulary=config.data.vocabulary,
  )


def load(folder: tensors.Folder, pieces: list[layout.Piece], abstract: Any) -> Any:
  """The parameters of `abstract`, as it shards them, of the pieces of a folder."""
  by_path = collections.defaultdict(dict)
  for piece in pieces:
    by_path[piece.path][piece.index] = piece

  def make(path, leaf):
    parts = by_path[tuple(k.key for k in path)]
    read = {}  # Devices may hold the same slice.

    def slice_of(index):
      key = tuple(s.indices(n) for s, n in zip(index, leaf.shape, strict=True))
      if key not in read:
        read[key] = _slice(folder, parts, index, leaf.shape)
      return read[key]

    return jax.make_array_from_callback(leaf.shape, leaf.sharding, slice_of)

  return jax.tree.map_with_path(make, abstract)


def _slice(folder, parts, index, shape) -> np.ndarray:
  """A slice of a parameter, put together from those of its parts that it meets."""
  stacked = len(next(iter(parts)))
  lead, rest = index[:stacked], index[stacked:]
  ranges = [range(*s.indices(n)) for s, n in zip(lead, shape, strict=False)]
  sizes = [len(range(*s.indices(n))) for s, n in zip(index, shape, strict=True)]
  out = np.empty(sizes, np.float32)
  for place in np.ndindex(*sizes[:stacked]):
    piece = parts[tuple(r[i] for r, i in zip(ranges, place, strict=True))]
    out[place] = piece.from_file(folder.read(piece.name))[rest]
  return out


def _set(config: ConfigDict, changes: dict[str, Any]) -> None:
  """Assigns existing keys, table by table."""
  for key, value in changes.items():
    if isinstance(value, dict):
      _set(config[key], value)
    else:
      config[key] = value


def _take_vocabulary(source: str, about: dict, workdir: str) -> str:
  """Copies the tokenizer into the run; the vocabulary's name, or "" if none came."""
  own = about.get("vocabulary", "")
  if not isinstance(own, str):
    raise ValueError(
      f"vocabulary of config.json must be a name, got vocabulary={own!r}."
    )
  if own in ("bytes", "cl100k"):
    return own
  found = [pathlib.Path(source) / name for name in TOKENIZER_FILES]
  found = [path for path in found if path.exists()]
  if not found:
    return ""
  # Not relative: verbs are called from anywhere.
  home = pathlib.Path(workdir).absolute() / "tokenizer"
  home.mkdir(parents=True, exist_ok=True)
  for path in [*found, pathlib.Path(source) / "config.json"]:
    shutil.copy(path, home / path.name)
  name = own.replace("tokenizer.model", str(home / "tokenizer.model")) or f"hf:{home}"
  try:
    make_vocabulary(name)
  except ValueError:
    shutil.rmtree(home)
    raise
  return name
