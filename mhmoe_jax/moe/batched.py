"""The grouped expert FFN as a few large batched products, for a GPU.

There the host waits for the device before every turn of a loop whose number of turns
depends on the data, and small products fill a few of its cores. So the first rows of
all experts, 1.25 times the even share of each, are one batched product, with the
weights where they are. Rows past them are cut into pieces of one expert each, and some
pieces at a time are multiplied with weights gathered for them, in a loop until none is
left: an even load takes no turn, and the worst as many as its rows need.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mhmoe_jax.moe.dispatch import even_share
from mhmoe_jax.moe.ffn import ExpertWeights, expert_ffn, expert_ffn_gradients

TILE = 16  # rows of a product are a multiple of it: what a tensor core multiplies


class Shares(NamedTuple):
  """How rows are divided into batches."""

  first: int  # rows of every expert in the first batch
  piece: int  # rows of a piece of the rest
  at_once: int  # pieces of a batch
  one_batch: bool  # whether that is all of them, whatever the load


def make_shares(num_rows: int, num_experts: int, expected_rows: int) -> Shares:
  """Of few rows, as in decoding, all are pieces: other experts' weights stay unread.

  Gathered weights are read, written and read again, all experts' in place read once.
  """
  first = 0
  if 3 * expected_rows >= num_experts:
    first = _round_up(even_share(expected_rows, num_experts, 1.25))
  piece = min(256, _round_up(expected_rows // num_experts))
  most = (num_rows + min(num_rows, num_experts) * (piece - 1)) // piece
  at_once = min(most, max(16, num_experts // 4))
  return Shares(first, piece, at_once, one_batch=not first and at_once == most)


def _round_up(rows: int) -> int:
  return max(1, -(-rows // TILE)) * TILE


def for_batches(
  weights: ExpertWeights,
  sizes_E: jax.Array,
  num_rows: int,
  shares: Shares,
  body: Callable,
  carry,
):
  """Runs `body(carry, weights_G, rows_GR, experts_G)` until it has had every row.

  The weights are those of the experts G, None being all in their order. Places of a
  batch without a row have the number `num_rows`.
  """
  E = sizes_E.shape[0]
  stop_E = jnp.cumsum(sizes_E)
  start_E = stop_E - sizes_E

  def rows_between(start_G, stop_G, size):
    rows_GR = start_G[:, None] + jnp.arange(size)[None]
    return jnp.where(rows_GR < stop_G[:, None], rows_GR, num_rows)

  if shares.first:
    stop_first_E = jnp.minimum(stop_E, start_E + shares.first)
    carry = body(
      carry, weights, rows_between(start_E, stop_first_E, shares.first), None
    )
    start_E = stop_first_E
  if shares.first >= num_rows:
    return carry
  pieces_E = -(-(stop_E - start_E) // shares.piece)
  ends_E = jnp.cumsum(pieces_E)

  def turn(i, carry):
    number_G = i * shares.at_once + jnp.arange(shares.at_once)
    expert_G = (ends_E[None] <= number_G[:, None]).sum(axis=1)
    expert_G = jnp.minimum(expert_G, E - 1)
    nth_G = number_G - (ends_E - pieces_E)[expert_G]
    start_G = start_E[expert_G] + nth_G * shares.piece
    rows_GR = rows_between(start_G, stop_E[expert_G], shares.piece)
    taken = jax.tree.map(lambda w: w[expert_G], weights)
    return body(carry, taken, rows_GR, expert_G)

  if shares.one_batch:
    return turn(0, carry)
  return jax.lax.fori_loop(0, -(-ends_E[-1] // shares.at_once), turn, carry)


@functools.partial(jax.jit, static_argnames="expected_rows")
def forward(
  weights: ExpertWeights,
  x_TM: jax.Array,
  scale_T: jax.Array,
  sizes_E: jax.Array,
  expected_rows: int | None = None,
) -> jax.Array:
  """`grouped.grouped_ffn`."""
  T, E = x_TM.shape[0], sizes_E.shape[0]
  shares = make_shares(T, E, expected_rows or T)

  def body(y_TM, some, rows_GR, _):
    y_GRM = jax.vmap(expert_ffn)(some, _take(x_TM, rows_GR))
    y_GRM *= _take(scale_T, rows_GR)[..., None].astype(y_GRM.dtype)
    return _put(y_TM, rows_GR, y_GRM)

  return for_batches(weights, sizes_E, T, shares, body, jnp.zeros_like(x_TM))


@functools.partial(jax.jit, static_argnames="expected_rows")
def backward(
  weights: ExpertWeights,
  x_TM: jax.Array,
  scale_T: jax.Array,
  sizes_E: jax.Array,
  dy_TM: jax.Array,
  expected_rows: int | None = None,
) -> tuple[ExpertWeights, jax.Array, jax.Array]:
  """Gradients of the weights, the rows and their scales."""
  T, E = x_TM.shape[0], sizes_E.shape[0]
  shares = make_shares(T, E, expected_rows or T)

  def body(carry, some, rows_GR, experts_G):
    sums, dx_TM, dscale_T = carry
    dw, dx_GRM, dscale_GR1 = jax.vmap(expert_ffn_gradients)(
      some,
      _take(x_TM, rows_GR),
      _take(scale_T, rows_GR)[..., None],
      _take(dy_TM, rows_GR),
    )
    dw = jax.tree.map(lambda d, w: d.reshape(w.shape), dw, some)
    return (
      _add(sums, dw, experts_G),
      _put(dx_TM, rows_GR, dx_GRM),
      _put(dscale_T, rows_GR, dscale_GR1[..., 0]),
    )

  sums = jax.tree.map(lambda w: jnp.zeros_like(w, jnp.float32), weights)
  carry = sums, jnp.zeros_like(x_TM), jnp.zeros_like(scale_T)
  sums, dx_TM, dscale_T = for_batches(weights, sizes_E, T, shares, body, carry)
  dweights = jax.tree.map(lambda d, w: d.astype(w.dtype), sums, weights)
  return dweights, dx_TM, dscale_T


def _take(rows_TX: jax.Array, rows_GR: jax.Array) -> jax.Array:
  return rows_TX.at[rows_GR].get(mode="fill", fill_value=0)


def _put(rows_TX: jax.Array, rows_GR: jax.Array, new_GRX: jax.Array) -> jax.Array:
  return rows_TX.at[rows_GR].set(new_GRX.astype(rows_TX.dtype), mode="drop")


def _add(sums: ExpertWeights, dw: ExpertWeights, experts_G) -> ExpertWeights:
  """One piece after the other: a scatter would add those of one expert in any order."""
  if experts_G is None:
    return jax.tree.map(jnp.add, sums, dw)

  def add(g, sums):
    return jax.tree.map(
      lambda s, d: s.at[experts_G[g]].add(d[g].astype(s.dtype)), sums, dw
    )

  return jax.lax.fori_loop(0, experts_G.shape[0], add, sums)
