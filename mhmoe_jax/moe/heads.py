"""Tokens to sub-tokens and back (2404.15045 Eq. 4, 7 and 8).

A token of width D becomes H sub-tokens, contiguous slices of width M = D / H that stay
side by side in token order. Both directions are one `jax.lax.reshape`, which moves no
data on a CPU or GPU; on a TPU M below the 128 lanes of a register pads memory.
"""

import jax

from mhmoe_jax.moe.config import check_number


def split_heads(x_BLD: jax.Array, num_heads: int) -> jax.Array:
  """Splits every token into `num_heads` sub-tokens.

  Args:
    x_BLD: tokens.
    num_heads: H, must divide D.

  Returns:
    Sub-tokens (B, L * H, M); sub-token l * H + h is slice h of token l.
  """
  num_heads = check_number("num_heads", num_heads, least=1)
  B, L, D = check_rank_3("x_BLD", x_BLD)
  if D % num_heads:
    raise ValueError(
      f"num_heads must divide embed_dim, got num_heads={num_heads}, embed_dim={D}."
    )
  return jax.lax.reshape(x_BLD, (B, L * num_heads, D // num_heads))


def merge_heads(x_BSM: jax.Array, num_heads: int) -> jax.Array:
  """Inverse of `split_heads`: (B, L * H, M) to (B, L, H * M)."""
  num_heads = check_number("num_heads", num_heads, least=1)
  B, S, M = check_rank_3("x_BSM", x_BSM)
  if S % num_heads:
    raise ValueError(
      f"num_heads must divide the number of sub-tokens, "
      f"got num_heads={num_heads}, x_BSM of shape {x_BSM.shape}."
    )
  return jax.lax.reshape(x_BSM, (B, S // num_heads, num_heads * M))


def check_rank_3(name: str, x: jax.Array) -> tuple[int, int, int]:
  """The shape of an array named by its dimensions; ValueError if they are not three."""
  shape = getattr(x, "shape", None)
  if shape is None or len(shape) != 3:
    raise ValueError(
      f"{name} must be an array of shape ({', '.join(name[-3:])}), got {describe(x)}."
    )
  return shape


def describe(x) -> str:
  """What an error says of an array, or of what should have been one."""
  if not hasattr(x, "shape"):
    return f"a {type(x).__name__}"
  return f"shape {x.shape} of {x.dtype}"
