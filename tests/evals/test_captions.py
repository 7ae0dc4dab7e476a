"""pycocoevalcap's own numbers, and small cases by hand."""

import json
import math
import pathlib

import numpy as np
import pytest

from mhmoe_jax.evals import captions

GOLDEN = json.loads(
  (pathlib.Path(__file__).parents[1] / "golden" / "captions.json").read_text()
)
close = np.testing.assert_allclose


def test_words_are_those_of_stanfords_tokenizer():
  for text, words in zip(GOLDEN["captions"], GOLDEN["words of captions"], strict=True):
    assert captions.to_words(text) == words
  for texts, found in zip(
    GOLDEN["references"], GOLDEN["words of references"], strict=True
  ):
    assert [captions.to_words(text) for text in texts] == found


def test_scores_are_pycocoevalcaps():
  found = captions.score(GOLDEN["captions"], GOLDEN["references"])
  assert found.keys() == GOLDEN["scores"].keys()
  for name, score in GOLDEN["scores"].items():
    close(found[name], score, atol=1e-6, rtol=0, err_msg=name)
  words = GOLDEN["words of captions"], GOLDEN["words of references"]
  close(captions.cider_d(*words), GOLDEN["cider_d"], atol=1e-6, rtol=0)
  each = list(map(captions.rouge_l, *words))
  close(each, GOLDEN["rouge_l"], atol=1e-6, rtol=0)
  assert min(GOLDEN["scores"].values()) > 0


def test_by_hand():
  """Two pictures; "a b c" of which "a b" is right."""
  close(
    captions.bleu([["a", "b", "c"]], [[["a", "b", "d", "e"]]])[:2],
    np.array([2 / 3, (2 / 3 * 1 / 2) ** 0.5]) * math.exp(1 - 4 / 3),
  )
  # Recall 2 / 4 and precision 2 / 3.
  f = (1 + 1.44) * (1 / 2) * (2 / 3) / (1 / 2 + 1.44 * 2 / 3)
  close(captions.rouge_l(["a", "b", "c"], [["a", "x", "b", "y"]]), f)
  # Of n = 1 to 4 there are n-grams of n = 1 and 2 only, all right.
  found = captions.cider_d([["a", "b"], ["c"]], [[["a", "b"]], [["d"]]])
  close(found, [10 * 2 / 4, 0])
  # Every picture has it: it is of no interest.
  close(captions.cider_d([["a"], ["a"]], [[["a"]], [["a"]]]), [0, 0])


def test_what_cannot_be_scored():
  with pytest.raises(ValueError, match="got 0 captions, 0 with references"):
    captions.score([], [])
  with pytest.raises(ValueError, match="got 2 captions, 1 with references"):
    captions.score(["a", "b"], [["a"], []])
