"""Which experts a sub-token goes to, and with which weights.

Three kinds of scores, then one choice. Everything here is float32 whatever the model
computes in: a bfloat16 logit has 8 bits, too few to rank 64 experts.

G groups of S sub-tokens of width M; E experts, K per sub-token; R router width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Routing(NamedTuple):
  """The router's decision on every sub-token.

  Padding sub-tokens have expert E (one past the last), which no dispatcher serves, and
  weight 0.
  """

  experts_GSK: jax.Array  # int32, best expert first
  weights_GSK: jax.Array  # float32, what each expert's output is multiplied by
  logits_GSE: jax.Array  # float32
  probs_GSE: jax.Array  # float32, softmax of the logits
  mask_GS: jax.Array  # bool, False on padding


def linear_logits(x_GSM: jax.Array, w_ME: jax.Array) -> jax.Array:
  """Dot products of sub-tokens and expert embeddings (2404.15045 Eq. 5)."""
  return jnp.einsum("GSM,ME->GSE", x_GSM, w_ME, preferred_element_type=jnp.float32)


def cosine_logits(
  x_GSM: jax.Array, w_MR: jax.Array, embed_ER: jax.Array, log_temperature: jax.Array
) -> jax.Array:
  """Cosine of projected sub-tokens and expert embeddings over a learned temperature.

  The router of X-MoE (2204.09179 section 4): s_e = cos(W x, embed_e), logits = s / tau.
  tau is learned through its logarithm, so that it stays positive.
  """
  x_GSR = jnp.einsum("GSM,MR->GSR", x_GSM, w_MR, preferred_element_type=jnp.float32)
  cosines = jnp.einsum("GSR,ER->GSE", _unit(x_GSR), _unit(embed_ER))
  return cosines * jnp.exp(-log_temperature)


def projected_logits(
  x_GSM: jax.Array, w_MR: jax.Array, embed_ER: jax.Array, norm: float = 0.0
) -> jax.Array:
  """As `cosine_logits`, but with only the experts' side normalised, no temperature.

  What torchscale and the authors' code compute where the papers say X-MoE: the
  normalisation of the sub-token is commented out there and no temperature is used.
  They also rescale the embeddings themselves at each forward pass, to a norm of 1.5.
  It does not change the logits, but how fast they turn: their gradient is of vectors
  of this length. An optimizer's update makes them longer; `rescale` undoes that.

  Args:
    x_GSM: float32 sub-tokens.
    w_MR: the projection.
    embed_ER: expert embeddings.
    norm: the length that they are taken at; 0: their own.
  """
  if norm:
    # The gradient is that of the rescaled embeddings, as when they are overwritten.
    change_ER = rescale(embed_ER, norm) - embed_ER
    embed_ER = embed_ER + jax.lax.stop_gradient(change_ER)
  x_GSR = jnp.einsum("GSM,MR->GSR", x_GSM, w_MR, preferred_element_type=jnp.float32)
  return jnp.einsum("GSR,ER->GSE", x_GSR, _unit(embed_ER))


def choose(
  logits_GSE: jax.Array, mask_GS: jax.Array, top_k: int, renormalize: bool
) -> Routing:
  """Softmax, then the `top_k` likeliest experts of every sub-token.

  Args:
    logits_GSE: float32 scores.
    mask_GS: True on real sub-tokens.
    top_k: K, at most E.
    renormalize: divide the K weights by their sum. 2404.15045 Eq. 6 does not; the
      authors' development code did.
  """
  # Without an order among the scores there are no probabilities. Softmax alone would
  # say so, but XLA simplifies that of a single expert to 1.
  ordered_GS1 = jnp.isfinite(logits_GSE.max(axis=-1, keepdims=True))
  probs_GSE = jnp.where(ordered_GS1, jax.nn.softmax(logits_GSE, axis=-1), jnp.nan)
  experts_GSK = _top_k(jax.lax.stop_gradient(logits_GSE), top_k)
  weights_GSK = _pick(probs_GSE, experts_GSK)
  if renormalize:
    weights_GSK = weights_GSK / weights_GSK.sum(axis=-1, keepdims=True)
  real = mask_GS[..., None]
  return Routing(
    experts_GSK=jnp.where(real, experts_GSK, logits_GSE.shape[-1]),
    weights_GSK=jnp.where(real, weights_GSK, 0.0),
    logits_GSE=logits_GSE,
    probs_GSE=probs_GSE,
    mask_GS=mask_GS,
  )


# What XLA makes of `jax.lax.top_k` sorts all E experts and scatters its gradient; a TPU
# then writes (G, S, E) arrays ten times. Sweeps, one per choice, write none.


def _top_k(logits_GSE: jax.Array, top_k: int) -> jax.Array:
  """The indices of `jax.lax.top_k`: the lowest expert first where they tie.

  Also of NaN and inf, which are every expert's equal, so that all K choices differ.
  """
  E = logits_GSE.shape[-1]
  expert_GSE = jax.lax.broadcasted_iota(jnp.int32, logits_GSE.shape, 2)
  finite = jnp.finfo(logits_GSE.dtype)
  logits_GSE = jnp.nan_to_num(
    logits_GSE, nan=finite.max, posinf=finite.max, neginf=finite.min
  )
  best = []
  for _ in range(top_k):
    is_best_GSE = logits_GSE == logits_GSE.max(axis=-1, keepdims=True)
    best.append(jnp.where(is_best_GSE, expert_GSE, E).min(axis=-1))
    chosen_GSE = expert_GSE == best[-1][..., None]
    logits_GSE = jnp.where(chosen_GSE, -jnp.inf, logits_GSE)
  return jnp.stack(best, axis=-1)


def _pick(probs_GSE: jax.Array, experts_GSK: jax.Array) -> jax.Array:
  """The probabilities of the chosen experts, (G, S, K)."""
  expert_GSE = jax.lax.broadcasted_iota(jnp.int32, probs_GSE.shape, 2)
  picked = [
    jnp.where(expert_GSE == experts_GSK[..., k, None], probs_GSE, 0).sum(axis=-1)
    for k in range(experts_GSK.shape[-1])
  ]
  return jnp.stack(picked, axis=-1)


def rescale(embed_ER: jax.Array, norm: float) -> jax.Array:
  """Embeddings of the same directions and the length `norm`."""
  return norm * _unit(embed_ER)


def _unit(x: jax.Array) -> jax.Array:
  # rsqrt of the square keeps the gradient finite at the zero vector of a padding token.
  return x * jax.lax.rsqrt(jnp.square(x).sum(axis=-1, keepdims=True) + 1e-8)


def check_routing(route: Routing) -> None:
  """Raises ValueError unless `route` is a `Routing` whose shapes fit one another."""
  if not isinstance(route, Routing):
    raise ValueError(f"routing must be a Routing, got a {type(route).__name__}.")
  experts, probs, mask = (
    jnp.shape(x) for x in (route.experts_GSK, route.probs_GSE, route.mask_GS)
  )
  logits = jnp.shape(route.logits_GSE)
  if not (
    len(experts) == len(probs) == 3
    and experts[:2] == probs[:2] == mask
    and probs == logits
  ):
    raise ValueError(
      "the arrays of a routing must agree in G, S and E, got "
      f"experts_GSK of shape {experts}, logits_GSE of {logits}, probs_GSE of {probs}, "
      f"mask_GS of {mask}."
    )
