"""What tasks share: cross-entropy, and the routers' auxiliary losses."""

import dataclasses

import jax
import jax.numpy as jnp

from mhmoe_jax.moe.layer import MoeAux


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
  """Weights of the auxiliary losses, each summed over the MoE layers."""

  balance_weight: float
  router_z_weight: float

  def __post_init__(self):
    for field in dataclasses.fields(self):
      if getattr(self, field.name) < 0:
        raise ValueError(
          f"{field.name} must be at least 0, got "
          f"{field.name}={getattr(self, field.name)}."
        )


def cross_entropy(
  logits_BLV: jax.Array, targets_BL: jax.Array, weights_BL: jax.Array
) -> jax.Array:
  """Summed negative log-likelihood of the targets, nats; float32 scalar."""
  log_z_BL = jax.nn.logsumexp(logits_BLV, axis=-1)
  target_BL = jnp.take_along_axis(logits_BLV, targets_BL[..., None], axis=-1)[..., 0]
  return ((log_z_BL - target_BL) * weights_BL).sum()


def router_losses(
  config: ObjectiveConfig, aux: MoeAux | None, prefix: str = ""
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The weighted auxiliary losses of MoE layers, and what the routers did.

  Args:
    config: the weights.
    aux: stacked over the layers, (N, ...); None of a model without.
    prefix: of the names of metrics.

  Returns:
    The loss, and "balance_loss", "router_z_loss" and "router/...", each (N, ...).
  """
  if aux is None:
    return jnp.float32(0), {}
  metrics = {"balance_loss": aux.balance_loss, "router_z_loss": aux.router_z_loss}
  metrics |= {f"router/{name}": x for name, x in aux.stats._asdict().items()}
  loss = config.balance_weight * aux.balance_loss.sum()
  loss += config.router_z_weight * aux.router_z_loss.sum()
  return loss, {prefix + name: x for name, x in metrics.items()}
