"""METEOR with a WordNet that knows nothing, and what is said where there is none."""

import sys

import numpy as np
import pytest

from mhmoe_jax.evals import meteor


def test_meteor_says_what_it_needs(monkeypatch):
  monkeypatch.setitem(sys.modules, "nltk.translate.meteor_score", None)
  with pytest.raises(ValueError, match="METEOR needs nltk, of the extra eval"):
    meteor.meteor(["a"], [["a"]])


def test_meteor_is_the_mean_over_captions(monkeypatch):
  """With a WordNet that knows nothing: one chunk of m words is 1 - 0.5 / m^3."""
  from nltk.translate import meteor_score

  class Empty:
    def synsets(self, word):
      return []

  known = meteor_score.meteor_score
  monkeypatch.setattr(
    meteor_score, "meteor_score", lambda *args: known(*args, wordnet=Empty())
  )
  found = meteor.meteor(["A dog.", "cats"], [["a cat", "a dog"], ["dogs", "mice"]])
  np.testing.assert_allclose(found, (1 - 0.5 / 2**3) / 2)
  lines = meteor.in_words(["A dog."], [["a dog"]])
  assert lines[0] == "METEOR          0.938 by nltk"
  monkeypatch.undo()

  def fails(*args):
    raise LookupError("Resource wordnet not found.\n" * 30)

  monkeypatch.setattr(meteor_score, "meteor_score", fails)
  assert meteor.in_words(["a"], [["a"]]) == [
    "METEOR          needs WordNet, which nltk does not bring: "
    "python -m nltk.downloader wordnet.",
    "SPICE           needs Java, and the network to fetch CoreNLP.",
  ]
