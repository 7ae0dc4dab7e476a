"""What is minimised: next-token cross-entropy plus the routers' auxiliary losses."""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp

Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
  """Weights of the auxiliary losses, each summed over the MoE layers."""

  balance_weight: float
  router_z_weight: float

  def __post_init__(self):
    for name in ("balance_weight", "router_z_weight"):
      if getattr(self, name) < 0:
        raise ValueError(
          f"{name} must be at least 0, got {name}={getattr(self, name)}."
        )


def cross_entropy(
  logits_BLV: jax.Array, targets_BL: jax.Array, weights_BL: jax.Array
) -> jax.Array:
  """Summed negative log-likelihood of the targets, nats; float32 scalar."""
  log_z_BL = jax.nn.logsumexp(logits_BLV, axis=-1)
  target_BL = jnp.take_along_axis(logits_BLV, targets_BL[..., None], axis=-1)[..., 0]
  return ((log_z_BL - target_BL) * weights_BL).sum()


def lm_loss(
  config: ObjectiveConfig,
  model: nn.Module,
  params,
  batch: Batch,
  key: jax.Array,
  num_targets: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The training loss of (a part of) a batch.

  Args:
    config: weights of the auxiliary losses.
    model: a `Decoder`.
    params: its parameters.
    batch: "inputs", "targets", "positions", "segments" int32 and "weights" float32,
      each (B, L).
    key: of dropout.
    num_targets: summed weights of the whole batch, so that the losses of its parts add
      up to the mean over its targets.

  Returns:
    The loss, and float32 metrics: "loss" is the cross-entropy part; with MoE layers,
    "balance_loss", "router_z_loss" and "router/..." are stacked over them, (N, ...).
  """
  logits_BLV, aux, _ = model.apply(
    {"params": params},
    batch["inputs"],
    batch["positions"],
    batch["segments"],
    rngs={"dropout": key},
  )
  nll = cross_entropy(logits_BLV, batch["targets"], batch["weights"]) / num_targets
  metrics = {"loss": nll}
  if aux is None:
    return nll, metrics
  metrics |= {"balance_loss": aux.balance_loss, "router_z_loss": aux.router_z_loss}
  metrics |= {f"router/{name}": x for name, x in aux.stats._asdict().items()}
  return (
    nll
    + config.balance_weight * aux.balance_loss.sum()
    + config.router_z_weight * aux.router_z_loss.sum(),
    metrics,
  )
