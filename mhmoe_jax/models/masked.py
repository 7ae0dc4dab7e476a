"""BEiT-3's pre-training model: what the encoder says of masked patches and tokens."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from mhmoe_jax.models.encoder import Encoder, Inputs, Pools
from mhmoe_jax.models.encoder_config import EncoderConfig


class MaskedModel(nn.Module):
  """The encoder, and untied heads for visual codes and tokens.

  Attributes: as of `Encoder`.
  """

  config: EncoderConfig
  deterministic: bool = True
  trace: bool = False

  @nn.compact
  def __call__(
    self,
    inputs: Inputs,
    patch_places_BJ: jax.Array | None = None,
    token_places_BJ: jax.Array | None = None,
  ) -> tuple[jax.Array | None, jax.Array | None, Pools]:
    """Applies the model.

    Args:
      inputs: what it sees.
      patch_places_BJ: int32, numbers of the J patches to tell the codes of.
      token_places_BJ: int32, numbers of the J tokens to tell.

    Returns:
      float32 logits of codes (B, J, W) and of tokens (B, J, V), each None where no
      places are given; the auxiliary values of `Encoder`.
    """
    cfg = self.config
    encoder = Encoder(cfg, self.deterministic, self.trace, name="encoder")
    x_BLD, aux = encoder(inputs)
    num_image = 0 if inputs.patches_BPU is None else inputs.patches_BPU.shape[1] + 1
    codes_BJW = tokens_BJV = None
    if patch_places_BJ is not None:
      head = LogitHead(cfg.num_codes, "W", name="image_head")
      codes_BJW = head(_take(x_BLD, patch_places_BJ + 1))
    if token_places_BJ is not None:
      head = LogitHead(cfg.vocab_size, "V", name="text_head")
      tokens_BJV = head(_take(x_BLD, token_places_BJ + num_image))
    return codes_BJW, tokens_BJV, aux


class LogitHead(nn.Module):
  """An untied linear map to float32 logits."""

  size: int
  letter: str

  @nn.compact
  def __call__(self, x_BJD: jax.Array) -> jax.Array:
    D, letter = x_BJD.shape[-1], self.letter
    w = self.param(f"w_D{letter}", nn.initializers.normal(0.02), (D, self.size))
    b = self.param(f"b_{letter}", nn.initializers.zeros_init(), (self.size,))
    logits = jnp.einsum(
      "BJD,DV->BJV",
      x_BJD,
      w.astype(x_BJD.dtype),
      preferred_element_type=jnp.float32,
    )
    return logits + b[None, None]


def _take(x_BLD: jax.Array, places_BJ: jax.Array) -> jax.Array:
  return jnp.take_along_axis(x_BLD, places_BJ[..., None], axis=1)
