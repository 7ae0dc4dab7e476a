"""BEiT-3's pre-training model: what the encoder says of masked patches and tokens."""

from collections.abc import Sequence
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from mhmoe_jax.models.encoder import Encoder, Inputs
from mhmoe_jax.models.encoder_blocks import Pools
from mhmoe_jax.models.encoder_config import EncoderConfig


class Question(NamedTuple):
  """Inputs, and the places that are to be told; see `MaskedModel.__call__`."""

  inputs: Inputs
  patch_places_BJ: jax.Array | None = None
  token_places_BJ: jax.Array | None = None


class Answer(NamedTuple):
  """What `MaskedModel.__call__` returns."""

  codes_BJW: jax.Array | None
  tokens_BJV: jax.Array | None
  pools: Pools


class MaskedModel(nn.Module):
  """The encoder, and untied heads for visual codes and tokens.

  Attributes: as of `Encoder`.
  """

  config: EncoderConfig
  deterministic: bool = True
  trace: bool = False

  def __call__(
    self,
    inputs: Inputs,
    patch_places_BJ: jax.Array | None = None,
    token_places_BJ: jax.Array | None = None,
  ) -> Answer:
    """Applies the model.

    Args:
      inputs: what it sees.
      patch_places_BJ: int32, numbers of the J patches to tell the codes of.
      token_places_BJ: int32, numbers of the J tokens to tell.

    Returns:
      float32 logits of codes (B, J, W) and of tokens (B, J, V), each None where no
      places are given; the auxiliary values of `Encoder`.
    """
    return self.together([Question(inputs, patch_places_BJ, token_places_BJ)])[0]

  @nn.compact
  def together(self, kinds: Sequence[Question]) -> list[Answer]:
    """Applies the model to several kinds of inputs, see `Encoder.together`."""
    cfg = self.config
    encoder = Encoder(cfg, self.deterministic, self.trace, name="encoder")
    image_head = LogitHead(cfg.num_codes, "W", name="image_head")
    text_head = LogitHead(cfg.vocab_size, "V", name="text_head")
    encoded = encoder.together([kind.inputs for kind in kinds])
    answers = []
    for kind, (x_BLD, pools) in zip(kinds, encoded, strict=True):
      codes_BJW = tokens_BJV = None
      patches_BPU = kind.inputs.patches_BPU
      num_image = 0 if patches_BPU is None else patches_BPU.shape[1] + 1
      if kind.patch_places_BJ is not None:
        codes_BJW = image_head(_take(x_BLD, kind.patch_places_BJ + 1))
      if kind.token_places_BJ is not None:
        tokens_BJV = text_head(_take(x_BLD, kind.token_places_BJ + num_image))
      answers.append(Answer(codes_BJW, tokens_BJV, pools))
    return answers


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
