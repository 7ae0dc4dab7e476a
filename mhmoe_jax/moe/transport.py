"""Sub-tokens to their experts, which may be on other devices, and back: four ways.

* "einsum", the definition: masks, and GSPMD moves the data as constraints ask it to.
  The others run under `jax.shard_map` on a mesh, and locally without one.
* "capacity": the same slots and drops, but gathered, with an all-to-all each way.
* "sorted", the default, a ring: the devices along the `expert` axis gather each other's
  sub-tokens, each computes what falls on its own experts, and a reduce-scatter adds the
  parts up and sends them home. It drops nothing, and its traffic does not depend on the
  number of experts per sub-token.
* "rounds": only what a device's experts need is sent to it, in buffers of a fixed size
  that go as often as they fill (`rounds`). It drops nothing either.

Hidden widths are split over `model`: each device computes a part of every sum.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from mhmoe_jax.moe import dispatch
from mhmoe_jax.moe.delivery import Delivery, deliver_here
from mhmoe_jax.moe.dropout import drop
from mhmoe_jax.moe.ffn import ExpertWeights, expert_ffn
from mhmoe_jax.moe.rounds import deliver_in_rounds
from mhmoe_jax.moe.routing import Routing
from mhmoe_jax.sharding import BATCH_AXES, check_batch, constrain, is_ours, vary_alike


def apply_experts(
  x_GSM: jax.Array,
  route: Routing,
  weights: ExpertWeights,
  method: str,
  factor: float,
  backend: str = "auto",
  dropout: float = 0.0,
  seeds_GSK: jax.Array | None = None,
) -> tuple[jax.Array, Delivery]:
  """Every sub-token through its experts, weighted and summed.

  Args:
    x_GSM: sub-tokens, one group per example, split over the mesh's batch axes.
    route: their experts.
    weights: of all E experts, split over `expert`, hidden widths over `model`.
    method: one of `config.DISPATCHES`.
    factor: what even shares are multiplied by, of experts in "einsum" and "capacity",
      see `dispatch.expert_capacity`, and of pairs of devices in "rounds".
    backend: of "sorted" and "rounds", see `grouped.grouped_ffn`.
    dropout: rate of each expert's output, if there are seeds.
    seeds_GSK: see `dropout.draw_seeds`.

  Returns:
    (G, S, M), and the counts.

  Raises:
    ValueError: if the mesh in force does not divide examples, experts or their widths.
  """
  E = weights.w_in_EMF.shape[0]
  _, S, K = route.experts_GSK.shape
  mesh = jax.sharding.get_abstract_mesh()
  on_mesh = is_ours(mesh)
  # A LayerNorm over the hidden width cannot see a width that is split, nor can the
  # rounding of BitNet, which looks for its largest value.
  whole = weights.norm_scale_EF is not None or weights.levels_E is not None
  hidden = None if whole else "model"
  if on_mesh:
    _check_divisible(mesh, x_GSM.shape[0], weights, hidden)

  spread = on_mesh and mesh.shape["expert"] > 1
  if method in ("einsum", "capacity"):
    capacity = dispatch.expert_capacity(S, E, K, factor)
  if method == "einsum":
    return _einsum(x_GSM, route, weights, capacity, dropout, seeds_GSK)
  if method == "capacity":
    run = functools.partial(_capacity, capacity=capacity, spread=spread)
  elif spread and method == "rounds":
    run = functools.partial(deliver_in_rounds, factor=factor, backend=backend)
  elif spread:
    run = functools.partial(_ring, backend=backend)
  else:
    run = functools.partial(deliver_here, backend=backend)
  run = functools.partial(run, dropout=dropout)
  inputs = x_GSM, route.experts_GSK, route.weights_GSK, seeds_GSK, weights
  if not on_mesh:
    return run(*vary_alike(inputs))

  groups = PartitionSpec(BATCH_AXES)
  return jax.shard_map(
    functools.partial(_on_device, run, split_hidden=hidden is not None),
    in_specs=(groups, groups, groups, groups, _weight_specs(weights, hidden)),
    out_specs=(
      groups,
      Delivery(PartitionSpec(), PartitionSpec(), groups, PartitionSpec()),
    ),
    # The block loop has a VJP of its own, whose loop carries start as zeros that vary
    # over no axis. Without the check, gradients of what is copied over an axis are
    # summed at the border of the shard_map, which is what is wanted here.
    check_vma=False,
  )(*inputs)


def _check_divisible(mesh, num_groups, weights, hidden) -> None:
  check_batch(num_groups, mesh)
  E, _, F = weights.w_in_EMF.shape
  for name, size, axis in (("num_experts", E, "expert"), ("expert_dim", F, hidden)):
    if axis is not None and size % mesh.shape[axis]:
      raise ValueError(
        f"{axis} of the mesh must divide {name}, "
        f"got {name}={size}, {axis}={mesh.shape[axis]}."
      )


def _weight_specs(weights: ExpertWeights, hidden: str | None) -> ExpertWeights:
  # The width M is whole: what FSDP splits over `data` is gathered on the way in, and
  # its gradient summed and scattered on the way out.
  last, middle = PartitionSpec("expert", None, hidden), PartitionSpec("expert", hidden)
  specs = ExpertWeights(
    w_in_EMF=last,
    w_out_EFM=PartitionSpec("expert", hidden, None),
    w_gate_EMF=last,
    b_in_EF=middle,
    b_out_EM=PartitionSpec("expert", None),
    norm_scale_EF=middle,
    norm_bias_EF=middle,
    levels_E=PartitionSpec("expert"),
    b_gate_EF=middle,
    formula=weights.formula,
  )
  return ExpertWeights(
    *(None if w is None else s for w, s in zip(weights, specs, strict=True))
  )


def _on_device(run, *inputs, split_hidden: bool):
  *inputs, weights = inputs
  if split_hidden and weights.b_out_EM is not None:
    # Each device along `model` adds a part of the sum; one of them adds the bias.
    once = jax.lax.axis_index("model") == 0
    weights = weights._replace(b_out_EM=jnp.where(once, weights.b_out_EM, 0))
  y_GSM, delivery = run(*inputs, weights)
  if split_hidden:
    y_GSM = jax.lax.psum(y_GSM, "model")
  sent, served = jax.lax.psum((delivery.sent, delivery.served), BATCH_AXES)
  return y_GSM, delivery._replace(sent=sent, served=served)


def _einsum(x_GSM, route: Routing, weights, capacity: int, dropout, seeds_GSK):
  slots = dispatch.assign_slots(route, capacity)
  # Slots are filled at home and then sent. With only the second constraint of each two,
  # GSPMD may gather the sub-tokens of all devices and fill the slots at the experts.
  x_EGCM = constrain(dispatch.to_experts(x_GSM, slots), "_BCM")
  y_EGCM = _apply_batched(weights, constrain(x_EGCM, "EGCM"))
  y_EGCM = constrain(constrain(y_EGCM, "EGCM"), "_BCM")
  if seeds_GSK is not None:
    y_EGCM = drop(y_EGCM, dispatch.seeds_to_experts(seeds_GSK, route, slots), dropout)
  delivery = Delivery(slots.kept_GSK.sum(), slots.mask_GSEC.sum(), slots.kept_GSK)
  y_GSM = _spoil(dispatch.from_experts(y_EGCM, slots), route.weights_GSK)
  return constrain(y_GSM, "BSM"), delivery


def _spoil(y_GSM: jax.Array, weights_GSK: jax.Array) -> jax.Array:
  # A NaN sub-token is NaN even if it found no slot. Weights times zero do not see to
  # that: XLA makes a choice between the two of it.
  spoilt_GS1 = jnp.isnan(weights_GSK).any(axis=-1, keepdims=True)
  return jnp.where(spoilt_GS1, jnp.nan, y_GSM)


def _apply_batched(weights: ExpertWeights, x_EGCM: jax.Array) -> jax.Array:
  E, _, _, M = x_EGCM.shape
  return jax.vmap(expert_ffn)(weights, x_EGCM.reshape(E, -1, M)).reshape(x_EGCM.shape)


def _capacity(
  x_GSM, experts_GSK, weights_GSK, seeds_GSK, weights, *, capacity, spread, dropout
):
  E = weights.w_in_EMF.shape[0] * (jax.lax.axis_size("expert") if spread else 1)
  slots = dispatch.sort_into_slots(experts_GSK, E, capacity)
  x_ERM, filled_EG = dispatch.to_slots(x_GSM, slots), slots.filled_EG
  scale_ER = dispatch.choices_to_slots(weights_GSK, slots)
  if spread:
    # (E, local rows) on every device becomes (local experts, all rows).
    swap = functools.partial(jax.lax.all_to_all, axis_name="expert", tiled=True)
    there = functools.partial(swap, split_axis=0, concat_axis=1)
    x_ERM, filled_EG, scale_ER = there((x_ERM, filled_EG, scale_ER))
  # Hidden activations, many times what goes in, are computed again.
  apply = jax.checkpoint(jax.vmap(expert_ffn))
  y_ERM = apply(weights, x_ERM, scale_ER[..., None])
  if spread:
    y_ERM = swap(y_ERM, split_axis=1, concat_axis=0)
  if seeds_GSK is not None:
    y_ERM = drop(y_ERM, dispatch.choices_to_slots(seeds_GSK, slots), dropout)
  kept_GSK = slots.slot_GSK < slots.choice_ER.size
  delivery = Delivery(kept_GSK.sum(), filled_EG.sum(), kept_GSK)
  y_GSM = jax.checkpoint(dispatch.from_slots)(y_ERM, slots)
  return _spoil(y_GSM, weights_GSK), delivery


def _ring(x_gSM, experts_gSK, weights_gSK, seeds_gSK, weights, *, backend, dropout):
  gather = functools.partial(jax.lax.all_gather, axis_name="expert", axis=0, tiled=True)
  devices, num_local = jax.lax.axis_size("expert"), weights.w_in_EMF.shape[0]
  first = jax.lax.axis_index("expert") * num_local
  experts_GSK = gather(experts_gSK) - first
  here = (experts_GSK >= 0) & (experts_GSK < num_local)
  y_GSM, delivery = deliver_here(
    gather(x_gSM),
    jnp.where(here, experts_GSK, num_local),
    gather(weights_gSK),
    None if seeds_gSK is None else gather(seeds_gSK),
    weights,
    backend=backend,
    dropout=dropout,
    expected=experts_gSK.size,
  )
  kept_gSK = experts_gSK < num_local * devices
  return (
    jax.lax.psum_scatter(y_GSM, "expert", scatter_dimension=0, tiled=True),
    Delivery(kept_gSK.sum(), delivery.served, kept_gSK),
  )
