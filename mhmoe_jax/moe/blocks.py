"""The grouped expert FFN as a loop over experts, and over pieces of each one's rows.

Its work is that of the rows and hardly grows with the number of experts; its backward
pass recomputes the hidden activations. What an expert needs again and again, its
weights and their gradients, is taken out of the stacks once, so that it stays in cache.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mhmoe_jax.moe.ffn import ExpertWeights, expert_ffn, expert_ffn_gradients


def _piece_sizes(num_rows: int, num_experts: int) -> tuple[int, int]:
  """Rows of a large piece and of the small ones that an expert's last rows are cut in.

  Every product costs as much as some seven rows more, and the last piece wastes half of
  its rows: large ones for the bulk, and small ones, still fast, for the rest. Where an
  expert has a few rows at all, as in decoding, most of a piece of 16 would be waste.
  """
  least = 16 if num_rows >= 8 * num_experts else 4
  large = max(least, min(256, 1 << (num_rows // num_experts // 2).bit_length()))
  return large, max(least, large // 4)


def _for_experts(sizes_E: jax.Array, body: Callable, carry):
  """Runs `body(expert, carry)` over the experts that have rows, in their order."""
  busy_E = sizes_E > 0
  order_E = jnp.argsort(~busy_E, stable=True)
  return jax.lax.fori_loop(
    0, busy_E.sum(), lambda i, carry: body(order_E[i], carry), carry
  )


def _in_pieces(start, stop, sizes: tuple[int, int], body: Callable, carry):
  """Runs `body(start of a piece, its size, carry)` over the rows of one expert."""
  large, small = sizes
  num_large = (stop - start) // large
  rest = start + num_large * large

  def run(first, size, count, carry):
    return jax.lax.fori_loop(
      0, count, lambda i, carry: body(first + i * size, size, carry), carry
    )

  carry = run(start, large, num_large, carry)
  if small < large:
    return run(rest, small, -(-(stop - rest) // small), carry)
  return run(rest, large, (stop > rest).astype(jnp.int32), carry)


def forward(
  weights: ExpertWeights, x_TM: jax.Array, scale_T: jax.Array, sizes_E: jax.Array
) -> jax.Array:
  """`grouped.grouped_ffn`."""
  sizes = _piece_sizes(x_TM.shape[0], sizes_E.shape[0])
  x_pad, scale_pad = _pad(x_TM, sizes[0]), _pad(scale_T[:, None], sizes[0])
  stop_E = jnp.cumsum(sizes_E)

  # A piece's last rows may belong to the next expert. They are written as zeros, and
  # the next expert, which comes later, writes them again.
  def expert(e, y_pad):
    one = _take(weights, e)

    def piece(start, size, y_pad):
      y_RM = expert_ffn(one, _slice(x_pad, start, size))
      y_RM *= _slice(scale_pad, start, size).astype(y_RM.dtype)
      return _put(y_pad, _keep(y_RM, start, stop_E[e]), start)

    return _in_pieces(stop_E[e] - sizes_E[e], stop_E[e], sizes, piece, y_pad)

  y_pad = _for_experts(sizes_E, expert, jnp.zeros_like(x_pad))
  return y_pad[: x_TM.shape[0]]


def backward(
  weights: ExpertWeights,
  x_TM: jax.Array,
  scale_T: jax.Array,
  sizes_E: jax.Array,
  dy_TM: jax.Array,
) -> tuple[ExpertWeights, jax.Array, jax.Array]:
  """Gradients of the weights, the rows and their scales."""
  T = x_TM.shape[0]
  sizes = _piece_sizes(T, sizes_E.shape[0])
  x_pad, dy_pad, scale_pad = (
    _pad(a, sizes[0]) for a in (x_TM, dy_TM, scale_T[:, None])
  )
  stop_E = jnp.cumsum(sizes_E)

  def expert(e, carry):
    dx_pad, dscale_pad, dweights = carry
    one = _take(weights, e)

    # Not even multiplied by zero: the next expert's rows may overflow in this one.
    def piece(start, size, carry):
      dx_pad, dscale_pad, sums = carry
      rows = (
        _keep(_slice(a, start, size), start, stop_E[e])
        for a in (x_pad, scale_pad, dy_pad)
      )
      dw, dx_RM, dscale_R1 = expert_ffn_gradients(one, *rows)
      return (
        _put(dx_pad, dx_RM, start),
        _put(dscale_pad, dscale_R1, start),
        jax.tree.map(_add, sums, dw),
      )

    sums = jax.tree.map(lambda w: jnp.zeros_like(w, jnp.float32), one)
    start = stop_E[e] - sizes_E[e]
    dx_pad, dscale_pad, sums = _in_pieces(
      start, stop_E[e], sizes, piece, (dx_pad, dscale_pad, sums)
    )

    def put(stack, one):
      return jax.lax.dynamic_update_index_in_dim(stack, one.astype(stack.dtype), e, 0)

    return dx_pad, dscale_pad, jax.tree.map(put, dweights, sums)

  zeros = jax.tree.map(jnp.zeros_like, (x_pad, scale_pad, weights))
  dx_pad, dscale_pad, dweights = _for_experts(sizes_E, expert, zeros)
  return dweights, dx_pad[:T], dscale_pad[:T, 0]


def _add(total: jax.Array, d: jax.Array) -> jax.Array:
  return total + d.reshape(total.shape).astype(total.dtype)


def _pad(rows_TM: jax.Array, size: int) -> jax.Array:
  return jnp.pad(rows_TM, ((0, size), (0, 0)))


def _slice(rows_TM: jax.Array, start: jax.Array, size: int) -> jax.Array:
  return jax.lax.dynamic_slice_in_dim(rows_TM, start, size)


def _put(rows_TM: jax.Array, rows_RM: jax.Array, start: jax.Array) -> jax.Array:
  rows_RM = rows_RM.astype(rows_TM.dtype)
  return jax.lax.dynamic_update_slice_in_dim(rows_TM, rows_RM, start, axis=0)


def _take(weights: ExpertWeights, expert: jax.Array) -> ExpertWeights:
  def take(w):
    return jax.lax.dynamic_index_in_dim(w, expert, keepdims=False)

  return jax.tree.map(take, weights)


def _keep(rows_RM: jax.Array, start: jax.Array, stop: jax.Array) -> jax.Array:
  inside_R = start + jnp.arange(rows_RM.shape[0]) < stop
  return jnp.where(inside_R[:, None], rows_RM, 0)
