"""Auxiliary losses of a router. Padding sub-tokens count in none of them."""

import jax
import jax.numpy as jnp

from mhmoe_jax.moe.routing import Routing, check_routing


def balance_loss(routing: Routing) -> jax.Array:
  """Load-balancing loss (2404.15045 Eq. 10); 1.0 when the load is even.

  E * sum_e t_e * mean(g_e), with t_e the share of all choices that fell on expert e and
  g_e the softmax. The authors' code counts only the first choice in t_e; Eq. 10 counts
  "sub-tokens routed to e", which is what is done here (divided by K, to keep 1.0).
  The gradient flows through g alone.

  Means are over all real sub-tokens of the batch (of a part, where gradients are
  accumulated), on all devices. Elsewhere the same name means other numbers: one per
  GPU in the authors' code, which counts padding, and one per group in vmoe;
  transformers pools the layers before it multiplies, and does not divide by K.

  Returns:
    float32 scalar.
  """
  check_routing(routing)
  E = routing.probs_GSE.shape[-1]
  K = routing.experts_GSK.shape[-1]
  count = jnp.maximum(routing.mask_GS.sum(), 1)
  choices_GSKE = jax.nn.one_hot(routing.experts_GSK, E, dtype=jnp.float32)
  t_E = choices_GSKE.sum(axis=(0, 1, 2)) / (count * K)
  real_GS1 = routing.mask_GS[..., None]
  g_E = jnp.where(real_GS1, routing.probs_GSE, 0).sum(axis=(0, 1)) / count
  return E * jnp.sum(jax.lax.stop_gradient(t_E) * g_E)


def part_entropies(routing: Routing) -> tuple[jax.Array, jax.Array]:
  """How sure the router is of a token, and how many experts it uses (2206.02770).

  LIMoE adds up for each modality its local loss, the first of these, and its global
  loss, the negative of the second, so that no modality is left to a few experts.

  Args:
    routing: of the sub-tokens of one modality.

  Returns:
    The mean entropy of a sub-token's softmax, and the entropy of the mean softmax;
    nats, float32 scalars in [0, log E]; of no real sub-token 0 and 0.
  """
  count = jnp.maximum(routing.mask_GS.sum(), 1)
  log_GSE = jax.nn.log_softmax(routing.logits_GSE)
  entropy_GS = -(routing.probs_GSE * log_GSE).sum(axis=-1)
  local = jnp.where(routing.mask_GS, entropy_GS, 0).sum() / count
  real_GS1 = routing.mask_GS[..., None]
  mean_E = jnp.where(real_GS1, routing.probs_GSE, 0).sum(axis=(0, 1)) / count
  # Where a probability is 0, so is its part, and so shall its gradient be finite.
  return local, -(mean_E * jnp.log(jnp.maximum(mean_E, 1e-30))).sum()


def router_z_loss(routing: Routing) -> jax.Array:
  """Mean squared log-partition of the router (ST-MoE, 2202.08906 Eq. 5); scalar."""
  check_routing(routing)
  z_GS = jax.nn.logsumexp(routing.logits_GSE, axis=-1)
  count = jnp.maximum(routing.mask_GS.sum(), 1)
  return jnp.where(routing.mask_GS, jnp.square(z_GS), 0).sum() / count
