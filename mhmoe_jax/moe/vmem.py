"""How much of an expert, and of how many rows, the fused kernel holds in fast memory.

An expert that fits is held whole, beside a tile of rows. Of a wider one the kernel goes
through chunks of the hidden width, all of them for one tile after the other: weights
are read once per tile instead of once, the wider the tile the less that matters.
"""

from typing import NamedTuple

from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from mhmoe_jax.moe.ffn import ExpertWeights
from mhmoe_jax.moe.tiles import LANES, LARGE

_TILES = (4096, 2048, 1024, 512, 256)
# Of a chunk. With less than the first, adding up the chunks' results costs more than a
# larger tile saves: only for experts that do not fit otherwise.
_LEAST_WIDTHS = (512, LANES)


class Cut(NamedTuple):
  """Numbers that are known when a kernel is traced."""

  tile: int  # rows
  chunks: int
  width: int  # of a chunk
  hidden: int  # F, which the last chunk may reach past


def vmem_bytes() -> int:
  """What one program may use of VMEM, on the TPU that it is traced for."""
  try:
    capacity = pltpu.get_tpu_info().vmem_capacity_bytes
  except ValueError:  # No TPU is in sight. Since v5e, all have at least so much.
    capacity = 64 * 2**20
  return capacity * 7 // 8


def cut_expert(weights: ExpertWeights, dtype, backward: bool) -> Cut | None:
  """An expert in one chunk if it fits, else the largest tile, in the fewest chunks."""
  F = weights.w_in_EMF.shape[2]
  cuts = [Cut(tile, 1, F, F) for tile in _TILES]
  for least in _LEAST_WIDTHS:
    widths = [to_lanes(-(-F // n)) for n in range(2, F // least + 1)]
    cuts += [Cut(tile, -(-F // w), w, F) for tile in _TILES for w in widths]
  for cut in cuts:
    if _needed(weights, dtype, backward, cut) <= vmem_bytes():
      return cut
  return None


def to_lanes(n: int) -> int:
  """Up to a multiple of the lanes."""
  return -(-n // LANES) * LANES


def _needed(weights: ExpertWeights, dtype, backward: bool, cut: Cut) -> int:
  """Bytes of VMEM. What moves while the kernel computes is there twice."""
  size, M = jnp.dtype(dtype).itemsize, to_lanes(weights.w_in_EMF.shape[1])
  width, norm = to_lanes(cut.width), weights.norm_scale_EF is not None
  matrices = 2 if weights.w_gate_EMF is None else 3
  vectors = (weights.b_in_EF, weights.b_gate_EF, weights.norm_scale_EF)
  vectors += (weights.norm_bias_EF,)
  # A vector lies in the first row of a block of 16 (or of 8 twice as large).
  weight = width * (M * matrices + 16 * sum(v is not None for v in vectors))
  chunk = weight * 2 * size
  if backward:
    # Their gradients, and the sums of all chunks in float32.
    chunk += weight * (2 * size + 4 * cut.chunks)
  # What is hidden of one piece of rows, and what is added to gradients.
  piece = LARGE * (width * 6 + M * 4) * 4 + 2 * 4 * width * M
  arrays = 3 + norm if backward else 2
  row = arrays * M * 2 * size + 8 * 4 * 2 * 4
  if cut.chunks > 1:
    row += M * 4
    if norm and not backward:
      row += LANES * 4
  return chunk + piece + row * cut.tile
