"""BEiT-3's encoder of pictures, text and both (2208.10442), with MoE in place of FFNs.

    [CLS] patches ... | text ...

Two backbones. "multiway", as released: every weight exists twice, for the places of the
picture and for those of the text; only the softmax of attention sees both. "shared":
once. Either way MoE layers stand in some of the last blocks, with one pool of experts
for both modalities or one for each: public code forbids MoE in a multiway network, and
the paper of MH-MoE does not say where its experts are.
"""

from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from mhmoe_jax.models.attention import KeyValues
from mhmoe_jax.models.embedding import PictureEmbedding, TextEmbedding
from mhmoe_jax.models.encoder_config import EncoderConfig
from mhmoe_jax.models.multiway import EncoderAttention, by_modality
from mhmoe_jax.models.norm import Norm
from mhmoe_jax.models.remat import remat
from mhmoe_jax.models.visibility import visible
from mhmoe_jax.moe.experts import DenseFfn
from mhmoe_jax.moe.layer import MoeAux, MultiHeadMoe
from mhmoe_jax.sharding import constrain


class Inputs(NamedTuple):
  """What an encoder sees: a picture, text, or both. What is absent is None."""

  patches_BPU: jax.Array | None = None  # in [-1, 1], `patches.to_patches`
  masked_BP: jax.Array | None = None  # bool, patches that the mask vector replaces
  tokens_BT: jax.Array | None = None  # int32
  positions_BT: jax.Array | None = None  # int32, of each token in its text
  segments_BT: jax.Array | None = None  # int32, 0 for padding; beside a picture 1
  order_BT: jax.Array | None = None  # int32 for `visible`; None: all see all
  real_B: jax.Array | None = None  # bool, False for rows that are padding; None: none


# Auxiliary values of MoE layers by pool: "shared", or "image" and "text".
Pools = dict[str, MoeAux]
# Keys and values by part of the model, "layers" and "moe_layers"; one for each block of
# a period, with periods stacked, (N, B, places, A, Q).
Caches = dict[str, list[KeyValues]]


class EncoderBlock(nn.Module):
  """Attention and FFN, each behind a norm and beside a residual."""

  config: EncoderConfig
  use_moe: bool
  deterministic: bool
  num_image: int
  trace: bool

  @nn.compact
  def __call__(self, x_BLD, drop_rate, mask_B1LL, real_BL, earlier):
    cfg, num_image = self.config, self.num_image
    multiway = cfg.backbone == "multiway"
    norm = cfg.norm, cfg.norm_epsilon
    dropout = nn.Dropout(cfg.dropout, deterministic=self.deterministic)

    def add(x_BLD, y_BLD):
      return x_BLD + self._drop_path(dropout(y_BLD), drop_rate)

    y_BLD = by_modality(
      multiway, num_image, x_BLD, lambda p: Norm(*norm, name=f"{p}attention_norm")
    )
    attention = EncoderAttention(cfg, name="attention")
    y_BLD, kept = attention(y_BLD, num_image, mask_B1LL, earlier)
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
        real = real_BL[:, start : start + y_BLD.shape[1]]
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
  """Blocks of which the last has an MoE layer, or one without; what is scanned."""

  config: EncoderConfig
  num_blocks: int
  use_moe: bool
  deterministic: bool
  num_image: int
  trace: bool

  @nn.compact
  def __call__(self, x_BLD, rates_N, mask_B1LL, real_BL, earlier):
    pools, kept = {}, []
    for i in range(self.num_blocks):
      use_moe = self.use_moe and i == self.num_blocks - 1
      block = EncoderBlock(
        self.config,
        use_moe,
        self.deterministic,
        self.num_image,
        self.trace,
        name=f"block_{i}",
      )
      mine = None if earlier is None else tuple(part[i] for part in earlier)
      x_BLD, pools, one = block(x_BLD, rates_N[i], mask_B1LL, real_BL, mine)
      kept.append(one)
    return x_BLD, (pools, kept)


class Encoder(nn.Module):
  """Hidden states of a picture, a text or both.

  Attributes:
    config: see `EncoderConfig`.
    deterministic: False in training: dropout, drop-path, the training capacity factor.
    trace: return what became of every sub-token, `MoeAux.choices`, too.
    norm_output: False: without the last norm.
  """

  config: EncoderConfig
  deterministic: bool = True
  trace: bool = False
  norm_output: bool = True

  def __call__(self, inputs: Inputs) -> tuple[jax.Array, Pools]:
    """Applies the model.

    Args:
      inputs: with pictures, texts or both.

    Returns:
      Hidden states behind the last norm, (B, L, D): [CLS] and patches first, if there
      are pictures. And the auxiliary values of the MoE layers, stacked along a leading
      N.
    """
    return self.extend(inputs)[:2]

  @nn.compact
  def extend(
    self,
    inputs: Inputs,
    earlier: tuple[Caches, ...] | None = None,
    sees_B1LT: jax.Array | None = None,
  ) -> tuple[jax.Array, Pools, Caches]:
    """Applies the model to places behind others, of which it has kept what is needed.

    Args:
      inputs: the new places.
      earlier: what was returned for places before them, in parts of any lengths, T
        places in all; () where there are none. None: keep nothing of the new ones.
      sees_B1LT: bool, which of those each new place sees; None where there are none.

    Returns:
      As of `__call__`, and keys and values of the new places.
    """
    cfg = self.config
    dtype = jnp.dtype(cfg.dtype)
    parts, segments, orders, num_image = [], [], [], 0
    if inputs.patches_BPU is not None:
      embed = PictureEmbedding(cfg, name="picture")
      parts.append(embed(inputs.patches_BPU.astype(dtype), inputs.masked_BP))
      num_image = parts[0].shape[1]
      ones_BL = jnp.ones(parts[0].shape[:2], jnp.int32)
      real_B = inputs.real_B
      segments.append(ones_BL if real_B is None else ones_BL * real_B[:, None])
      orders.append(jnp.zeros(parts[0].shape[:2], jnp.int32))
    if inputs.tokens_BT is not None:
      embed = TextEmbedding(cfg, name="text")
      tokens = inputs.tokens_BT, inputs.positions_BT, inputs.segments_BT
      parts.append(embed(*tokens))
      segments.append(inputs.segments_BT)
      order_BT = inputs.order_BT
      orders.append(inputs.tokens_BT * 0 if order_BT is None else order_BT)
    x_BLD = constrain(jnp.concatenate(parts, axis=1), "BLD")
    segments_BL, order_BL = (jnp.concatenate(x, axis=1) for x in (segments, orders))
    x_BLD = nn.Dropout(cfg.dropout, deterministic=self.deterministic)(x_BLD)

    # Pictures are never padded, and alone need no mask.
    mask_B1LL = None if inputs.tokens_BT is None else visible(order_BL, segments_BL)
    if sees_B1LT is not None:
      mask_B1LL = jnp.concatenate([sees_B1LT, mask_B1LL], axis=3)
    x_BLD, pools, kept = self._apply_blocks(
      x_BLD, num_image, mask_B1LL, segments_BL > 0, earlier
    )
    if not self.norm_output:
      return x_BLD, pools, kept
    x_BLD = by_modality(
      cfg.backbone == "multiway",
      num_image,
      x_BLD,
      lambda p: Norm(cfg.norm, cfg.norm_epsilon, name=f"{p}final_norm"),
    )
    return x_BLD, pools, kept

  def _apply_blocks(self, x_BLD, num_image: int, mask_B1LL, real_BL, earlier):
    """All blocks: those before the first MoE layer in one scan, the others in one."""
    cfg = self.config
    rates_N = jnp.linspace(0.0, cfg.drop_path, cfg.num_layers)
    last = 0 if cfg.ffn == "dense" else cfg.moe_last
    first, pools, kept = cfg.num_layers - last, {}, {}
    for name, start, stop, size, use_moe in (
      ("layers", 0, first, 1, False),
      ("moe_layers", first, cfg.num_layers, cfg.moe_every, True),
    ):
      if start == stop:
        continue
      mine = None if earlier is None else tuple(part[name] for part in earlier)
      x_BLD, (pools, kept[name]) = nn.scan(
        remat(EncoderPeriod, cfg.remat),
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(0, nn.broadcast, nn.broadcast, 0),
        length=(stop - start) // size,
      )(
        cfg, size, use_moe, self.deterministic, num_image, self.trace, name=name
      )(x_BLD, rates_N[start:stop].reshape(-1, size), mask_B1LL, real_BL, mine)
    return x_BLD, pools, kept
