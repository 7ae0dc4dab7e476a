"""Captions from an encoder, by beam search that appends [MASK] (BEiT-3, 2208.10442).

The encoder tells a token from [MASK] in its place, behind the picture and the tokens to
its left. So every step has two new places for each beam, the token that was chosen last
and [MASK] behind it. The token's keys and values are kept, those of [MASK] are not. A
picture is encoded once, before, since it sees no caption; its experts are, too.

A row of a batch is a picture with all of its beams, which share the picture's keys and
values. Experts are always routed without dropping, as in `decoding.py`.

W beams, T places for tokens.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mhmoe_jax.models import beams
from mhmoe_jax.models.encoder import Caches, Encoder, Inputs
from mhmoe_jax.models.encoder_config import EncoderConfig
from mhmoe_jax.models.masked import LogitHead
from mhmoe_jax.sharding import constrain


class Language(NamedTuple):
  """What decoding must know of a vocabulary."""

  begin_id: int  # before the first token of a text
  end_id: int  # behind the last
  mask_id: int
  allowed_V: jax.Array  # bool, the tokens that may be written, the end among them


def write_captions(
  config: EncoderConfig,
  params,
  patches_BPU: jax.Array,
  real_B: jax.Array,
  language: Language,
  *,
  length: int,
  num_beams: int,
  length_penalty: float,
) -> tuple[jax.Array, jax.Array]:
  """The best caption of each picture.

  Args:
    config: of the model.
    params: of `MaskedModel`, of which the image head is not needed.
    patches_BPU: pictures, `patches.to_patches`.
    real_B: bool, False for rows that are padding.
    language: of the captions.
    length: T, the longest caption with the tokens before and behind it, at least 2.
    num_beams: W; 1 is greedy decoding.
    length_penalty: the power of lengths that log-probabilities are divided by.

  Returns:
    int32 (B, T), which begin with `begin_id` and, unless they were cut, have `end_id`
    behind their last token; what they are worth, float32 (B,).
  """
  T, W = length, num_beams
  encoder, head = Encoder(config.dropless), LogitHead(config.vocab_size, "V")
  apply, weights = encoder.apply, {"params": params["encoder"]}
  _, _, picture = apply(
    weights, Inputs(patches_BPU, real_B=real_B), (), method="extend"
  )
  num_image = config.num_image
  # Of what is new, two of each beam, and of what is kept: its place and its beam.
  new_place, new_beam = jnp.arange(2 * W) % 2, jnp.arange(2 * W) // 2
  kept_place, kept_beam = jnp.arange(T * W) % T, jnp.arange(T * W) // T

  def read(written: Caches, tokens_BW: jax.Array, place: jax.Array):
    """Log-probabilities at a place, and the caches with the tokens before it."""
    masks_BW = jnp.full_like(tokens_BW, language.mask_id)
    pairs_BT = jnp.stack([tokens_BW, masks_BW], axis=2).reshape(-1, 2 * W)
    inputs = Inputs(
      tokens_BT=pairs_BT,
      positions_BT=jnp.broadcast_to((place - 1 + new_place)[None], pairs_BT.shape),
      segments_BT=(1 + new_beam)[None] * real_B[:, None],
      order_BT=jnp.broadcast_to(new_place[None], pairs_BT.shape),
    )
    before_T = kept_place < place - 1
    own_LT = (new_beam[:, None] == kept_beam[None]) & before_T[None]
    all_LT = jnp.ones((2 * W, num_image), bool)
    sees_LT = jnp.concatenate([all_LT, own_LT], axis=1)
    sees_B1LT = jnp.broadcast_to(sees_LT[None, None], (len(real_B), 1, *sees_LT.shape))
    x_BLD, _, new = apply(
      weights, inputs, (picture, written), sees_B1LT, method="extend"
    )
    logits_BWV = head.apply({"params": params["text_head"]}, x_BLD[:, 1::2])
    log_p_BWV = jax.nn.log_softmax(logits_BWV)
    log_p_BWV = jnp.where(language.allowed_V[None, None], log_p_BWV, -jnp.inf)

    def keep(written, new):
      by_beam = _by_beam(written, W)
      tokens = _by_beam(new, W)[:, :, :, :1]
      kept = jax.lax.dynamic_update_slice_in_dim(by_beam, tokens, place - 1, axis=3)
      return _flat(kept)

    return log_p_BWV, jax.tree.map(keep, written, new)

  def step(carry):
    found, written, place = carry
    tokens_BW = jax.lax.dynamic_index_in_dim(
      found.tokens_BWT, place - 1, axis=2, keepdims=False
    )
    log_p_BWV, written = read(written, tokens_BW, place)
    found, parents_BW = beams.advance(
      found, log_p_BWV, place, language.end_id, length_penalty
    )
    which = parents_BW[None, :, :, None, None, None]

    def follow(x):
      return _flat(jnp.take_along_axis(_by_beam(x, W), which, axis=2))

    return found, jax.tree.map(follow, written), place + 1

  def goes_on(carry):
    found, _, place = carry
    return (place < T) & ~found.is_done_B.all()

  def empty(x):
    N, B, _, A, Q = x.shape
    return constrain(jnp.zeros((N, B, W * T, A, Q), x.dtype), "NBLAQ")

  found = beams.begin(~real_B, W, T, language.begin_id)
  carry = found, jax.tree.map(empty, picture), jnp.int32(1)
  found, _, _ = jax.lax.while_loop(goes_on, step, carry)
  return beams.best(found, length_penalty)


def _by_beam(x: jax.Array, num_beams: int) -> jax.Array:
  """(N, B, W * T, A, Q) to (N, B, W, T, A, Q)."""
  N, B, _, A, Q = x.shape
  return x.reshape(N, B, num_beams, -1, A, Q)


def _flat(x: jax.Array) -> jax.Array:
  """The inverse of `_by_beam`."""
  N, B, _, _, A, Q = x.shape
  return constrain(x.reshape(N, B, -1, A, Q), "NBLAQ")
