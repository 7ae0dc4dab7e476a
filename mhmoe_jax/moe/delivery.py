"""What a device does with sub-tokens for its own experts, and what it tells of it."""

from typing import NamedTuple

import jax

from mhmoe_jax.moe import dispatch
from mhmoe_jax.moe.dropout import drop
from mhmoe_jax.moe.ffn import ExpertWeights
from mhmoe_jax.moe.grouped import grouped_ffn


class Delivery(NamedTuple):
  """What became of the choices of real sub-tokens; the counts are over the whole mesh.

  Nothing reads `kept_GSK` in training, and XLA leaves it out there.
  """

  sent: jax.Array  # int32, counted where they start: those that found a slot
  served: jax.Array  # int32, where they arrive: rows that experts computed on
  kept_GSK: jax.Array  # bool, which of them were sent; False on padding
  rounds: jax.Array | int = 1  # int32, in which they were sent


def deliver_here(
  x_GSM: jax.Array,
  experts_GSK: jax.Array,
  weights_GSK: jax.Array,
  seeds_GSK: jax.Array | None,
  weights: ExpertWeights,
  *,
  backend: str,
  dropout: float,
  expected: int | None = None,
) -> tuple[jax.Array, Delivery]:
  """Sub-tokens through experts that are all here, weighted and summed.

  Args:
    x_GSM: sub-tokens.
    experts_GSK: their experts; past the last of `weights` are those of others.
    weights_GSK: float32, the router's weights.
    seeds_GSK: see `dropout.draw_seeds`.
    weights: of the experts.
    backend: see `grouped.grouped_ffn`.
    dropout: rate of each expert's output, if there are seeds.
    expected: choices of experts here when the load is even, all by default.
  """
  G, S, M = x_GSM.shape
  E, K = weights.w_in_EMF.shape[0], experts_GSK.shape[-1]
  rows = dispatch.sort_by_expert(experts_GSK.reshape(G * S, K), E)
  x_TM = dispatch.to_rows(x_GSM.reshape(G * S, M), rows)
  scale_T = dispatch.weights_to_rows(weights_GSK.reshape(G * S, K), rows)
  y_TM = grouped_ffn(weights, x_TM, scale_T, rows.sizes_E, backend, expected)
  if seeds_GSK is not None:
    y_TM = drop(y_TM, dispatch.seeds_to_rows(seeds_GSK, rows), dropout)
  y_SM = dispatch.from_rows(y_TM, rows)
  kept_GSK = experts_GSK < E
  delivery = Delivery(kept_GSK.sum(), rows.sizes_E.sum(), kept_GSK)
  return y_SM.reshape(G, S, M), delivery
