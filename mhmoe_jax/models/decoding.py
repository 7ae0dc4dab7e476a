"""Text from a decoder: prefill the prompt, then one token at a time from a cache.

Sampling always routes without dropping: the capacity of a group of one token is not
that of the sequence the model was trained on.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from mhmoe_jax.models.attention import KeyValues
from mhmoe_jax.models.config import TransformerConfig
from mhmoe_jax.models.transformer import Decoder


def unstack(params, config: TransformerConfig):
  """Parameters of a `Decoder` with each period of its layers by itself.

  To be done once for many tokens: inside a scan over layers, every token would copy all
  experts of a layer, of which it needs a few. What it made it returns as it is.
  """
  if "layers" not in params:
    return params
  rest = {name: x for name, x in params.items() if name != "layers"}

  def take(i):
    return jax.tree.map(lambda x: x[i], params["layers"])

  count = config.num_layers // config.period
  return rest | {f"layers_{i}": take(i) for i in range(count)}


def empty_caches(
  config: TransformerConfig, batch_size: int, length: int
) -> list[list[KeyValues]]:
  """Zeroed caches for `length` tokens, one per block, in a list for every period."""
  _, J, Q = config.attention_shape
  zeros = jnp.zeros((batch_size, length, J, Q), jnp.dtype(config.dtype))
  count = config.num_layers // config.period
  return [[KeyValues(zeros, zeros)] * config.period for _ in range(count)]


def filter_logits(logits_BV: jax.Array, top_k: int, top_p: float) -> jax.Array:
  """Sets to -inf what is outside the `top_k` likeliest (0: no limit) or the nucleus.

  The nucleus is the smallest set of likeliest tokens whose probability reaches `top_p`
  (1904.09751); the likeliest token always stays.
  """
  if not top_k and top_p >= 1:
    return logits_BV  # Sorting a vocabulary takes longer than a small model.
  order_BV = jnp.argsort(-logits_BV, axis=-1)
  rank_BV = jnp.argsort(order_BV, axis=-1)
  keep_BV = rank_BV < (top_k or logits_BV.shape[-1])
  sorted_BV = jnp.take_along_axis(jax.nn.softmax(logits_BV), order_BV, axis=-1)
  before_BV = jnp.cumsum(sorted_BV, axis=-1) - sorted_BV
  keep_BV &= jnp.take_along_axis(before_BV, rank_BV, axis=-1) < top_p
  return jnp.where(keep_BV | (rank_BV == 0), logits_BV, -jnp.inf)


@functools.partial(jax.jit, static_argnames=("config", "num_tokens", "top_k", "top_p"))
def generate(
  config: TransformerConfig,
  params,
  prompt_BL: jax.Array,
  key: jax.Array,
  *,
  num_tokens: int,
  temperature: float = 1.0,
  top_k: int = 0,
  top_p: float = 1.0,
  allowed_V: jax.Array | None = None,
) -> jax.Array:
  """Samples a continuation of each prompt.

  Args:
    config: of the model.
    params: its parameters; as `unstack` returns them, for many calls, of which each
      would copy them.
    prompt_BL: int32, prompts of one length, which begin with the token that every
      training document begins with.
    key: of the random draws.
    num_tokens: how many tokens to add, at least 1.
    temperature: divides the logits; 0 always takes the likeliest token.
    top_k: draw among the k likeliest tokens only; 0 for all.
    top_p: draw from the nucleus of this probability only; 1 for all.
    allowed_V: bool, the tokens that may be drawn; None for all. A model has rows for
      ids that no token has, and training never makes them unlikely enough.

  Returns:
    int32 (B, num_tokens).
  """
  moe = dataclasses.replace(config.moe, dispatch="sorted")
  model = Decoder(dataclasses.replace(config, moe=moe))
  params = unstack(params, config)
  B, L = prompt_BL.shape

  def logits_and_caches(tokens_BL, start, caches):
    positions_BL = jnp.broadcast_to(
      start + jnp.arange(tokens_BL.shape[1]), tokens_BL.shape
    )
    ones_BL = jnp.ones_like(tokens_BL)
    logits_BLV, _, caches = model.apply(
      {"params": params}, tokens_BL, positions_BL, ones_BL, caches, start
    )
    return logits_BLV[:, -1], caches

  def draw(key, logits_BV):
    if allowed_V is not None:
      logits_BV = jnp.where(allowed_V[None], logits_BV, -jnp.inf)
    cold = jnp.argmax(logits_BV, axis=-1)
    hot_BV = logits_BV / jnp.maximum(temperature, 1e-6)
    hot = jax.random.categorical(key, filter_logits(hot_BV, top_k, top_p))
    return jnp.where(temperature > 0, hot, cold).astype(jnp.int32)

  def step(carry, key):
    logits_BV, caches, place = carry
    token_B = draw(key, logits_BV)
    logits_BV, caches = logits_and_caches(token_B[:, None], place, caches)
    return (logits_BV, caches, place + 1), token_B

  caches = empty_caches(config, B, L + num_tokens)
  logits_BV, caches = logits_and_caches(prompt_BL, 0, caches)
  carry = (logits_BV, caches, jnp.asarray(L))
  _, tokens_TB = jax.lax.scan(step, carry, jax.random.split(key, num_tokens))
  return tokens_TB.T
