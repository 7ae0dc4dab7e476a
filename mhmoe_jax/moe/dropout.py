"""Dropout on what single experts return, before their weights and the merge layer.

There the authors' code has it. Which elements go is decided by a number that every
choice of an expert carries along, so that all dispatches on all meshes drop the same.
"""

import jax
import jax.numpy as jnp


def draw_seeds(key: jax.Array, experts_GSK: jax.Array) -> jax.Array:
  """A uint32 for every choice, (G, S, K)."""
  return jax.random.bits(key, experts_GSK.shape, jnp.uint32)


def drop(y: jax.Array, seeds: jax.Array, rate: float) -> jax.Array:
  """Zeros elements with probability `rate`; what is left is divided by 1 - rate.

  Args:
    y: (..., M), expert outputs.
    seeds: (...), of their choices.
    rate: in [0, 1).
  """

  def keep_row(seed):
    # Of a fixed kind, whatever jax's default is.
    key = jax.random.key(seed, impl="threefry2x32")
    return jax.random.bernoulli(key, 1 - rate, y.shape[-1:])

  keep = jax.vmap(keep_row)(seeds.reshape(-1)).reshape(y.shape)
  return jnp.where(keep, y / (1 - rate), 0)
