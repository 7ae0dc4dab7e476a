"""Causal multi-head self-attention with rotary positions, for packed sequences.

Groups of heads may share keys and values (grouped-query attention, 2305.13245), and
queries and keys may be normalised, each head by itself or all of them together.

Decoding uses the same module: given a cache of keys and values it attends to what the
cache holds and returns the cache with the new ones. The cache is a value, not state.
"""

from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from mhmoe_jax.models.causal import attend
from mhmoe_jax.models.config import TransformerConfig
from mhmoe_jax.models.norm import Norm
from mhmoe_jax.moe import bitnet
from mhmoe_jax.moe.experts import bias_init
from mhmoe_jax.sharding import constrain


class KeyValues(NamedTuple):
  """Keys and values of the tokens so far; T places, of which the first are in use."""

  k_BTJQ: jax.Array
  v_BTJQ: jax.Array


def rotate(x_BLAQ: jax.Array, positions_BL: jax.Array, theta: float) -> jax.Array:
  """Rotary position embedding (2104.09864): pairs (q, q + Q/2) turn with position."""
  half = x_BLAQ.shape[-1] // 2
  frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angles = positions_BL[..., None, None] * frequencies[None, None, None]
  sin, cos = jnp.sin(angles), jnp.cos(angles)
  first, second = x_BLAQ[..., :half], x_BLAQ[..., half:]
  turned = (first * cos - second * sin, second * cos + first * sin)
  return jnp.concatenate(turned, axis=-1).astype(x_BLAQ.dtype)


class Attention(nn.Module):
  """Self-attention (B, L, D) -> (B, L, D)."""

  config: TransformerConfig

  @nn.compact
  def __call__(
    self,
    x_BLD: jax.Array,
    positions_BL: jax.Array,
    segments_BL: jax.Array,
    cache: KeyValues | None = None,
    start: jax.Array | int = 0,
  ) -> tuple[jax.Array, KeyValues | None]:
    """Attends.

    Args:
      x_BLD: tokens.
      positions_BL: int32, position of each token in its document.
      segments_BL: int32, which document of its row each token is in. With a cache, a
        row is one document.
      cache: keys and values of earlier tokens; None if x_BLD is all there is.
      start: place in the cache of the first token of `x_BLD`.

    Returns:
      The output, and the cache with the tokens of `x_BLD` in it.
    """
    cfg = self.config
    D, (A, J, Q) = cfg.embed_dim, cfg.attention_shape
    # Without groups J is A, and has its name, by which the mesh must divide it.
    kv = "A" if J == A else "J"
    dtype = x_BLD.dtype
    if cfg.bitnet:
      x_BLD = bitnet.eight_bit(x_BLD)

    def weight(name, init, shape):
      w = self.param(name, init, shape)
      return (bitnet.ternary(w) if cfg.bitnet else w).astype(dtype)

    def project(name, letter, heads):
      init = nn.initializers.variance_scaling(
        0.5, "fan_avg", "uniform", in_axis=0, out_axis=(1, 2)
      )
      w_DAQ = weight(f"w_{name}_D{letter}Q", init, (D, heads, Q))
      y_BLAQ = jnp.einsum("BLD,DAQ->BLAQ", x_BLD, w_DAQ)
      if cfg.use_bias:
        init = bias_init(cfg.init, D)
        b_AQ = self.param(f"b_{name}_{letter}Q", init, (heads, Q))
        y_BLAQ += b_AQ.astype(dtype)[None, None]
      return constrain(y_BLAQ, f"BL{letter}Q")

    def place(name, x_BLAQ, letter):
      if cfg.qk_norm != "none":
        letters = "Q" if cfg.qk_norm == "head" else f"{letter}Q"
        x_BLAQ = Norm(cfg.norm, cfg.norm_epsilon, letters, name=f"{name}_norm")(x_BLAQ)
      return rotate(x_BLAQ, positions_BL, cfg.rope_theta)

    q_BLAQ = place("q", project("q", "A", A), "A")
    k_BTJQ = place("k", project("k", kv, J), kv)
    v_BTJQ = project("v", kv, J)
    if cache is None:
      o_BLAQ = attend(q_BLAQ, k_BTJQ, v_BTJQ, segments_BL)
    else:
      k_BTJQ = jax.lax.dynamic_update_slice_in_dim(cache.k_BTJQ, k_BTJQ, start, axis=1)
      v_BTJQ = jax.lax.dynamic_update_slice_in_dim(cache.v_BTJQ, v_BTJQ, start, axis=1)
      cache = KeyValues(k_BTJQ, v_BTJQ)
      places_T = jnp.arange(k_BTJQ.shape[1])
      last_L = start + jnp.arange(x_BLD.shape[1])
      mask_11LT = (places_T[None] <= last_L[:, None])[None, None]
      o_BLAQ = jax.nn.dot_product_attention(q_BLAQ, k_BTJQ, v_BTJQ, mask=mask_11LT)
    o_BLP = o_BLAQ.reshape(*x_BLD.shape[:2], A * Q)
    if cfg.sub_ln:
      o_BLP = Norm(cfg.norm, cfg.norm_epsilon, name="inner_norm")(o_BLP)
    if cfg.bitnet:
      o_BLP = bitnet.eight_bit(o_BLP)
    o_BLAQ = o_BLP.reshape(o_BLAQ.shape)
    init = nn.initializers.variance_scaling(
      1.0, "fan_avg", "uniform", in_axis=(0, 1), out_axis=2
    )
    w_AQD = weight("w_o_AQD", init, (A, Q, D))
    y_BLD = jnp.einsum("BLAQ,AQD->BLD", o_BLAQ, w_AQD)
    if cfg.use_bias:
      b_D = self.param("b_o_D", nn.initializers.zeros_init(), (D,))
      y_BLD += b_D.astype(dtype)[None, None]
    return constrain(y_BLD, "BLD"), cache
