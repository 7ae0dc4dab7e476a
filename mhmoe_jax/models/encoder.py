"""BEiT-3's encoder of pictures, text and both (2208.10442), with MoE in place of FFNs.

    [CLS] patches ... | text ...

Two backbones. "multiway", as released: every weight exists twice, for the places of the
picture and for those of the text; only the softmax of attention sees both. "shared":
once. Either way MoE layers stand in some of the last blocks, with one pool of experts
for both modalities or one for each: public code forbids MoE in a multiway network, and
the paper of MH-MoE does not say where its experts are.
"""

from collections.abc import Sequence
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from mhmoe_jax.models.attention import KeyValues
from mhmoe_jax.models.embedding import PictureEmbedding, TextEmbedding
from mhmoe_jax.models.encoder_blocks import EncoderPeriod, Pools
from mhmoe_jax.models.encoder_config import EncoderConfig
from mhmoe_jax.models.multiway import by_modality
from mhmoe_jax.models.norm import Norm
from mhmoe_jax.models.remat import remat
from mhmoe_jax.models.visibility import visible
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


# Keys and values by part of the model, "layers" and "moe_layers"; one for each block of
# a period, with periods stacked, (N, B, places, A, Q).
Caches = dict[str, list[KeyValues]]


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
    return self._apply([inputs], [None])[0][:2]

  def together(self, kinds: Sequence[Inputs]) -> list[tuple[jax.Array, Pools]]:
    """Applies the model to inputs of several kinds, all of them layer by layer.

    Each becomes what it becomes alone. On a mesh a layer's weights are gathered once,
    and their gradients added up over the kinds before devices exchange them.

    Args:
      kinds: of any shapes.

    Returns:
      Of each kind, what `__call__` returns.
    """
    return [found[:2] for found in self._apply(kinds, [None] * len(kinds))]

  def extend(
    self,
    inputs: Inputs,
    earlier: tuple[Caches, ...],
    sees_B1LT: jax.Array | None = None,
  ) -> tuple[jax.Array, Pools, Caches]:
    """Applies the model to places behind others, of which it has kept what is needed.

    Args:
      inputs: the new places.
      earlier: what was returned for places before them, in parts of any lengths, T
        places in all; () where there are none.
      sees_B1LT: bool, which of those each new place sees; None where there are none.

    Returns:
      As of `__call__`, and keys and values of the new places.
    """
    return self._apply([inputs], [earlier], sees_B1LT)[0]

  @nn.compact
  def _apply(
    self,
    kinds: Sequence[Inputs],
    earlier: Sequence[tuple[Caches, ...] | None],
    sees_B1LT: jax.Array | None = None,
  ) -> list[tuple[jax.Array, Pools, Caches]]:
    """Embeddings, blocks and the last norm; keys and values only beside `earlier`."""
    cfg = self.config
    picture = PictureEmbedding(cfg, name="picture")
    text = TextEmbedding(cfg, name="text")
    dropout = nn.Dropout(cfg.dropout, deterministic=self.deterministic)
    hidden, num_images, masks, reals = [], [], [], []
    for inputs in kinds:
      x_BLD, num_image, segments_BL, order_BL = _embed(picture, text, inputs)
      hidden.append(dropout(constrain(x_BLD, "BLD")))
      num_images.append(num_image)
      # Pictures are never padded, and alone need no mask.
      mask_B1LL = None if inputs.tokens_BT is None else visible(order_BL, segments_BL)
      if sees_B1LT is not None:
        mask_B1LL = jnp.concatenate([sees_B1LT, mask_B1LL], axis=3)
      masks.append(mask_B1LL)
      reals.append(segments_BL > 0)
    hidden, pools, kept = self._apply_blocks(
      tuple(hidden), tuple(num_images), masks, reals, earlier
    )
    if self.norm_output:
      norms = {
        prefix: Norm(cfg.norm, cfg.norm_epsilon, name=f"{prefix}final_norm")
        for prefix in ("", "image_", "text_")
      }
      hidden = [
        by_modality(cfg.backbone == "multiway", *place, norms.__getitem__)
        for place in zip(num_images, hidden, strict=True)
      ]
    return list(zip(hidden, pools, kept, strict=True))

  def _apply_blocks(self, hidden, num_images, masks, reals, earlier):
    """All blocks: those before the first MoE layer in one scan, the others in one."""
    cfg = self.config
    rates_N = jnp.linspace(0.0, cfg.drop_path, cfg.num_layers)
    last = 0 if cfg.ffn == "dense" else cfg.moe_last
    first = cfg.num_layers - last
    pools, kept = [{} for _ in hidden], [{} for _ in hidden]
    period = EncoderPeriod
    if not self.is_initializing():
      period = nn.map_variables(EncoderPeriod, "params", self._cast)
    for name, start, stop, size, use_moe in (
      ("layers", 0, first, 1, False),
      ("moe_layers", first, cfg.num_layers, cfg.moe_every, True),
    ):
      if start == stop:
        continue
      before = [
        None if parts is None else tuple(part[name] for part in parts)
        for parts in earlier
      ]
      hidden, found = nn.scan(
        remat(period, cfg.remat),
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(0, nn.broadcast, nn.broadcast, 0),
        length=(stop - start) // size,
      )(
        cfg, size, use_moe, self.deterministic, num_images, self.trace, name=name
      )(hidden, rates_N[start:stop].reshape(-1, size), masks, reals, before)
      for k, (of_layers, keys) in enumerate(found):
        pools[k], kept[k][name] = of_layers, keys
    return hidden, pools, kept

  def _cast(self, params):
    """Weights in the compute type, once for all kinds of a layer.

    Gradients of several kinds are then added up in it, before they are exchanged and
    made float32: XLA swaps an addition and an exchange of one type only.
    """
    if self.config.bitnet:
      return params

    def cast(path, w):
      names = [key.key for key in path]
      is_float32 = "router" in names or names[-1].startswith(("scale_", "bias_"))
      return w if is_float32 else w.astype(self.config.dtype)

    return jax.tree.map_with_path(cast, params)


def _embed(picture: PictureEmbedding, text: TextEmbedding, inputs: Inputs):
  """Hidden states, how many are of a picture, segments and order of all places."""
  parts, segments, orders, num_image = [], [], [], 0
  if inputs.patches_BPU is not None:
    patches_BPU = inputs.patches_BPU.astype(picture.config.dtype)
    parts.append(picture(patches_BPU, inputs.masked_BP))
    num_image = parts[0].shape[1]
    ones_BL = jnp.ones(parts[0].shape[:2], jnp.int32)
    real_B = inputs.real_B
    segments.append(ones_BL if real_B is None else ones_BL * real_B[:, None])
    orders.append(jnp.zeros(parts[0].shape[:2], jnp.int32))
  if inputs.tokens_BT is not None:
    parts.append(text(inputs.tokens_BT, inputs.positions_BT, inputs.segments_BT))
    segments.append(inputs.segments_BT)
    order_BT = inputs.order_BT
    orders.append(inputs.tokens_BT * 0 if order_BT is None else order_BT)
  x_BLD, *rest = (jnp.concatenate(x, axis=1) for x in (parts, segments, orders))
  return x_BLD, num_image, *rest
