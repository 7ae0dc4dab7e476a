"""Moving sub-tokens to their experts and back; three ways with one meaning.

* The capacity einsum of GShard (2006.16668) is the definition: one-hot masks, every
  expert has C slots in each of G groups, what finds no slot is dropped and adds zero.
* `sort_into_slots` finds the same slots by sorting, and fills them by gathering.
* Sorting by expert drops nothing, needs neither masks nor slots, and is the default.
  Its rows go to `grouped.grouped_ffn`.

Slots are given position-major: all choices of a sub-token come before those of the
next. With the customary order, all first choices before all second ones, a later token
could push an earlier one out of its slot, and a causal model would see the future.
The price: as many choices are dropped, but more first ones; at a capacity factor of 1,
9 to 16 % of them where google-research/vmoe drops 0 to 3 %. Slots are those of one
example here, in the authors' code those of all examples on a GPU.
"""

from fractions import Fraction
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mhmoe_jax.moe.config import check_number
from mhmoe_jax.moe.once import once
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

  Exact in the decimal digits of the factor, and never more than `num_subtokens`, which
  drops nothing.
  """
  for name, count in (
    ("num_subtokens", num_subtokens),
    ("num_experts", num_experts),
    ("top_k", top_k),
  ):
    check_number(name, count, least=1)
  factor = check_number("capacity_factor", capacity_factor, float)
  if factor <= 0:
    raise ValueError(
      f"capacity_factor must be positive, got capacity_factor={capacity_factor}."
    )
  return min(even_share(num_subtokens * top_k, num_experts, factor), num_subtokens)


def even_share(num_rows: int, parts: int, factor: float) -> int:
  """Of so many rows, times `factor`, rounded up; never more than there are."""
  # 1.05 is meant as 105 / 100, which no float is.
  return min(math.ceil(Fraction(num_rows, parts) * Fraction(str(factor))), num_rows)


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
  mask_GSEC = slots.mask_GSEC.astype(x_GSM.dtype)
  return _einsum_by_row("GSEC,GSM->EGCM", mask_GSEC, x_GSM)


def from_experts(y_EGCM: jax.Array, slots: Slots) -> jax.Array:
  """Weighted sum of the experts' outputs for every sub-token, (G, S, M)."""
  y_GSM = _einsum_by_row("GSEC,EGCM->GSM", slots.combine_GSEC, y_EGCM)
  return y_GSM.astype(y_EGCM.dtype)


def seeds_to_experts(seeds_GSK: jax.Array, routing: Routing, slots: Slots) -> jax.Array:
  """The seeds of the choices in the slots, see `dropout.draw_seeds`, (E, G, C)."""
  E, dtype = slots.mask_GSEC.shape[2], seeds_GSK.dtype
  choice_GSKE = jax.nn.one_hot(routing.experts_GSK, E, dtype=dtype)
  seed_GSE = (choice_GSKE * seeds_GSK[..., None]).sum(axis=2, dtype=dtype)
  seeds_GSEC = slots.mask_GSEC * seed_GSE[..., None]
  return seeds_GSEC.sum(axis=1, dtype=dtype).swapaxes(0, 1)


def _einsum_by_row(equation: str, places: jax.Array, rows: jax.Array) -> jax.Array:
  """An einsum with mostly zero `places`, to which a row's NaN or inf does not spread.

  0 * inf is NaN, so that one such row would spoil its whole group. Rows that have it
  count as zero, and what they belong to becomes NaN.
  """
  finite = jnp.isfinite(rows).all(axis=-1, keepdims=True)
  result = jnp.einsum(
    equation,
    places,
    jnp.where(finite, rows, 0),
    preferred_element_type=jnp.promote_types(places.dtype, rows.dtype),
  )
  taken = (places != 0).astype(jnp.float32)
  spoilt = jnp.einsum(equation, taken, (~finite).astype(jnp.float32)) > 0
  return jnp.where(spoilt, jnp.nan, result)


class SortedRows(NamedTuple):
  """The S * K choices of a flat list of sub-tokens, in order of their expert."""

  order_T: jax.Array  # int32, the choice k * S + s that each row holds, T = S * K
  row_KS: jax.Array  # int32, the row that holds each choice: the inverse of order_T
  sizes_E: jax.Array  # int32, rows per expert; rows past their sum serve nobody


def sort_by_expert(experts_SK: jax.Array, num_experts: int) -> SortedRows:
  """Sorts choices by expert, stably; experts >= `num_experts` go to the end."""
  T = experts_SK.size
  if not isinstance(T, int):
    raise ValueError(
      "dispatch must be 'capacity' or 'einsum' where a dimension has no fixed size, "
      f"got 'sorted' or 'rounds' and {T} rows."
    )
  if (num_experts + 1) * T >= 2**32:
    raise ValueError(
      f"(num_experts + 1) * rows must be below 2**32, got num_experts={num_experts}, "
      f"rows={T}."
    )
  # One sort of one integer per row, its expert and its number packed together, takes a
  # third of the time of a stable argsort.
  number_T = jnp.arange(T, dtype=jnp.uint32)
  experts_T = jnp.minimum(experts_SK.T.reshape(-1), num_experts).astype(jnp.uint32)
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
    row_KS=row_T.reshape(experts_SK.shape[::-1]),
    sizes_E=jnp.diff(bounds).astype(jnp.int32),
  )


# Each way's gradient is the other way: all are gathers. What JAX would derive scatters,
# which costs a TPU several times as much.


@jax.custom_vjp
def to_rows(x_SM: jax.Array, rows: SortedRows) -> jax.Array:
  """Copies sub-tokens to the rows of their choices, (T, M)."""
  return x_SM[rows.order_T % x_SM.shape[0]]


@jax.custom_vjp
def from_rows(y_TM: jax.Array, rows: SortedRows) -> jax.Array:
  """Sum of a sub-token's rows, accumulated in float32, (S, M)."""
  return sum_choices(jax.lax.optimization_barrier(y_TM[rows.row_KS]))


def sum_choices(y_KSM: jax.Array) -> jax.Array:
  """Sum of a sub-token's results, accumulated in float32, (S, M)."""
  # One by one: as a dimension of the sum, a small K would be padded on a TPU.
  y_SM = sum(y_KSM[k].astype(jnp.float32) for k in range(y_KSM.shape[0]))
  return y_SM.astype(y_KSM.dtype)


@jax.custom_vjp
def weights_to_rows(weights_SK: jax.Array, rows: SortedRows) -> jax.Array:
  """The router's weights of the rows' choices, (T,)."""
  return weights_SK.T.reshape(-1)[rows.order_T]


def seeds_to_rows(seeds_GSK: jax.Array, rows: SortedRows) -> jax.Array:
  """The seeds of the rows' choices, (T,)."""
  K = seeds_GSK.shape[-1]
  return seeds_GSK.reshape(-1, K).T.reshape(-1)[rows.order_T]


to_rows.defvjp(
  once(lambda x_SM, rows: (to_rows(x_SM, rows), rows)),
  once(lambda rows, dx_TM: (from_rows(dx_TM, rows), None)),
)
from_rows.defvjp(
  once(lambda y_TM, rows: (from_rows(y_TM, rows), rows)),
  once(lambda rows, dy_SM: (to_rows(dy_SM, rows), None)),
)
weights_to_rows.defvjp(
  once(lambda weights_SK, rows: (weights_to_rows(weights_SK, rows), rows)),
  once(lambda rows, d_T: (d_T[rows.row_KS].T, None)),
)


class SortedSlots(NamedTuple):
  """What `Slots` says, in index lists instead of masks.

  Slots are rows of their expert, R = G * C: on a TPU a C that is no multiple of 8 would
  be padded to one as a dimension of its own.
  """

  choice_ER: jax.Array  # int32, (g * S + s) * K + k in each slot; G * S * K if empty
  slot_GSK: jax.Array  # int32, (e * G + g) * C + c of each choice; E * G * C if dropped
  filled_EG: jax.Array  # int32, slots in use


def sort_into_slots(
  experts_GSK: jax.Array, num_experts: int, capacity: int
) -> SortedSlots:
  """Gives out slots as `assign_slots` does; memory O(G * (S * K + E * C))."""
  G, S, K = experts_GSK.shape
  E, C = num_experts, capacity

  def one_group(g, experts_SK):
    # Of a single sub-token's worth of choices each, so that they stay position-major.
    rows = sort_by_expert(experts_SK.reshape(S * K, 1), E)
    start_E = jnp.cumsum(rows.sizes_E) - rows.sizes_E
    nth_EC = jnp.arange(C)[None]
    row_EC = jnp.minimum(start_E[:, None] + nth_EC, S * K - 1)
    used_EC = nth_EC < rows.sizes_E[:, None]
    nth_SK = rows.row_KS.reshape(S, K) - jnp.take(start_E, experts_SK, mode="clip")
    kept_SK = (experts_SK < E) & (nth_SK < C)
    return SortedSlots(
      choice_ER=jnp.where(used_EC, g * S * K + rows.order_T[row_EC], G * S * K),
      slot_GSK=jnp.where(kept_SK, (experts_SK * G + g) * C + nth_SK, E * G * C),
      filled_EG=used_EC.sum(axis=-1),
    )

  axes = SortedSlots(choice_ER=1, slot_GSK=0, filled_EG=1)
  slots = jax.vmap(one_group, out_axes=axes)(jnp.arange(G), experts_GSK)
  return slots._replace(choice_ER=slots.choice_ER.reshape(E, G * C))


def to_slots(x_GSM: jax.Array, slots: SortedSlots) -> jax.Array:
  """As `to_experts`, but (E, R, M)."""
  source_ER = slots.choice_ER // slots.slot_GSK.shape[-1]
  return _take_or_zero(x_GSM.reshape(-1, x_GSM.shape[-1]), source_ER)


def from_slots(y_ERM: jax.Array, slots: SortedSlots) -> jax.Array:
  """As `from_experts`, of outputs that are weighted already."""
  y_TM = y_ERM.reshape(-1, y_ERM.shape[-1])
  slot_KGS = jnp.moveaxis(slots.slot_GSK, 2, 0)
  kept_KGS1 = (slot_KGS < y_TM.shape[0])[..., None]
  y_KGSM = jnp.where(kept_KGS1, y_TM.at[slot_KGS].get(mode="clip"), 0)
  return y_KGSM.sum(axis=0, dtype=jnp.float32).astype(y_ERM.dtype)


def choices_to_slots(of_GSK: jax.Array, slots: SortedSlots) -> jax.Array:
  """A number of each choice, such as its weight or its seed, in its slot, (E, R)."""
  return _take_or_zero(of_GSK.reshape(-1), slots.choice_ER)


def _take_or_zero(rows: jax.Array, places: jax.Array) -> jax.Array:
  """Those in `places`, and zeros for the place after the last."""
  # What is taken may be many times larger, and is not gone through again.
  padded = jnp.pad(rows, [(0, 1)] + [(0, 0)] * (rows.ndim - 1))
  return padded.at[places].get(mode="promise_in_bounds")
