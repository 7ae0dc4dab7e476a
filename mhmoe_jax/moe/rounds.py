"""Rows to the experts of other devices in rounds, as many as it takes.

Choices are sorted by expert. In a round every device sends every other one the next
`num_rows` of those that it has for it, and gets their results back; rounds go on until
nobody has any left. No array grows with the load, and nothing is dropped: an even load
takes one round, which moves and computes what an all-to-all with slots does, and all
choices on one device take as many rounds as they fill.

The backward pass is the same rounds again. What arrived in the last one, which for an
even load is the only one, is kept for it; other rows are sent once more.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mhmoe_jax.moe import dispatch
from mhmoe_jax.moe.delivery import Delivery, deliver_here
from mhmoe_jax.moe.ffn import ExpertWeights
from mhmoe_jax.moe.once import once
from mhmoe_jax.sharding import BATCH_AXES


class Timetable(NamedTuple):
  """When every choice leaves, from where, and what goes with it."""

  order_T: jax.Array  # int32, the choice k * S + s of each row, sorted by expert
  first_D: jax.Array  # int32, row that is the first for each device
  sizes_D: jax.Array  # int32, rows for each device
  round_KS: jax.Array  # int32, of each choice; -1 on padding, which stays at home
  slot_KS: jax.Array  # int32, its place d * R + r among the rows of its round
  count: jax.Array  # int32, rounds, the same on all devices
  expert_T: jax.Array  # int32, of each choice, by its number on the device that has it
  seed_T: jax.Array | None  # uint32, of each choice

  def leaving(self, turn: jax.Array, num_rows: int) -> tuple[jax.Array, jax.Array]:
    """The choices (D, R) that leave in a round, and which of them are none."""
    nth_1R = turn * num_rows + jnp.arange(num_rows)[None]
    row_DR = jnp.minimum(self.first_D[:, None] + nth_1R, self.order_T.size - 1)
    return self.order_T[row_DR], nth_1R >= self.sizes_D[:, None]

  def arrive(self, turn: jax.Array, rows_DRX: jax.Array, home_KSX: jax.Array):
    """Puts what came back in a round in the places of its choices, (K, S, ...)."""
    rows_TX = rows_DRX.reshape(-1, *rows_DRX.shape[2:])
    here_KS1 = jnp.expand_dims(self.round_KS == turn, tuple(range(2, home_KSX.ndim)))
    return jnp.where(here_KS1, rows_TX[self.slot_KS], home_KSX)


def make_timetable(
  experts_SK: jax.Array, seeds_SK: jax.Array | None, num_local: int, num_rows: int
) -> Timetable:
  """Inside a `jax.shard_map`; `num_local` experts are on each device of `expert`."""
  devices, experts_KS = jax.lax.axis_size("expert"), experts_SK.T
  rows = dispatch.sort_by_expert(experts_SK, devices * num_local)
  sizes_D = rows.sizes_E.reshape(devices, num_local).sum(axis=1)
  first_D = jnp.cumsum(sizes_D) - sizes_D
  device_KS = jnp.minimum(experts_KS // num_local, devices - 1)
  nth_KS = rows.row_KS - first_D[device_KS]
  return Timetable(
    order_T=rows.order_T,
    first_D=first_D,
    sizes_D=sizes_D,
    round_KS=jnp.where(experts_KS < devices * num_local, nth_KS // num_rows, -1),
    slot_KS=device_KS * num_rows + nth_KS % num_rows,
    # Not only among those that share experts: nobody shall be in another's collective.
    count=jax.lax.pmax(-(-sizes_D.max() // num_rows), BATCH_AXES),
    expert_T=experts_KS.reshape(-1) % num_local,
    seed_T=None if seeds_SK is None else seeds_SK.T.reshape(-1),
  )


def deliver_in_rounds(
  x_GSM: jax.Array,
  experts_GSK: jax.Array,
  weights_GSK: jax.Array,
  seeds_GSK: jax.Array | None,
  weights: ExpertWeights,
  *,
  factor: float,
  backend: str,
  dropout: float,
) -> tuple[jax.Array, Delivery]:
  """As `deliver_here`, but experts are on all devices of the axis `expert`.

  Args:
    x_GSM: sub-tokens of this device.
    experts_GSK: of all devices; past the last on padding.
    weights_GSK: float32, the router's weights.
    seeds_GSK: see `dropout.draw_seeds`.
    weights: of this device's experts.
    factor: rows that a device sends another in a round, over an even share.
    backend: see `grouped.grouped_ffn`.
    dropout: rate of each expert's output, if there are seeds.
  """
  K, M = experts_GSK.shape[-1], x_GSM.shape[-1]
  devices, num_local = jax.lax.axis_size("expert"), weights.w_in_EMF.shape[0]
  num_rows = dispatch.even_share(experts_GSK.size, devices, factor)
  serve = functools.partial(
    deliver_here, backend=backend, dropout=dropout, expected=experts_GSK.size
  )
  swap = functools.partial(
    jax.lax.all_to_all, axis_name="expert", split_axis=0, concat_axis=0
  )

  def send(turn, x_SM, scale_T, table):
    """Rows from everyone for the experts here, their experts, weights and seeds."""
    choice_DR, none_DR = table.leaving(turn, num_rows)
    expert_DR = jnp.where(none_DR, num_local, table.expert_T[choice_DR])
    seed_DR = None if table.seed_T is None else table.seed_T[choice_DR]
    with_each = jax.tree.map(
      lambda a_DR: a_DR[..., None], (expert_DR, scale_T[choice_DR], seed_DR)
    )
    return swap((x_SM[choice_DR % len(x_SM)], *with_each))

  def forward(x_SM, scale_T, weights, table):
    def one_round(turn, carry):
      y_KSM, served, _ = carry
      arrived = send(turn, x_SM, scale_T, table)
      y_DRM, delivery = serve(*arrived, weights)
      y_KSM = table.arrive(turn, swap(y_DRM), y_KSM)
      return y_KSM, served + delivery.served, arrived

    start = (
      jnp.zeros((*table.round_KS.shape, M), x_SM.dtype),
      jnp.int32(0),
      jax.tree.map(jnp.zeros_like, jax.eval_shape(send, 0, x_SM, scale_T, table)),
    )
    y_KSM, served, last = jax.lax.fori_loop(0, table.count, one_round, start)
    return (dispatch.sum_choices(y_KSM), served), (x_SM, scale_T, weights, table, last)

  def backward(kept, gradients):
    x_SM, scale_T, weights, table, last = kept
    dy_SM, _ = gradients

    def one_round(turn, carry):
      dx_KSM, dscale_KS, dweights = carry
      x_DRM, expert_DR1, scale_DR1, seed_DR1 = jax.lax.cond(
        turn == table.count - 1,
        lambda: last,
        lambda: send(turn, x_SM, scale_T, table),
      )
      choice_DR, _ = table.leaving(turn, num_rows)
      dy_DRM = swap(dy_SM[choice_DR % len(dy_SM)])

      def again(x_DRM, scale_DR1, weights):
        return serve(x_DRM, expert_DR1, scale_DR1, seed_DR1, weights)[0]

      _, vjp = jax.vjp(again, x_DRM, scale_DR1, weights)
      dx_DRM, dscale_DR1, more = vjp(dy_DRM)
      dx_DRM, dscale_DR1 = swap((dx_DRM, dscale_DR1))
      return (
        table.arrive(turn, dx_DRM, dx_KSM),
        table.arrive(turn, dscale_DR1[..., 0], dscale_KS),
        jax.tree.map(jnp.add, dweights, more),
      )

    start = (
      jnp.zeros((*table.round_KS.shape, M), x_SM.dtype),
      jnp.zeros(table.round_KS.shape, scale_T.dtype),
      jax.tree.map(lambda w: jnp.zeros_like(w, jnp.float32), weights),
    )
    dx_KSM, dscale_KS, dweights = jax.lax.fori_loop(0, table.count, one_round, start)
    dweights = jax.tree.map(lambda d, w: d.astype(w.dtype), dweights, weights)
    return dispatch.sum_choices(dx_KSM), dscale_KS.reshape(-1), dweights, None

  run = jax.custom_vjp(lambda *inputs: forward(*inputs)[0])
  run.defvjp(once(forward), once(backward))

  seeds_SK = None if seeds_GSK is None else seeds_GSK.reshape(-1, K)
  table = make_timetable(experts_GSK.reshape(-1, K), seeds_SK, num_local, num_rows)
  scale_T = weights_GSK.reshape(-1, K).T.reshape(-1)
  y_SM, served = run(x_GSM.reshape(-1, M), scale_T, weights, table)
  kept_GSK = experts_GSK < devices * num_local
  delivery = Delivery(kept_GSK.sum(), served, kept_GSK, table.count)
  return y_SM.reshape(x_GSM.shape), delivery
