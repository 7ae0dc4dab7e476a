"""Beam search, without the model: which texts go on, which have ended, which is best.

A text that ends is worth its log-probability over its length to a power, the length
penalty; its length counts the end. A row is done as BEiT-3's and early transformers'
code has it: once it has as many ended texts as beams, of which none is worth less than
the best that goes on is now. An end counts where it is among the best W ways to go on,
so that one beam is greedy decoding.

W beams (of a row of a batch), T places for tokens, V tokens; X = 2 W.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Beams(NamedTuple):
  """The state of the search, for every row of a batch."""

  tokens_BWT: jax.Array  # int32, of texts that go on
  scores_BW: jax.Array  # float32, their log-probabilities, descending
  ended_BWT: jax.Array  # int32, the best texts that have ended
  worths_BW: jax.Array  # float32, what they are worth, descending; -inf where none is
  is_done_B: jax.Array  # bool, where nothing changes any more


def begin(is_done_B: jax.Array, num_beams: int, length: int, begin_id: int) -> Beams:
  """Texts of one token, all of which are the same.

  Args:
    is_done_B: bool, rows that are padding.
    num_beams: W.
    length: T, the longest text with the tokens before and behind it.
    begin_id: the token that every text begins with.
  """
  B, W = len(is_done_B), num_beams
  tokens_BWT = jnp.zeros((B, W, length), jnp.int32).at[:, :, 0].set(begin_id)
  none_BW = jnp.full((B, W), -jnp.inf)
  return Beams(tokens_BWT, none_BW.at[:, 0].set(0.0), tokens_BWT, none_BW, is_done_B)


def advance(
  beams: Beams,
  log_p_BWV: jax.Array,
  place: jax.Array,
  end_id: int,
  length_penalty: float,
) -> tuple[Beams, jax.Array]:
  """Puts the best tokens at a place.

  Args:
    beams: with tokens before the place.
    log_p_BWV: log-probabilities of the token there, -inf for those that may not be.
    place: number of the place; as many tokens are predicted when it is filled.
    end_id: the token that ends a text.
    length_penalty: the power of lengths.

  Returns:
    The beams, and int32 (B, W), which beam each of those that go on came from.
  """
  B, W, V = log_p_BWV.shape
  scores_BY = (beams.scores_BW[..., None] + log_p_BWV).reshape(B, W * V)
  # Of twice as many some W go on: each beam has one way to end.
  scores_BX, best_BX = jax.lax.top_k(scores_BY, min(2 * W, W * V))
  parents_BX, tokens_BX = best_BX // V, best_BX % V
  texts_BXT = jnp.take_along_axis(beams.tokens_BWT, parents_BX[..., None], axis=1)
  texts_BXT = texts_BXT.at[:, :, place].set(tokens_BX)

  ends_BX = tokens_BX == end_id
  counts_BX = ends_BX & (jnp.arange(ends_BX.shape[1]) < W)[None]
  counts_BX &= ~beams.is_done_B[:, None]
  worths_BX = jnp.where(counts_BX, scores_BX / place**length_penalty, -jnp.inf)
  worths_BW, of_BW = jax.lax.top_k(jnp.concatenate([beams.worths_BW, worths_BX], 1), W)
  ended_BYT = jnp.concatenate([beams.ended_BWT, texts_BXT], axis=1)
  ended_BWT = jnp.take_along_axis(ended_BYT, of_BW[..., None], axis=1)

  scores_BW, of_BW = jax.lax.top_k(jnp.where(ends_BX, -jnp.inf, scores_BX), W)
  tokens_BWT = jnp.take_along_axis(texts_BXT, of_BW[..., None], axis=1)
  is_done_B = worths_BW[:, -1] >= scores_BW[:, 0] / place**length_penalty
  is_done_B = beams.is_done_B | (is_done_B & (worths_BW[:, -1] > -jnp.inf))
  parents_BW = jnp.take_along_axis(parents_BX, of_BW, axis=1)
  return Beams(tokens_BWT, scores_BW, ended_BWT, worths_BW, is_done_B), parents_BW


def best(beams: Beams, length_penalty: float) -> tuple[jax.Array, jax.Array]:
  """The best text of each row, int32 (B, T), and what it is worth, float32 (B,).

  Where a row is not done all places are filled, and texts that have not ended count.
  """
  predicted = beams.tokens_BWT.shape[2] - 1
  cut_B1 = jnp.where(
    beams.is_done_B, -jnp.inf, beams.scores_BW[:, 0] / predicted**length_penalty
  )[:, None]
  worths_BY = jnp.concatenate([beams.worths_BW[:, :1], cut_B1], axis=1)
  texts_BYT = jnp.concatenate([beams.ended_BWT[:, :1], beams.tokens_BWT[:, :1]], axis=1)
  which_B11 = worths_BY.argmax(axis=1)[:, None, None]
  return jnp.take_along_axis(texts_BYT, which_B11, axis=1)[:, 0], worths_BY.max(axis=1)
