"""Which tokens of a text a model has to fill in, and what it sees in their place.

As BERT (1810.04805): of the drawn tokens most become [MASK], some another token, and
some stay. The count is exact, and the arrays have room for the longest text.
"""

from typing import NamedTuple

import numpy as np


class MaskedTokens(NamedTuple):
  """A text with tokens to fill in; J places, of which those of weight 1 are in use."""

  tokens: np.ndarray  # int32 (T,), what the model sees
  places: np.ndarray  # int32 (J,), ascending
  targets: np.ndarray  # int32 (J,), the tokens there
  weights: np.ndarray  # float32 (J,)


def room(ratio: float, length: int) -> int:
  """The most tokens that are masked of a text of at most `length` tokens.

  Raises:
    ValueError: the ratio is not between 0 and 1.
  """
  if not 0 < ratio < 1:
    raise ValueError(f"mask ratios must be between 0 and 1, got {ratio}.")
  return max(1, round(ratio * length))


def mask_tokens(
  draw: np.random.RandomState,
  tokens: np.ndarray,
  maskable: np.ndarray,
  ratio: float,
  mask_id: int,
  random_share: float,
  kept_share: float,
) -> MaskedTokens:
  """Masks the ratio's share of the maskable tokens, rounded, but at least one.

  Args:
    draw: where its randomness is from.
    tokens: int32 (T,).
    maskable: bool (T,), False on padding and on what begins a text.
    ratio: share of them to mask, in (0, 1).
    mask_id: of the token [MASK]; those below it are real and may stand for others.
    random_share: of the masked tokens that become any token.
    kept_share: of the masked tokens that the model sees.
  """
  candidates = np.flatnonzero(maskable)
  count = min(max(1, round(ratio * len(candidates))), len(candidates))
  chosen = np.sort(draw.permutation(candidates)[:count])
  fate, other = draw.uniform(size=count), draw.randint(mask_id, size=count)
  seen = np.where(fate < random_share, other, mask_id)
  seen = np.where(fate >= 1 - kept_share, tokens[chosen], seen)
  J = room(ratio, len(tokens))
  places, targets = np.zeros((2, J), np.int32)
  weights = np.zeros(J, np.float32)
  places[:count], targets[:count], weights[:count] = chosen, tokens[chosen], 1
  shown = tokens.copy()
  shown[chosen] = seen
  return MaskedTokens(shown, places, targets, weights)
