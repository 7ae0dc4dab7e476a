"""Which tensor of a safetensors folder is which part of our parameters.

One table serves both directions. A checkpoint of other people's has a matrix for every
layer and expert, (outputs, inputs); ours has layers, and experts, stacked, and the
dimensions of a weight apart, inputs first.
"""

from collections.abc import Mapping
import math
from typing import NamedTuple

import jax
import numpy as np

from mhmoe_jax.models.config import TransformerConfig
from mhmoe_jax.tasks.language import init_params

Path = tuple[str, ...]


class Piece(NamedTuple):
  """A tensor of a file, and the part of a parameter that it holds.

  Attributes:
    name: in the file.
    path: keys of the parameter.
    index: in the parameter's leading dimensions: the period of layers, the expert.
    shape: of the part.
    inputs: how many of its dimensions a linear map sums over: the file has them last,
      and is a matrix. 0: a vector. None: as it is.
    scale: the file's numbers are ours times this.
  """

  name: str
  path: Path
  index: tuple[int, ...]
  shape: tuple[int, ...]
  inputs: int | None = None
  scale: float = 1.0

  @property
  def file_shape(self) -> tuple[int, ...]:
    """The tensor's shape in the file."""
    if self.inputs is None:
      return self.shape
    size_in = math.prod(self.shape[: self.inputs])
    size_out = math.prod(self.shape[self.inputs :])
    return (size_out, size_in) if self.inputs else (size_out,)

  def to_file(self, x: np.ndarray) -> np.ndarray:
    """The part as the file has it."""
    matrix = x.reshape(self.file_shape[::-1])
    x = x if self.inputs is None else matrix.T
    # A contiguous copy: safetensors writes memory as it lies.
    return np.array(x * np.float32(self.scale) if self.scale != 1 else x, order="C")

  def from_file(self, x: np.ndarray) -> np.ndarray:
    """The file's tensor as a part of the parameter, float32."""
    x = x.astype(np.float32) / np.float32(self.scale)
    return x if self.inputs is None else x.T.reshape(self.shape)


def parameter_shapes(config: TransformerConfig) -> dict[Path, tuple[int, ...]]:
  """The shape of each parameter of a model, by its path."""
  tree = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
  return {
    tuple(k.key for k in path): x.shape for path, x in jax.tree.leaves_with_path(tree)
  }


def own_pieces(config: TransformerConfig) -> list[Piece]:
  """Our own layout: parameters by their names, those of each layer apart."""
  pieces = []
  for path, shape in parameter_shapes(config).items():
    if path[0] != "layers":
      pieces.append(Piece(".".join(path), path, (), shape))
      continue
    _, block, *rest = path
    for period in range(shape[0]):
      layer = period * config.period + int(block.removeprefix("block_"))
      name = ".".join(("layers", str(layer), *rest))
      pieces.append(Piece(name, path, (period,), shape[1:]))
  return pieces


def linear_pieces(
  config: TransformerConfig, names: Mapping[str, str], expert_names: Mapping[str, str]
) -> list[Piece]:
  """The layout of Hugging Face's decoders.

  Args:
    config: of the model.
    names: from our names of a layer's parameters, "attention/w_q", to theirs.
    expert_names: the same of an expert's, with "{}" for its number.
  """
  shapes, pieces = parameter_shapes(config), []

  def add(name, path, index=()):
    rest = shapes[path][len(index) :]
    pieces.append(Piece(name, path, index, rest, _inputs(path)))

  add("model.embed_tokens.weight", ("embed_VD",))
  for layer in range(config.num_layers):
    period, block = divmod(layer, config.period)
    for path, shape in shapes.items():
      if path[:2] != ("layers", f"block_{block}"):
        continue
      short = "/".join(path[2:]).rpartition("_")[0]
      prefix = f"model.layers.{layer}."
      if short in expert_names:
        for expert in range(shape[1]):
          name = prefix + expert_names[short].format(expert)
          add(name, path, (period, expert))
      else:
        add(prefix + names[short], path, (period,))
  add("model.norm.weight", ("final_norm", "scale_D"))
  if not config.tie_embeddings:
    add("lm_head.weight", ("unembed_VD",))
  return pieces


def _inputs(path: Path) -> int | None:
  """How many dimensions of a layer's weight are inputs; 0 for a vector."""
  letters = path[-1].rpartition("_")[2]
  if letters == "VD":
    return None
  if path[-1].startswith("scale"):
    return 0
  return 2 if letters == "AQD" else 1
