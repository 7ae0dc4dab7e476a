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


def router_z_loss(routing: Routing) -> jax.Array:
  """Mean squared log-partition of the router (ST-MoE, 2202.08906 Eq. 5); scalar."""
  check_routing(routing)
  z_GS = jax.nn.logsumexp(routing.logits_GSE, axis=-1)
  count = jnp.maximum(routing.mask_GS.sum(), 1)
  return jnp.where(routing.mask_GS, jnp.square(z_GS), 0).sum() / count
