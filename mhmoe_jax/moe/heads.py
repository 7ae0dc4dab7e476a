"""Tokens to sub-tokens and back (2404.15045 Eq. 4, 7 and 8).

A token of width D becomes H sub-tokens, contiguous slices of width M = D / H that stay
side by side in token order. Both directions are one `jax.lax.reshape`, which moves no
data on a CPU or GPU; on a TPU M below the 128 lanes of a register pads memory.
"""

import jax


def split_heads(x_BLD: jax.Array, num_heads: int) -> jax.Array:
  """Splits every token into `num_heads` sub-tokens.

  Args:
    x_BLD: tokens.
    num_heads: H, must divide D.

  Returns:
    Sub-tokens (B, L * H, M); sub-token l * H + h is slice h of token l.
  """
  B, L, D = x_BLD.shape
  if num_heads < 1 or D % num_heads:
    raise ValueError(
      f"num_heads must divide embed_dim, got num_heads={num_heads}, embed_dim={D}."
    )
  return jax.lax.reshape(x_BLD, (B, L * num_heads, D // num_heads))


def merge_heads(x_BSM: jax.Array, num_heads: int) -> jax.Array:
  """Inverse of `split_heads`: (B, L * H, M) to (B, L, H * M)."""
  B, S, M = x_BSM.shape
  return jax.lax.reshape(x_BSM, (B, S // num_heads, num_heads * M))
