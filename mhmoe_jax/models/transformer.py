"""A decoder-only Transformer whose FFNs are dense, SMoE or MH-MoE.

Pre-norm blocks; every `moe_every`-th has an MoE layer. One period of blocks is scanned,
so that a deep model compiles as fast as a shallow one; layers' parameters are stacked
along a leading N. Decoding takes them one by one, because a scan copies every layer's
experts at every token. Packed documents do not see each other.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from mhmoe_jax.models.attention import Attention, KeyValues
from mhmoe_jax.models.config import TransformerConfig
from mhmoe_jax.models.norm import Norm
from mhmoe_jax.models.remat import remat
from mhmoe_jax.moe.experts import DenseFfn
from mhmoe_jax.moe.layer import MoeAux, MultiHeadMoe
from mhmoe_jax.sharding import constrain


class Block(nn.Module):
  """Attention and FFN, each behind a norm and beside a residual."""

  config: TransformerConfig
  use_moe: bool
  deterministic: bool
  trace: bool

  @nn.compact
  def __call__(self, x_BLD, positions_BL, segments_BL, cache, start):
    cfg = self.config
    dropout = nn.Dropout(cfg.dropout, deterministic=self.deterministic)
    y_BLD = Norm(cfg.norm, cfg.norm_epsilon, name="attention_norm")(x_BLD)
    y_BLD, cache = Attention(cfg, name="attention")(
      y_BLD, positions_BL, segments_BL, cache, start
    )
    x_BLD += dropout(y_BLD)
    y_BLD = Norm(cfg.norm, cfg.norm_epsilon, name="ffn_norm")(x_BLD)
    if self.use_moe:
      moe = MultiHeadMoe(cfg.layer, x_BLD.dtype, self.trace, name="moe")
      y_BLD, aux = moe(y_BLD, segments_BL > 0, deterministic=self.deterministic)
      dropout = nn.Dropout(cfg.moe_dropout, deterministic=self.deterministic)
    else:
      y_BLD, aux = DenseFfn(cfg.ffn_dim, cfg.style, name="ffn")(y_BLD), None
    return x_BLD + dropout(y_BLD), aux, cache


class Period(nn.Module):
  """`config.period` blocks, the last of them with the MoE layer, if there is one."""

  config: TransformerConfig
  deterministic: bool
  trace: bool

  @nn.compact
  def __call__(self, x_BLD, positions_BL, segments_BL, start, caches):
    cfg, kept, aux = self.config, [], None
    for i in range(cfg.period):
      use_moe = cfg.ffn != "dense" and i == cfg.period - 1
      block = Block(cfg, use_moe, self.deterministic, self.trace, name=f"block_{i}")
      cache = None if caches is None else caches[i]
      x_BLD, aux, cache = block(x_BLD, positions_BL, segments_BL, cache, start)
      kept.append(cache)
    return x_BLD, (aux, None if caches is None else kept)


class Decoder(nn.Module):
  """Next-token logits.

  Attributes:
    config: see `TransformerConfig`.
    deterministic: False in training: dropout, and the training capacity factor.
    trace: return what became of every sub-token, `MoeAux.choices`, too.
  """

  config: TransformerConfig
  deterministic: bool = True
  trace: bool = False

  @nn.compact
  def __call__(
    self,
    tokens_BL: jax.Array,
    positions_BL: jax.Array,
    segments_BL: jax.Array,
    caches: list[list[KeyValues]] | None = None,
    start: jax.Array | int = 0,
  ) -> tuple[jax.Array, MoeAux | None, list[list[KeyValues]] | None]:
    """Applies the model.

    Args:
      tokens_BL: int32 in [0, V).
      positions_BL: int32, position of each token in its document.
      segments_BL: int32, 0 for padding, else the number of the document in its row.
      caches: in decoding, `decoding.empty_caches`; then there is one document per row,
        and the parameters are as `decoding.unstack` returns them.
      start: in decoding, the place of the first of these tokens in the caches.

    Returns:
      float32 logits (B, L, V); the auxiliary values of the MoE layers, stacked along a
      leading N, or None if there are none, or caches; the caches, if given.
    """
    cfg = self.config
    dtype = jnp.dtype(cfg.dtype)
    V, D = cfg.vocab_size, cfg.embed_dim
    embed_VD = self.param("embed_VD", nn.initializers.normal(D**-0.5), (V, D))
    # Taken in float32, so that the gradient of a frequent token adds up in it: a sum of
    # bfloat16 stands still once it is some hundred times what is added.
    x_BLD = embed_VD[tokens_BL].astype(dtype)
    if cfg.scale_embeddings:
      x_BLD *= D**0.5
    dropout = nn.Dropout(cfg.dropout, deterministic=self.deterministic)
    x_BLD = constrain(dropout(x_BLD), "BLD")

    if caches is None:
      x_BLD, aux = self._scan_layers(x_BLD, positions_BL, segments_BL)
    else:
      aux, kept = None, []
      for i, layer_caches in enumerate(caches):
        layer = Period(cfg, self.deterministic, self.trace, name=f"layers_{i}")
        x_BLD, (_, layer_caches) = layer(
          x_BLD, positions_BL, segments_BL, jnp.asarray(start), layer_caches
        )
        kept.append(layer_caches)
      caches = kept

    x_BLD = Norm(cfg.norm, cfg.norm_epsilon, name="final_norm")(x_BLD)
    if not cfg.tie_embeddings:
      embed_VD = self.param("unembed_VD", nn.initializers.normal(D**-0.5), (V, D))
    logits_BLV = jnp.einsum(
      "BLD,VD->BLV",
      x_BLD,
      embed_VD.astype(dtype),
      preferred_element_type=jnp.float32,
    )
    return constrain(logits_BLV, "BLV"), aux, caches

  def _scan_layers(self, x_BLD, positions_BL, segments_BL):
    cfg = self.config
    x_BLD, (aux, _) = nn.scan(
      remat(Period, cfg.remat),
      variable_axes={"params": 0},
      split_rngs={"params": True, "dropout": True},
      in_axes=(nn.broadcast,) * 4,
      length=cfg.num_layers // cfg.period,
      unroll=cfg.scan_unroll,
      # The check traces every layer once more. Initial values count its random draws.
      check_constancy_invariants=self.is_initializing(),
    )(
      cfg, self.deterministic, self.trace, name="layers"
    )(x_BLD, positions_BL, segments_BL, jnp.asarray(0), None)
    return x_BLD, aux
