"""The grouped expert FFN as one TPU kernel: hidden activations never leave the chip.

Sub-tokens are narrow, so that all matrices of an expert fit into VMEM beside a tile of
rows. The kernel visits every pair of an expert and a tile that has rows of it, experts
in order, and fetches an expert's matrices once. Through HBM go the rows, their results,
and every weight once; h times more and narrower rows cost what the same bytes in wide
rows would.

An expert too large for that is cut into chunks of its hidden width, whose results are
added up outside. `fits` says whether the kernel takes an expert at all.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from mhmoe_jax.moe.ffn import (
  ExpertWeights,
  expert_ffn_float32,
  expert_ffn_gradients,
)
from mhmoe_jax.moe.tiles import (
  ALIGNMENT,
  LANES,
  LARGE,
  SMALL,
  Visits,
  add_column,
  column,
  for_rows,
  plan_visits,
)

_TILES = (4096, 2048, 1024, 512, 256)
_MAX_CHUNKS = 4


def vmem_bytes() -> int:
  """What one program may use of VMEM, on the TPU that it is traced for."""
  try:
    capacity = pltpu.get_tpu_info().vmem_capacity_bytes
  except ValueError:  # No TPU is in sight. Since v5e, all have at least so much.
    capacity = 64 * 2**20
  return capacity * 7 // 8


class _Cut(NamedTuple):
  tile: int  # rows
  chunks: int  # of the hidden width


def _cut(weights, dtype) -> _Cut | None:
  """The largest tile, in the fewest chunks, that fits the backward pass into VMEM."""
  _, M, F = weights.w_in_EMF.shape
  matrices = 2 if weights.w_gate_EMF is None else 3
  size = jnp.dtype(dtype).itemsize

  def lanes(n):
    return -(-n // LANES) * LANES

  for chunks in range(1, _MAX_CHUNKS + 1):
    if chunks > 1 and (F % (chunks * LANES) or weights.norm_scale_EF is not None):
      continue
    width = lanes(F // chunks)
    # Weights and their gradients, double-buffered, the sums in float32, and for one
    # piece what is added to them and what is hidden.
    matrix = lanes(M) * width * (matrices * (4 * size + 4) + 2 * 4)
    piece = LARGE * (width * 6 + lanes(M) * 4) * 4
    for tile in _TILES:
      rows = tile * lanes(M) * 3 * 2 * size
      if matrix + piece + rows <= vmem_bytes():
        return _Cut(tile, chunks)
  return None


def fits(weights, dtype) -> bool:
  """Whether the kernel can take such experts: small, not of BitNet or float64."""
  if weights.levels_E is not None or jnp.dtype(dtype).itemsize > 4:
    return False
  return _cut(weights, dtype) is not None


def _forward_kernel(visits, x_ref, scale_ref, w: ExpertWeights, y_ref, *, tile: int):
  chunk, step = pl.program_id(0), pl.program_id(1)

  @pl.when((step == 0) | (visits.tile_V[step] != visits.tile_V[step - 1]))
  def _():
    y_ref[...] = jnp.zeros_like(y_ref)

  def body(place, size, mask_R1):
    rows = pl.ds(place, size)
    y_RM = expert_ffn_float32(_read(w, chunk), x_ref[rows, :])
    y_RM = (y_RM * column(scale_ref, place, size)).astype(y_ref.dtype)
    y_ref[rows, :] = jnp.where(mask_R1, y_RM, y_ref[rows, :])

  for_rows(visits, step, tile, body)


def _backward_kernel(
  visits,
  x_ref,
  dy_ref,
  scale_ref,
  w: ExpertWeights,
  dx_ref,
  dscale_ref,
  dw: ExpertWeights,
  sums: ExpertWeights,
  *,
  tile: int,
):
  chunk, step, steps = pl.program_id(0), pl.program_id(1), pl.num_programs(1)
  expert = visits.expert_V[step]
  following = visits.expert_V[jnp.minimum(step + 1, steps - 1)]

  @pl.when((step == 0) | (visits.tile_V[step] != visits.tile_V[step - 1]))
  def _():
    dx_ref[...] = jnp.zeros_like(dx_ref)
    dscale_ref[...] = jnp.zeros_like(dscale_ref)

  @pl.when((step == 0) | (expert != visits.expert_V[step - 1]))
  def _():
    for total in jax.tree.leaves(sums):
      total[...] = jnp.zeros_like(total)

  def body(place, size, mask_R1):
    rows = pl.ds(place, size)
    # Other experts' rows do not count, and what is past the last row may be anything.
    x_RM, dy_RM = (
      jnp.where(mask_R1, ref[rows, :], jnp.zeros((), ref.dtype))
      for ref in (x_ref, dy_ref)
    )
    scale_R1 = jnp.where(mask_R1, column(scale_ref, place, size), 0)
    dweights, dx_RM, dscale_R1 = expert_ffn_gradients(
      _read(w, chunk), x_RM, scale_R1, dy_RM
    )
    for total, more in zip(
      jax.tree.leaves(sums), jax.tree.leaves(dweights), strict=True
    ):
      total[...] += more
    dx_RM = dx_RM.astype(dx_ref.dtype)
    dx_ref[rows, :] = jnp.where(mask_R1, dx_RM, dx_ref[rows, :])
    add_column(dscale_ref, place, jnp.where(mask_R1, dscale_R1, 0))

  for_rows(visits, step, tile, body)

  @pl.when((step == steps - 1) | (following != expert))
  def _():
    for out, total in zip(jax.tree.leaves(dw), jax.tree.leaves(sums), strict=True):
      out[...] = total[...].astype(out.dtype)


def _read(w: ExpertWeights, chunk) -> ExpertWeights:
  weights = jax.tree.map(lambda ref: ref[...], w)
  if weights.b_out_EM is None:
    return weights
  # The results of the chunks are added up; one of them has the bias.
  bias = weights.b_out_EM.astype(jnp.float32)
  return weights._replace(b_out_EM=jnp.where(chunk == 0, bias, 0))


def forward(
  weights: ExpertWeights,
  x_TM: jax.Array,
  scale_T: jax.Array,
  sizes_E: jax.Array,
  expected_rows: int | None = None,
) -> jax.Array:
  """`grouped.grouped_ffn`."""
  rows = [x_TM, scale_T[None]]
  y_CTM = _call(_forward_kernel, weights, sizes_E, rows, 1, False, expected_rows)[0]
  return _add_chunks(y_CTM, x_TM.dtype)


def backward(
  weights: ExpertWeights,
  x_TM: jax.Array,
  scale_T: jax.Array,
  sizes_E: jax.Array,
  dy_TM: jax.Array,
  expected_rows: int | None = None,
) -> tuple[ExpertWeights, jax.Array, jax.Array]:
  """Gradients of the weights, the rows and their scales."""
  rows = [x_TM, dy_TM, scale_T[None]]
  dx_CTM, dscale_C1T, *dw = _call(
    _backward_kernel, weights, sizes_E, rows, 2, True, expected_rows
  )
  dw = [d.reshape(w.shape) for d, w in zip(dw, jax.tree.leaves(weights), strict=True)]
  dweights = jax.tree.unflatten(jax.tree.structure(weights), dw)
  return dweights, _add_chunks(dx_CTM, x_TM.dtype), dscale_C1T.sum(axis=(0, 1))


def _add_chunks(y_CTM: jax.Array, dtype) -> jax.Array:
  return y_CTM[0] if y_CTM.shape[0] == 1 else y_CTM.sum(axis=0).astype(dtype)


@jax.enable_x64(False)  # A kernel counts in int32, whatever the program around it.
def _call(
  kernel: Callable,
  weights: ExpertWeights,
  sizes_E,
  rows,
  outs: int,
  gradients: bool,
  expected_rows: int | None,
):
  """Runs a kernel over (chunks of the hidden width) x (visits).

  Args:
    kernel: one of the two above.
    weights: of E experts.
    sizes_E: rows per expert.
    rows: arrays (T, M), and (1, T) of one number per row.
    outs: how many such results it has: (T, M), then (1, T).
    gradients: whether it has one for each weight, too.
    expected_rows: that belong to an expert; the others are not multiplied. None: T.

  Returns:
    The results per row, with leading chunks, and the gradients.
  """
  T, M = rows[0].shape
  F = weights.w_in_EMF.shape[2]
  dtype = rows[0].dtype
  cut = _cut(weights, dtype)
  if cut is None:
    raise ValueError(
      f"an expert must fit into {vmem_bytes()} bytes of VMEM, "
      f"got M={M}, F={F}, {dtype}."
    )
  visits = plan_visits(sizes_E, T, cut.tile)
  # A vector per expert becomes a matrix of one row, which a block can be.
  leaves, structure = jax.tree.flatten(weights)
  leaves = [w[:, None] if w.ndim == 2 else w for w in leaves]

  def weight_spec(letters: str):
    letters = letters if len(letters) == 3 else f"{letters[0]}1{letters[1]}"
    shape = [{"E": None, "1": 1, "M": M, "F": F // cut.chunks}[x] for x in letters]

    def place(c, i, expert, *_):
      return [{"E": expert[i], "1": 0, "M": 0, "F": c}[x] for x in letters]

    return pl.BlockSpec(shape, lambda *args: tuple(place(*args)))

  weight_specs = [
    weight_spec(path[0].name.rsplit("_", 1)[1])
    for path, _ in jax.tree_util.tree_leaves_with_path(weights)
  ]
  row_specs = [
    pl.BlockSpec((cut.tile, M), lambda c, i, expert, tile, *_: (tile[i], 0)),
    pl.BlockSpec((1, cut.tile), lambda c, i, expert, tile, *_: (0, tile[i])),
  ]
  out_shapes = [
    jax.ShapeDtypeStruct((cut.chunks, T, M), dtype if cut.chunks == 1 else jnp.float32),
    jax.ShapeDtypeStruct((cut.chunks, 1, T), jnp.float32),
  ][:outs]
  out_specs = [
    pl.BlockSpec((None, cut.tile, M), lambda c, i, expert, tile, *_: (c, tile[i], 0)),
    pl.BlockSpec((None, 1, cut.tile), lambda c, i, expert, tile, *_: (c, 0, tile[i])),
  ][:outs]
  scratch = []
  if gradients:
    out_shapes += [jax.ShapeDtypeStruct(w.shape, w.dtype) for w in leaves]
    out_specs += weight_specs
    scratch = [
      pltpu.VMEM([size for size in block.block_shape if size], jnp.float32)
      for block in weight_specs
    ]

  def body(*refs):
    refs = iter(refs)

    def take(n):
      return [next(refs) for _ in range(n)]

    def tree():
      return jax.tree.unflatten(structure, take(len(leaves)))

    args = Visits(*take(len(visits))), *take(len(rows)), tree(), *take(outs)
    kernel(*args, *([tree(), tree()] if gradients else []), tile=cut.tile)

  matrices = 2 if weights.w_gate_EMF is None else 3
  products = 3 * matrices - 1 if gradients else matrices
  # On average, half of what the alignment and the last piece of a visit can waste.
  wasted = visits.tile_V.size * (ALIGNMENT + SMALL) // 2
  expected_rows = T if expected_rows is None else expected_rows

  def count_bytes(arrays):
    return sum(a.size * a.dtype.itemsize for a in arrays)

  call = functools.partial(
    pl.pallas_call,
    body,
    out_shape=out_shapes,
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=len(visits),
      grid=(cut.chunks, visits.tile_V.size),
      in_specs=[row_specs[0]] * (len(rows) - 1) + row_specs[1:] + weight_specs,
      out_specs=out_specs,
      scratch_shapes=scratch,
    ),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("arbitrary", "arbitrary"),
      vmem_limit_bytes=vmem_bytes(),
    ),
    cost_estimate=pl.CostEstimate(
      flops=2 * (expected_rows + wasted) * M * F * products,
      transcendentals=expected_rows * F,
      bytes_accessed=count_bytes(rows) * cut.chunks
      + count_bytes(leaves)
      + count_bytes(out_shapes),
    ),
  )
  args = (*visits, *rows, *leaves)
  return jax.lax.platform_dependent(*args, tpu=call(), default=call(interpret=True))
