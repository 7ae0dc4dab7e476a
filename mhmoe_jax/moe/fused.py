"""The grouped expert FFN as one TPU kernel: hidden activations never leave the chip.

Sub-tokens are narrow, so that all matrices of an expert fit into VMEM beside a tile of
rows. The kernel visits every pair of an expert and a tile that has rows of it, experts
in order. Through HBM go the rows, their results, and every weight once; h times more
and narrower rows cost what the same bytes in wide rows would.

Of an expert too large for that, a visit goes through chunks of the hidden width, and
adds up their results on the chip, under a norm too (`sub_ln`). How much is held at a
time: `vmem`; what happens in a visit: `kernels`.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from mhmoe_jax.moe import kernels, layout, sub_ln
from mhmoe_jax.moe.ffn import ExpertWeights
from mhmoe_jax.moe.kernels import Rows
from mhmoe_jax.moe.tiles import ALIGNMENT, LANES, SMALL, plan_visits
from mhmoe_jax.moe.vmem import Cut, cut_expert, vmem_bytes


class Saved(NamedTuple):
  """What the backward pass needs again of rows with a norm inside."""

  y_TM: jax.Array
  mean_T: jax.Array
  rstd_T: jax.Array


def fits(weights: ExpertWeights, dtype) -> bool:
  """Whether the kernel can take such experts: not of BitNet or float64."""
  if weights.levels_E is not None or jnp.dtype(dtype).itemsize > 4:
    return False
  return cut_expert(weights, dtype, backward=True) is not None


def forward(
  weights: ExpertWeights,
  x_TM: jax.Array,
  scale_T: jax.Array,
  sizes_E: jax.Array,
  expected_rows: int | None = None,
) -> tuple[jax.Array, Saved | None]:
  """`grouped.grouped_ffn`, and what of it `backward` needs."""
  rows = Rows([x_TM], [scale_T[None]])
  stats = 0 if weights.norm_scale_EF is None else 2
  out, _ = _call(kernels.forward, weights, sizes_E, rows, stats, expected_rows)
  (y_TM,), stats_1T = out
  return y_TM, Saved(y_TM, *(a_1T[0] for a_1T in stats_1T)) if stats else None


def unsaved(weights: ExpertWeights, y_TM: jax.Array) -> Saved | None:
  """In place of what `forward` saves, on a platform where another backend runs."""
  if weights.norm_scale_EF is None:
    return None
  zeros_T = jnp.zeros(y_TM.shape[0], jnp.float32)
  return Saved(y_TM, zeros_T, zeros_T)


def backward(
  weights: ExpertWeights,
  x_TM: jax.Array,
  scale_T: jax.Array,
  sizes_E: jax.Array,
  dy_TM: jax.Array,
  saved: Saved | None,
  expected_rows: int | None = None,
) -> tuple[ExpertWeights, jax.Array, jax.Array]:
  """Gradients of the weights, the rows and their scales."""
  rows = Rows([x_TM, dy_TM], [scale_T[None]])
  if saved is not None:
    rows.wide.append(saved.y_TM)
    rows.narrow.extend([saved.mean_T[None], saved.rstd_T[None]])
  out, dweights = _call(kernels.backward, weights, sizes_E, rows, 1, expected_rows)
  (dx_TM,), (dscale_1T,) = out
  return dweights, dx_TM, dscale_1T[0]


@jax.enable_x64(False)  # A kernel counts in int32, whatever the program around it.
def _call(
  kernel: Callable,
  weights: ExpertWeights,
  sizes_E: jax.Array,
  rows: Rows,
  narrow: int,
  expected_rows: int | None,
) -> tuple[Rows, ExpertWeights | None]:
  """Runs a kernel over (visits) x (chunks of the hidden width).

  Args:
    kernel: `kernels.forward` or `kernels.backward`.
    weights: of E experts.
    sizes_E: rows per expert.
    rows: arrays (T, M), and (1, T) of one number per row.
    narrow: how many results (1, T) it has, beside one (T, M).
    expected_rows: that belong to an expert; the others are not multiplied. None: T.

  Returns:
    The results per row, and the gradients of the backward pass.
  """
  (T, M), dtype = rows.wide[0].shape, rows.wide[0].dtype
  backward = kernel is kernels.backward
  cut = cut_expert(weights, dtype, backward)
  if cut is None:
    raise ValueError(
      f"an expert must fit into {vmem_bytes()} bytes of VMEM, "
      f"got M={M}, F={weights.w_in_EMF.shape[2]}, {dtype}."
    )
  visits = plan_visits(sizes_E, T, cut.tile)
  parts, folded = layout.lay_out(weights, cut), sub_ln.fold(weights)

  shape = jax.ShapeDtypeStruct
  wide = pl.BlockSpec((cut.tile, M), lambda i, c, v: (v.tile_V[i], 0))
  thin = pl.BlockSpec((1, cut.tile), lambda i, c, v: (0, v.tile_V[i]))
  part = layout.weight_specs(parts, cut)
  row = pl.BlockSpec((None, 1, M), lambda i, c, v: (v.expert_V[i], 0, 0))
  out_shape = [Rows([shape((T, M), dtype)], [shape((1, T), jnp.float32)] * narrow)]
  out_specs = [Rows([wide], [thin] * narrow)]
  # Sums over the chunks of a visit, results and moments; and over the visits of an
  # expert, gradients.
  scratch = [None, None]
  if cut.chunks > 1:
    scratch[0] = pltpu.VMEM((cut.tile, M), jnp.float32)
  if backward:
    out_shape.append(jax.tree.map(lambda w: shape(w.shape, w.dtype), parts))
    out_specs.append(part)
    scratch[1] = jax.tree.map(
      lambda spec: pltpu.VMEM(
        (cut.chunks, *(n for n in spec.block_shape if n)), jnp.float32
      ),
      part,
    )
  elif folded and cut.chunks > 1:
    scratch[1] = pltpu.VMEM((cut.tile, LANES), jnp.float32)

  call = functools.partial(
    pl.pallas_call,
    functools.partial(kernel, cut=cut),
    out_shape=out_shape,
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=1,
      grid=(visits.tile_V.size, cut.chunks),
      in_specs=[
        Rows([wide] * len(rows.wide), [thin] * len(rows.narrow)),
        part,
        jax.tree.map(lambda _: row, folded),
      ],
      out_specs=out_specs,
      scratch_shapes=scratch,
    ),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("arbitrary", "arbitrary"),
      vmem_limit_bytes=vmem_bytes(),
    ),
    cost_estimate=_cost(cut, parts, rows, out_shape, visits, expected_rows),
  )
  args = visits, rows, parts, folded
  out, *dparts = jax.lax.platform_dependent(
    *args, tpu=call(), default=call(interpret=True)
  )
  return out, layout.take_back(dparts[0], weights) if backward else None


def _cost(
  cut: Cut, parts: ExpertWeights, rows: Rows, out_shape, visits, expected_rows
) -> pl.CostEstimate:
  """What the kernel does when the load is even, for the compiler."""
  out, *dparts = out_shape
  T, M = rows.wide[0].shape
  E = parts.w_in_EMF.shape[0]
  expected_rows = T if expected_rows is None else expected_rows
  matrices = 2 if parts.w_gate_EMF is None else 3
  products = 3 * matrices - 1 if dparts else matrices
  # On average, half of what the alignment and the last piece of a visit can waste.
  wasted = visits.tile_V.size * (ALIGNMENT + SMALL) // 2
  # An expert is moved once if it is held whole, else with every tile that has its rows.
  moved = 1 if cut.chunks == 1 else (-(-expected_rows // cut.tile) + E) / E

  def count_bytes(arrays):
    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(arrays))

  width = cut.chunks * cut.width
  return pl.CostEstimate(
    flops=2 * (expected_rows + wasted) * M * width * products,
    transcendentals=expected_rows * width,
    bytes_accessed=count_bytes((rows, out)) + int(moved * count_bytes((parts, dparts))),
  )
