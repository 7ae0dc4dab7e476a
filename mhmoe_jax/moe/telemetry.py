"""What a router did: load, drops, entropy, diversity. Counted, not differentiated.

`RouterStats` are means, for every step; `Choices` tell of every sub-token, on request.

All counts are of real (not padding) sub-tokens and global over the mesh: computed
outside `shard_map` on arrays that jit sees whole, but for those of `Delivery`, counted
where choices leave and where they arrive, and summed over the mesh.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mhmoe_jax.moe.config import check_number
from mhmoe_jax.moe.routing import Routing
from mhmoe_jax.moe.transport import Delivery


class RouterStats(NamedTuple):
  """Statistics of one layer; under `nn.scan` every field gains a leading N."""

  load_HE: jax.Array  # share of a head's choices that fell on an expert; rows sum to 1
  dropped_sender: jax.Array  # share of choices that found no slot, in [0, 1]
  dropped_receiver: jax.Array  # share sent that no expert computed on; not 0 is a bug
  entropy: jax.Array  # mean entropy of the router's softmax, nats, in [0, log E]
  distinct_experts: jax.Array  # mean number of different experts a token reaches
  distinct_X: jax.Array  # share of tokens that reach 1, 2, ... min(H * K, E)
  rounds: jax.Array  # in which choices were sent, 1 in all dispatches but "rounds"


class Choices(NamedTuple):
  """What became of every sub-token in one layer; under `nn.scan` with a leading N.

  On padding the expert is E and nothing is kept.
  """

  expert_BLHK: jax.Array  # int32, best expert first
  weight_BLHK: jax.Array  # float32, what each expert's output is multiplied by
  kept_BLHK: jax.Array  # bool, False for what the dispatcher dropped
  entropy_BLH: jax.Array  # float32, of the router's softmax, nats


def choices(routing: Routing, delivery: Delivery, num_heads: int) -> Choices:
  """The `routing` of every sub-token and its fate, by token and head."""
  B, S, K = routing.experts_GSK.shape
  shape = B, S // num_heads, num_heads, K
  return Choices(
    expert_BLHK=routing.experts_GSK.reshape(shape),
    weight_BLHK=routing.weights_GSK.reshape(shape),
    kept_BLHK=delivery.kept_GSK.reshape(shape),
    entropy_BLH=router_entropy(routing).reshape(shape[:-1]),
  )


def router_entropy(routing: Routing) -> jax.Array:
  """Entropy of the router's softmax, nats, in [0, log E]; (G, S)."""
  return -jnp.sum(routing.probs_GSE * jax.nn.log_softmax(routing.logits_GSE), axis=-1)


def router_stats(routing: Routing, delivery: Delivery, num_heads: int) -> RouterStats:
  """Statistics of `routing`.

  Args:
    routing: the decisions, S = L * H with the H sub-tokens of a token side by side.
    delivery: what became of its choices.
    num_heads: H.
  """
  routing = jax.lax.stop_gradient(routing)
  G, S, K = routing.experts_GSK.shape
  E = routing.probs_GSE.shape[-1]
  L, H = S // num_heads, num_heads
  experts_GLHK = routing.experts_GSK.reshape(G, L, H, K)
  wanted = routing.mask_GS.sum() * K
  choices = jnp.maximum(wanted, 1)

  one_hot = functools.partial(jax.nn.one_hot, dtype=jnp.float32)
  counts_HE = one_hot(experts_GLHK, E).sum(axis=(0, 1, 3))
  entropy_GS = router_entropy(routing)
  distinct_GL = _count_distinct(experts_GLHK.reshape(G, L, H * K), sentinel=E)
  tokens = jnp.maximum((distinct_GL > 0).sum(), 1)
  stats = RouterStats(
    load_HE=counts_HE / jnp.maximum(counts_HE.sum(axis=-1, keepdims=True), 1),
    dropped_sender=(wanted - delivery.sent) / choices,
    dropped_receiver=(delivery.sent - delivery.served) / choices,
    entropy=jnp.where(routing.mask_GS, entropy_GS, 0).sum() * K / choices,
    distinct_experts=distinct_GL.sum() / tokens,
    distinct_X=one_hot(distinct_GL - 1, min(H * K, E)).sum(axis=(0, 1)) / tokens,
    rounds=jnp.asarray(delivery.rounds),
  )
  return jax.tree.map(lambda x: x.astype(jnp.float32), stats)


def active_share(load_E: jax.Array, threshold: float = 0.1) -> jax.Array:
  """Share of experts whose load exceeds `threshold` times an even share, 1 / E.

  2404.15045 Fig. 1a and 5 count an expert as active above a threshold that is never
  stated; a tenth of an even share is this project's choice.

  Args:
    load_E: shares of the load, (..., E), summing to 1 over experts.
    threshold: in units of an even share.

  Returns:
    (...), in [0, 1].
  """
  threshold = check_number("threshold", threshold, float, least=0)
  if not jnp.ndim(load_E):
    raise ValueError(f"load_E must be an array of shape (..., E), got {load_E!r}.")
  load_E = jnp.asarray(load_E)
  return jnp.mean(load_E > threshold / load_E.shape[-1], axis=-1)


def _count_distinct(ids: jax.Array, sentinel: int) -> jax.Array:
  # Pairwise comparison of the few ids of one token: its cost does not grow with E.
  same = ids[..., :, None] == ids[..., None, :]
  repeats = jnp.tril(same, k=-1).any(axis=-1)
  return (~repeats & (ids < sentinel)).sum(axis=-1)
