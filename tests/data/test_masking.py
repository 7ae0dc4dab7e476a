"""Masked tokens: exact counts, shares of what is seen, nothing else touched."""

import numpy as np
import pytest

from mhmoe_jax.data.images.shapes import random_state
from mhmoe_jax.data.masking import mask_tokens, room

MASK = 100
TOKENS = np.arange(1, 41, dtype=np.int32)
REAL = (TOKENS > 1) & (TOKENS <= 31)  # the first begins the text, the last are padding


def masked(seed, ratio=0.5, random_share=0.1, kept_share=0.1, maskable=REAL):
  draw = random_state(seed)
  return mask_tokens(draw, TOKENS, maskable, ratio, MASK, random_share, kept_share)


def test_counts_places_and_targets():
  made = masked(0)
  assert made.weights.sum() == 15  # half of 30
  assert made.places.shape == made.targets.shape == made.weights.shape == (20,)
  used = made.places[made.weights > 0]
  assert (np.diff(used) > 0).all()
  assert REAL[used].all()
  np.testing.assert_array_equal(made.targets[made.weights > 0], TOKENS[used])
  untouched = np.setdiff1d(np.arange(40), used)
  np.testing.assert_array_equal(made.tokens[untouched], TOKENS[untouched])
  assert TOKENS[0] == 1  # the input is not changed
  assert masked(0, ratio=0.25).weights.sum() == 8  # 7.5, rounded


def test_shares_of_what_is_seen():
  mask = kept = other = total = 0
  others = set()
  for seed in range(300):
    made = masked(seed)
    used = made.places[made.weights > 0]
    seen, real = made.tokens[used], TOKENS[used]
    mask += (seen == MASK).sum()
    kept += (seen == real).sum()
    other += ((seen != MASK) & (seen != real)).sum()
    total += len(used)
    others |= set(seen[(seen != MASK) & (seen != real)].tolist())
  assert mask / total == pytest.approx(0.8, abs=0.02)
  assert kept / total == pytest.approx(0.1, abs=0.02)
  assert other / total == pytest.approx(0.1, abs=0.02)
  assert len(others) > 0.9 * MASK
  assert 0 <= min(others) < max(others) < MASK


def test_all_become_the_mask_if_asked_for():
  made = masked(1, random_share=0.0, kept_share=0.0)
  assert (made.tokens[made.places[made.weights > 0]] == MASK).all()


def test_short_texts_lose_one_token_and_empty_ones_none():
  one = np.zeros(40, bool)
  one[5] = True
  assert masked(0, ratio=0.15, maskable=one).weights.sum() == 1
  assert masked(0, maskable=np.zeros(40, bool)).weights.sum() == 0


def test_room():
  assert room(0.15, 64) == 10
  assert room(0.01, 8) == 1
  for ratio in (0.0, 1.0):
    with pytest.raises(ValueError, match=f"must be between 0 and 1, got {ratio}."):
      room(ratio, 8)
