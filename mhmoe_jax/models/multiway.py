"""What BEiT-3 has twice (2208.10442): weights for the picture and for the text.

A sequence begins with the places of the picture and ends with those of the text, so
that weights by modality are static slices. Only the softmax of attention sees both.
"""

from collections.abc import Callable

from flax import linen as nn
import jax
import jax.numpy as jnp

from mhmoe_jax.models.attention import KeyValues
from mhmoe_jax.models.encoder_config import EncoderConfig
from mhmoe_jax.models.norm import Norm
from mhmoe_jax.sharding import constrain


def by_modality(
  multiway: bool, num_image: int, x_BLD: jax.Array, make: Callable[[str], Callable]
) -> jax.Array:
  """Applies `make(prefix)` to the places of each modality; static slices.

  Args:
    multiway: False: one module for all places, without a prefix.
    num_image: how many leading places are of the picture.
    x_BLD: all places.
    make: a module by the prefix of its name, "image_" or "text_".
  """
  if not multiway:
    return make("")(x_BLD)
  parts = []
  if num_image:
    parts.append(make("image_")(x_BLD[:, :num_image]))
  if num_image < x_BLD.shape[1]:
    parts.append(make("text_")(x_BLD[:, num_image:]))
  return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)


class ToHeads(nn.Module):
  """A linear map D -> A * Q."""

  shape: tuple[int, int]
  use_bias: bool

  @nn.compact
  def __call__(self, x_BLD: jax.Array) -> jax.Array:
    init = nn.initializers.variance_scaling(
      0.5, "fan_avg", "uniform", in_axis=0, out_axis=(1, 2)
    )
    w_DAQ = self.param("w_DAQ", init, (x_BLD.shape[-1], *self.shape))
    y_BLAQ = jnp.einsum("BLD,DAQ->BLAQ", x_BLD, w_DAQ.astype(x_BLD.dtype))
    if self.use_bias:
      b_AQ = self.param("b_AQ", nn.initializers.zeros_init(), self.shape)
      y_BLAQ += b_AQ.astype(x_BLD.dtype)[None, None]
    return y_BLAQ


class FromHeads(nn.Module):
  """A linear map A * Q -> D of what the heads bring, (B, L, A * Q)."""

  heads: int
  use_bias: bool

  @nn.compact
  def __call__(self, o_BLD: jax.Array) -> jax.Array:
    D = o_BLD.shape[-1]
    shape = self.heads, D // self.heads, D
    init = nn.initializers.variance_scaling(
      1.0, "fan_avg", "uniform", in_axis=(0, 1), out_axis=2
    )
    w_AQD = self.param("w_AQD", init, shape)
    o_BLAQ = o_BLD.reshape(*o_BLD.shape[:2], *shape[:2])
    y_BLD = jnp.einsum("BLAQ,AQD->BLD", o_BLAQ, w_AQD.astype(o_BLD.dtype))
    if self.use_bias:
      b_D = self.param("b_D", nn.initializers.zeros_init(), (D,))
      y_BLD += b_D.astype(o_BLD.dtype)[None, None]
    return y_BLD


class EncoderAttention(nn.Module):
  """Self-attention under a mask, without positions; (B, L, D) -> (B, L, D).

  Places may see earlier ones, too, of which keys and values are all that is left: then
  it returns their own as well.
  """

  config: EncoderConfig

  @nn.compact
  def __call__(
    self,
    x_BLD: jax.Array,
    num_image: int,
    mask_B1LL: jax.Array | None,
    earlier: tuple[KeyValues, ...] | None = None,
  ) -> tuple[jax.Array, KeyValues | None]:
    cfg = self.config
    A = cfg.num_attention_heads
    Q = cfg.embed_dim // A

    def each(x, make):
      return by_modality(cfg.backbone == "multiway", num_image, x, make)

    q_BLAQ, k_BLAQ, v_BLAQ = (
      constrain(
        each(x_BLD, lambda p, n=n: ToHeads((A, Q), cfg.use_bias, name=p + n)), "BLAQ"
      )
      for n in ("q", "k", "v")
    )
    kept = None
    if earlier is not None:
      kept = KeyValues(k_BLAQ, v_BLAQ)
      parts = zip(*earlier, kept, strict=True)
      k_BLAQ, v_BLAQ = (jnp.concatenate(part, axis=1) for part in parts)
    o_BLAQ = jax.nn.dot_product_attention(q_BLAQ, k_BLAQ, v_BLAQ, mask=mask_B1LL)
    o_BLD = o_BLAQ.reshape(x_BLD.shape)
    if cfg.sub_ln:
      norm = cfg.norm, cfg.norm_epsilon
      o_BLD = each(o_BLD, lambda p: Norm(*norm, name=f"{p}inner_norm"))
    y_BLD = each(o_BLD, lambda p: FromHeads(A, cfg.use_bias, name=f"{p}o"))
    return constrain(y_BLD, "BLD"), kept
