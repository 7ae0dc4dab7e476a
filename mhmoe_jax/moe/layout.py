"""How the weights of experts lie for the fused kernel, which takes them in blocks.

A block is what one chunk of an expert's hidden width needs: of a matrix a part, of a
vector a matrix of one row.
"""

import jax
from jax.experimental import pallas as pl
import jax.numpy as jnp

from mhmoe_jax.moe.ffn import ExpertWeights
from mhmoe_jax.moe.tiles import Visits
from mhmoe_jax.moe.vmem import Cut


def _letters(path) -> str:
  return path[0].name.rsplit("_", 1)[1]


def lay_out(weights: ExpertWeights, cut: Cut) -> ExpertWeights:
  """Padded to whole chunks, with zeros, which add nothing. Vectors become rows."""
  more = cut.chunks * cut.width - cut.hidden

  def padded(path, w):
    letters = _letters(path)
    if letters == "EM":  # Results of chunks are added up; the first has the bias.
      return jnp.pad(w[:, None, None], ((0, 0), (0, cut.chunks - 1), (0, 0), (0, 0)))
    w = jnp.pad(w, [(0, more if letter == "F" else 0) for letter in letters])
    return w[:, None] if letters == "EF" else w

  return jax.tree_util.tree_map_with_path(padded, weights)


def take_back(parts: ExpertWeights, weights: ExpertWeights) -> ExpertWeights:
  """The inverse, of the gradients of `parts`."""

  def real(path, w, part):
    part = part[:, 0] if _letters(path) == "EM" else part
    part = part[:, 0] if w.ndim == 2 else part
    return part[tuple(slice(n) for n in w.shape)]

  return jax.tree_util.tree_map_with_path(real, weights, parts)


def weight_specs(parts: ExpertWeights, cut: Cut) -> ExpertWeights:
  """Which block of each a step of the grid (visit, chunk) works on."""
  M = parts.w_in_EMF.shape[1]
  blocks = {
    "EMF": ((None, M, cut.width), lambda e, c: (e, 0, c)),
    "EFM": ((None, cut.width, M), lambda e, c: (e, c, 0)),
    "EF": ((None, 1, cut.width), lambda e, c: (e, 0, c)),
    "EM": ((None, None, 1, M), lambda e, c: (e, c, 0, 0)),
  }

  def spec(path, _):
    block, place = blocks[_letters(path)]

    def index(i, c, visits: Visits):
      # A visit without work stays where the last one ended, and fetches nothing.
      chunk = jnp.where(visits.walks_V[i] == 1, c, cut.chunks - 1)
      return place(visits.expert_V[i], chunk)

    return pl.BlockSpec(block, index)

  return jax.tree_util.tree_map_with_path(spec, parts)
