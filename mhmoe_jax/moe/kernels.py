"""The bodies of the fused kernel: what it does in one chunk of one visit.

Results of a row are added up over the chunks in fast memory, gradients of weights over
the visits of their expert. `fused` says what the arrays are.
"""

import functools
from typing import NamedTuple

import jax
from jax.experimental import pallas as pl
import jax.numpy as jnp

from mhmoe_jax.moe import sub_ln
from mhmoe_jax.moe.ffn import (
  expert_ffn_float32,
  expert_ffn_gradients,
  hidden_float32,
)
from mhmoe_jax.moe.tiles import Visits, add_column, column, for_rows
from mhmoe_jax.moe.vmem import Cut


class Rows(NamedTuple):
  """Refs of a tile, the same for all chunks."""

  wide: list  # (tile, M)
  narrow: list  # (1, tile), float32


def forward(visits, rows: Rows, weights, folded, out: Rows, total, moments, *, cut):
  """Scaled results; of a norm, also each row's mean and 1 / standard deviation."""
  step, chunk = pl.program_id(0), pl.program_id(1)
  (x_ref,), (scale_ref,), (y_ref,) = rows.wide, rows.narrow, out.wide
  _clear_new_tile(visits, step, chunk, out)

  def body(place, size, mask_R1):
    w = _read(weights)
    here = pl.ds(place, size)
    scale_R1 = column(scale_ref, place, size)

    def put(y_RM):
      y_RM = (y_RM * scale_R1).astype(y_ref.dtype)
      y_ref[here, :] = jnp.where(mask_R1, y_RM, y_ref[here, :])

    def add(ref, at, more):
      return _add_chunk(ref, at, mask_R1, more, chunk, cut)

    if folded is None:
      y_RM = add(total, (here, slice(None)), expert_ffn_float32(w, x_ref[here, :]))
      pl.when(chunk == cut.chunks - 1)(lambda: put(y_RM))
      return

    plain = w._replace(norm_scale_EF=None, norm_bias_EF=None)
    h_RF = hidden_float32(plain, x_ref[here, :])
    shift_R1 = jnp.zeros((size, 1))
    if sub_ln.is_centred(w):
      mean_R1 = h_RF.mean(axis=1, keepdims=True)
      shift_R1 = jnp.where(chunk == 0, mean_R1, 0)
      shift_R1 = add(moments, (here, slice(0, 1)), shift_R1)
    h_RF = _real(h_RF - shift_R1, chunk, cut)
    sum_R1, squares_R1 = (
      add(moments, (here, slice(i, i + 1)), a_RF.sum(axis=1, keepdims=True))
      for i, a_RF in ((1, h_RF), (2, h_RF * h_RF))
    )
    h_RF = (h_RF * w.norm_scale_EF).astype(x_ref.dtype)
    product_RM = jnp.dot(h_RF, w.w_out_EFM, preferred_element_type=jnp.float32)
    product_RM = add(total, (here, slice(None)), product_RM)

    @pl.when(chunk == cut.chunks - 1)
    def _():
      off_R1 = sum_R1 / cut.hidden
      if not sub_ln.is_centred(w):
        off_R1 = jnp.zeros_like(off_R1)
      variance_R1 = squares_R1 / cut.hidden - off_R1 * off_R1
      rstd_R1 = jax.lax.rsqrt(variance_R1 + w.formula.norm_epsilon)
      product = product_RM - off_R1 * folded.scale_E1M[...]
      put(product * rstd_R1 + folded.bias_E1M[...])
      for ref, stat_R1 in zip(out.narrow, (shift_R1 + off_R1, rstd_R1), strict=True):
        add_column(ref, place, jnp.where(mask_R1, stat_R1, 0))

  for_rows(visits, step, cut.tile, body)


def backward(
  visits, rows: Rows, weights, folded, out: Rows, dweights, total, sums, *, cut
):
  """Gradients of rows, their scales, and weights."""
  step, chunk = pl.program_id(0), pl.program_id(1)
  expert = visits.expert_V[step]
  (dx_ref,), (dscale_ref,) = out.wide, out.narrow
  _clear_new_tile(visits, step, chunk, out)
  sums = jax.tree.map(lambda ref: ref.at[chunk], sums)

  @pl.when((step == 0) | (expert != visits.expert_V[step - 1]))
  def _():
    for sum_ref in jax.tree.leaves(sums):
      sum_ref[...] = jnp.zeros_like(sum_ref)

  def body(place, size, mask_R1):
    here, w = pl.ds(place, size), _read(weights)
    # Other experts' rows do not count, and what is past the last row may be anything.
    x_RM, dy_RM, *y_RM = (
      jnp.where(mask_R1, ref[here, :], jnp.zeros((), ref.dtype)) for ref in rows.wide
    )
    scale_R1, *stats = (
      jnp.where(mask_R1, column(ref, place, size), 0) for ref in rows.narrow
    )
    activated = None
    if folded is not None:
      behind = _read(folded)
      known = sub_ln.know(w, behind, cut.hidden, stats, *y_RM, dy_RM, scale_R1)
      activated = functools.partial(sub_ln.activate_known, known)
    dw, dx_RM, dscale_R1 = expert_ffn_gradients(w, x_RM, scale_R1, dy_RM, activated)
    for sum_ref, more in zip(jax.tree.leaves(sums), jax.tree.leaves(dw), strict=True):
      sum_ref[...] += more
    add_column(dscale_ref, place, jnp.where(mask_R1, dscale_R1, 0))
    dx_RM = _add_chunk(total, (here, slice(None)), mask_R1, dx_RM, chunk, cut)

    @pl.when(chunk == cut.chunks - 1)
    def _():
      dx_ref[here, :] = jnp.where(mask_R1, dx_RM.astype(dx_ref.dtype), dx_ref[here, :])

  for_rows(visits, step, cut.tile, body)

  # Of every visit; the expert's last one writes what stays.
  @pl.when(visits.walks_V[step] == 1)
  def _():
    for ref, sum_ref in zip(
      jax.tree.leaves(dweights), jax.tree.leaves(sums), strict=True
    ):
      ref[...] = sum_ref[...].astype(ref.dtype)


def _clear_new_tile(visits: Visits, step, chunk, out: Rows) -> None:
  new = (step == 0) | (visits.tile_V[step] != visits.tile_V[step - 1])

  @pl.when(new & (chunk == 0))
  def _():
    for ref in (*out.wide, *out.narrow):
      ref[...] = jnp.zeros_like(ref)


def _read(refs):
  return jax.tree.map(lambda ref: ref[...], refs)


def _add_chunk(ref, at, mask_R1, more: jax.Array, chunk, cut: Cut) -> jax.Array:
  """The sum over the chunks so far. Rows that are not of the visit stay as they are."""
  if cut.chunks == 1:
    return more
  total = jnp.where(chunk == 0, 0, ref[at]) + more
  ref[at] = jnp.where(mask_R1, total, ref[at])
  return total


def _real(h_RF: jax.Array, chunk, cut: Cut) -> jax.Array:
  """With zeros in the columns past the hidden width."""
  if cut.hidden == cut.width * cut.chunks:
    return h_RF
  column_RF = jax.lax.broadcasted_iota(jnp.int32, h_RF.shape, 1) + chunk * cut.width
  return jnp.where(column_RF < cut.hidden, h_RF, 0)
