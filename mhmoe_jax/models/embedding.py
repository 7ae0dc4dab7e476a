"""Patches and tokens to what an encoder's blocks work on, with learned positions.

As BEiT-3's released code: [CLS], the mask and biases start at zero, a masked patch is
replaced before positions are added, padding is zero, and nothing else tells modalities
apart than their own weights and positions. Of its tables of positions the two rows that
fairseq's offset leaves unused are not here.
"""

import math

from flax import linen as nn
import jax
import jax.numpy as jnp

from mhmoe_jax.models.encoder_config import EncoderConfig


class PictureEmbedding(nn.Module):
  """[CLS] and the patches of pictures, (B, 1 + P, D)."""

  config: EncoderConfig

  @nn.compact
  def __call__(self, patches_BPU: jax.Array, masked_BP: jax.Array | None) -> jax.Array:
    cfg, D = self.config, self.config.embed_dim
    B, P, U = patches_BPU.shape
    dtype = patches_BPU.dtype
    if cfg.num_patches != P or 3 * cfg.patch_size**2 != U:
      raise ValueError(
        f"pictures must have {cfg.num_patches} patches of {3 * cfg.patch_size**2} "
        f"numbers, got {P} of {U}."
      )
    zeros = nn.initializers.zeros_init()
    init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    w_UD = self.param("w_UD", init, (U, D))
    b_D, mask_D, cls_D = (
      self.param(f"{n}_D", zeros, (D,)) for n in ("b", "mask", "cls")
    )
    positions = nn.initializers.normal(0.02)
    position_LD = self.param("position_LD", positions, (P + 1, D))
    x_BPD = patches_BPU @ w_UD.astype(dtype) + b_D.astype(dtype)[None, None]
    if masked_BP is not None:
      mask_11D = mask_D.astype(dtype)[None, None]
      x_BPD = jnp.where(masked_BP[..., None], mask_11D, x_BPD)
    cls_B1D = jnp.broadcast_to(cls_D.astype(dtype), (B, 1, D))
    x_BLD = jnp.concatenate([cls_B1D, x_BPD], axis=1)
    return x_BLD + position_LD.astype(dtype)[None]


class TextEmbedding(nn.Module):
  """Tokens of texts, (B, T, D); zero at padding."""

  config: EncoderConfig

  @nn.compact
  def __call__(
    self, tokens_BT: jax.Array, positions_BT: jax.Array, segments_BT: jax.Array
  ) -> jax.Array:
    cfg, D = self.config, self.config.embed_dim
    dtype = jnp.dtype(cfg.dtype)
    init = nn.initializers.normal(D**-0.5)
    embed_VD = self.param("embed_VD", init, (cfg.vocab_size, D))
    positions = nn.initializers.normal(0.02)
    position_LD = self.param("position_LD", positions, (cfg.text_length, D))
    # Taken in float32, in which the gradients of a frequent token add up.
    x_BTD = embed_VD[tokens_BT].astype(dtype) + position_LD[positions_BT].astype(dtype)
    return jnp.where((segments_BT > 0)[..., None], x_BTD, 0)


def resize_positions(position_LD: jax.Array, num_patches: int) -> jax.Array:
  """Positions of a picture for another grid of patches, bicubic; [CLS]'s stays.

  Args:
    position_LD: of [CLS] and of a square of patches, from left to right, top to bottom.
    num_patches: of the new square.

  Returns:
    (1 + num_patches, D).
  """
  cls_1D, grid_PD = position_LD[:1], position_LD[1:]
  old, new = math.isqrt(len(grid_PD)), math.isqrt(num_patches)
  grid_YXD = grid_PD.reshape(old, old, -1)
  grid_YXD = jax.image.resize(grid_YXD, (new, new, grid_YXD.shape[-1]), "cubic")
  return jnp.concatenate([cls_1D, grid_YXD.reshape(num_patches, -1)])
