"""What an encoder is stacked from: blocks, and the periods of them that are scanned."""

from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from mhmoe_jax.models.encoder_config import EncoderConfig
from mhmoe_jax.models.multiway import EncoderAttention, by_modality
from mhmoe_jax.models.norm import Norm
from mhmoe_jax.moe.experts import DenseFfn
from mhmoe_jax.moe.layer import MoeAux, MultiHeadMoe

# Auxiliary values of MoE layers by pool: "shared", or "image" and "text".
Pools = dict[str, MoeAux]


class Sight(NamedTuple):
  """What blocks must know of a sequence beside its hidden states."""

  mask_B1LL: jax.Array | None  # bool, what each place sees; None: all
  real_BL: jax.Array  # bool, False for padding
  # Of each layer, keys and values of places before these; None: there are none.
  earlier: tuple[Any, ...] | None


class EncoderBlock(nn.Module):
  """Attention and FFN, each behind a norm and beside a residual."""

  config: EncoderConfig
  use_moe: bool
  deterministic: bool
  trace: bool

  @nn.compact
  def __call__(self, x_BLD, num_image: int, drop_rate, sight: Sight):
    cfg = self.config
    multiway = cfg.backbone == "multiway"
    norm = cfg.norm, cfg.norm_epsilon
    dropout = nn.Dropout(cfg.dropout, deterministic=self.deterministic)

    def add(x_BLD, y_BLD):
      return x_BLD + self._drop_path(dropout(y_BLD), drop_rate)

    y_BLD = by_modality(
      multiway, num_image, x_BLD, lambda p: Norm(*norm, name=f"{p}attention_norm")
    )
    attention = EncoderAttention(cfg, name="attention")
    y_BLD, kept = attention(y_BLD, num_image, sight.mask_B1LL, sight.earlier)
    x_BLD = add(x_BLD, y_BLD)
    y_BLD = by_modality(
      multiway, num_image, x_BLD, lambda p: Norm(*norm, name=f"{p}ffn_norm")
    )
    if not self.use_moe:
      y_BLD = by_modality(
        multiway,
        num_image,
        y_BLD,
        lambda p: DenseFfn(cfg.ffn_dim, cfg.style, name=f"{p}ffn"),
      )
      return add(x_BLD, y_BLD), {}, kept
    pools = {}

    def make(prefix):
      def apply(y_BLD):
        # The places of this pool: of a part of the sequence, or all of them.
        start = num_image if prefix == "text_" else 0
        real = sight.real_BL[:, start : start + y_BLD.shape[1]]
        lengths = {"image": num_image, "text": x_BLD.shape[1] - num_image}
        if prefix:
          lengths = {prefix.rstrip("_"): y_BLD.shape[1]}
        moe = MultiHeadMoe(
          cfg.layer,
          y_BLD.dtype,
          self.trace,
          tuple((name, length) for name, length in lengths.items() if length),
          name=f"{prefix}moe",
        )
        y_BLD, aux = moe(y_BLD, real, deterministic=self.deterministic)
        pools[prefix.rstrip("_") or "shared"] = aux
        return y_BLD

      return apply

    y_BLD = by_modality(cfg.pools == "modality", num_image, y_BLD, make)
    return add(x_BLD, y_BLD), pools, kept

  def _drop_path(self, y_BLD: jax.Array, rate: jax.Array) -> jax.Array:
    """Leaves a block's sum out of whole examples (1603.09382), in training."""
    if self.deterministic or not self.config.drop_path:
      return y_BLD
    kept_B11 = jax.random.bernoulli(
      self.make_rng("dropout"), 1 - rate, (y_BLD.shape[0], 1, 1)
    )
    return jnp.where(kept_B11, y_BLD / (1 - rate).astype(y_BLD.dtype), 0)


class EncoderPeriod(nn.Module):
  """Blocks of which the last has an MoE layer, or one without; what is scanned.

  It takes several sequences through each block, one after the other.
  """

  config: EncoderConfig
  num_blocks: int
  use_moe: bool
  deterministic: bool
  num_images: tuple[int, ...]  # of each sequence
  trace: bool

  @nn.compact
  def __call__(self, hidden, rates_N, masks, reals, earlier):
    hidden, pools, kept = list(hidden), [{} for _ in hidden], [[] for _ in hidden]
    for i in range(self.num_blocks):
      use_moe = self.use_moe and i == self.num_blocks - 1
      block = EncoderBlock(
        self.config, use_moe, self.deterministic, self.trace, name=f"block_{i}"
      )
      for k, num_image in enumerate(self.num_images):
        mine = None if earlier[k] is None else tuple(part[i] for part in earlier[k])
        sight = Sight(masks[k], reals[k], mine)
        hidden[k], pools[k], one = block(hidden[k], num_image, rates_N[i], sight)
        kept[k].append(one)
    return tuple(hidden), list(zip(pools, kept, strict=True))
