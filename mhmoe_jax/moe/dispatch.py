"""Moving sub-tokens to their experts and back; two ways with one meaning.

* The capacity einsum of GShard (2006.16668) is the definition: one-hot masks, every
  expert has C slots in each of G groups, what finds no slot is dropped and adds zero.
* Sorting by expert drops nothing, needs no masks, and is the default. Its rows go to
  `grouped.grouped_ffn`.

Slots are given position-major: all choices of a sub-token come before those of the
next. With the customary order, all first choices before all second ones, a later token
could push an earlier one out of its slot, and a causal model would see the future.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mhmoe_jax.moe.routing import Routing


class Slots(NamedTuple):
  """A place among the C slots of an expert for every choice that found one."""

  mask_GSEC: jax.Array  # bool
  combine_GSEC: jax.Array  # float32, the mask times the router's weights
  kept_GSK: jax.Array  # bool, False for the dropped (and for padding)


def expert_capacity(
  num_subtokens: int, num_experts: int, top_k: int, capacity_factor: float
) -> int:
  """Slots per expert and group: the even share times `capacity_factor`, rounded up.

  Never more than `num_subtokens`, which drops nothing.
  """
  if capacity_factor <= 0:
    raise ValueError(
      f"capacity_factor must be positive, got capacity_factor={capacity_factor}."
    )
  share = num_subtokens * top_k / num_experts
  return min(math.ceil(share * capacity_factor), num_subtokens)


def assign_slots(routing: Routing, capacity: int) -> Slots:
  """Gives out slots position-major inside each group; memory O(G * S * E * C)."""
  E = routing.probs_GSE.shape[-1]
  choice_GSKE = jax.nn.one_hot(routing.experts_GSK, E, dtype=jnp.int32)
  choice_GSE = choice_GSKE.sum(axis=2)  # an expert is chosen at most once
  slot_GSE = jnp.cumsum(choice_GSE, axis=1) - choice_GSE
  taken_GSE = (choice_GSE > 0) & (slot_GSE < capacity)
  mask_GSEC = jax.nn.one_hot(slot_GSE, capacity, dtype=bool) & taken_GSE[..., None]
  weight_GSE = jnp.einsum("GSK,GSKE->GSE", routing.weights_GSK, choice_GSKE)
  return Slots(
    mask_GSEC=mask_GSEC,
    combine_GSEC=weight_GSE[..., None] * mask_GSEC,
    kept_GSK=(choice_GSKE * taken_GSE[:, :, None, :]).any(axis=-1),
  )


def to_experts(x_GSM: jax.Array, slots: Slots) -> jax.Array:
  """Sub-tokens to slots, (E, G, C, M); empty slots are zero."""
  return jnp.einsum("GSEC,GSM->EGCM", slots.mask_GSEC.astype(x_GSM.dtype), x_GSM)


def from_experts(y_EGCM: jax.Array, slots: Slots) -> jax.Array:
  """Weighted sum of the experts' outputs for every sub-token, (G, S, M)."""
  y_GSM = jnp.einsum(
    "GSEC,EGCM->GSM",
    slots.combine_GSEC,
    y_EGCM,
    preferred_element_type=jnp.float32,
  )
  return y_GSM.astype(y_EGCM.dtype)


class SortedRows(NamedTuple):
  """The S * K choices of a flat list of sub-tokens, in order of their expert."""

  order_T: jax.Array  # int32, the choice s * K + k that each row holds, T = S * K
  row_SK: jax.Array  # int32, the row that holds each choice: the inverse of order_T
  sizes_E: jax.Array  # int32, rows per expert; rows past their sum serve nobody


def sort_by_expert(experts_SK: jax.Array, num_experts: int) -> SortedRows:
  """Sorts choices by expert, stably; experts >= `num_experts` go to the end."""
  T = experts_SK.size
  if (num_experts + 1) * T >= 2**32:
    raise ValueError(
      f"(num_experts + 1) * rows must be below 2**32, got num_experts={num_experts}, "
      f"rows={T}."
    )
  # One sort of one integer per row, its expert and its number packed together, takes a
  # third of the time of a stable argsort.
  number_T = jnp.arange(T, dtype=jnp.uint32)
  experts_T = jnp.minimum(experts_SK.reshape(-1), num_experts).astype(jnp.uint32)
  packed_T = jnp.sort(experts_T * T + number_T)
  order_T = (packed_T % T).astype(jnp.int32)
  row_T = (
    jnp.zeros(T, jnp.int32)
    .at[order_T]
    .set(number_T.astype(jnp.int32), unique_indices=True)
  )
  bounds = jnp.searchsorted(packed_T, jnp.arange(num_experts + 1, dtype=jnp.uint32) * T)
  return SortedRows(
    order_T=order_T,
    row_SK=row_T.reshape(experts_SK.shape),
    sizes_E=jnp.diff(bounds).astype(jnp.int32),
  )


def to_rows(x_SM: jax.Array, rows: SortedRows) -> jax.Array:
  """Copies sub-tokens to the rows of their choices, (T, M)."""
  return x_SM[rows.order_T // rows.row_SK.shape[1]]


def from_rows(y_TM: jax.Array, rows: SortedRows, weights_SK: jax.Array) -> jax.Array:
  """Weighted sum of a sub-token's rows, accumulated in float32, (S, M)."""
  y_SKM = y_TM[rows.row_SK]
  y_SM = jnp.einsum("SKM,SK->SM", y_SKM, weights_SK, preferred_element_type=jnp.float32)
  return y_SM.astype(y_TM.dtype)
