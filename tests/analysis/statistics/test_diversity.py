import numpy as np
import pytest

from mhmoe_jax.analysis.statistics import diversity
from mhmoe_jax.analysis.statistics.diversity import Occurrence, Words
from mhmoe_jax.data.documents import Document
from tests.analysis.made import make_trace


def test_distinct_experts():
  trace = make_trace([[[[0, 1], [1, 0]]], [[[0, 1], [2, 3]]], [[[5, 1], [5, 0]]]], 6)
  assert diversity.distinct_experts(trace).tolist() == [[2], [4], [3]]


def test_words_are_found_by_their_bytes():
  documents = [Document("en", "é Bank."), Document("en", "banks, bank")]
  found = diversity.find_words(documents, {"bank": "polysemous"})
  assert found == [
    Occurrence(0, 3, 7, "bank", "polysemous"),
    Occurrence(1, 7, 11, "bank", "polysemous"),
  ]
  contexts = [("banks, bank", 7, 11, "bank", "river"), ("elsewhere", 0, 1, "a", "b")]
  assert diversity.find_contexts(documents, contexts) == [
    Occurrence(1, 7, 11, "bank", "river")
  ]


def test_a_word_is_the_tokens_that_share_its_bytes():
  # Tokens "a", "bc", "d" and a second document; the word is bytes 1 to 3 of the first.
  trace = make_trace(
    [[[[0], [0]]], [[[1], [2]]], [[[3], [3]]], [[[0], [1]]]],
    4,
    [Document("en", "abcd"), Document("en", "e")],
    document_T=np.array([0, 0, 0, 1]),
    start_T=np.array([0, 1, 3, 0]),
    stop_T=np.array([1, 3, 4, 1]),
  )
  occurrences = [
    Occurrence(0, 1, 3, "bc", "x"),
    Occurrence(0, 2, 4, "cd", "x"),
    Occurrence(1, 0, 1, "bc", "x"),
  ]
  words = diversity.measure_words(trace, occurrences)
  np.testing.assert_allclose(words.diversity_W, [2, 1.5, 2])
  assert words.tokens_W.tolist() == [1, 2, 1]
  assert words.bytes_W.tolist() == [2, 2, 1]
  assert words.count_W.tolist() == [2, 1, 2]
  np.testing.assert_allclose(words.load_WNE[1], [[0, 0.25, 0.25, 0.5]])
  with pytest.raises(ValueError, match="words must lie in the traced text, got"):
    diversity.measure_words(trace, [Occurrence(0, 4, 5, "e", "x")])


def words_of(diversity_W, tokens_W):
  W = len(diversity_W)
  ones_W = np.ones(W, int)
  return Words(np.array(diversity_W), np.array(tokens_W), ones_W, ones_W, None)


def test_effect_and_its_adjustment():
  # Diversity is 2 + tokens, and words of the group have more tokens: nothing is left
  # of the difference at equal tokens.
  rng = np.random.default_rng(0)
  tokens_W = np.concatenate([rng.integers(2, 6, 60), rng.integers(1, 4, 60)])
  occurrences = [
    Occurrence(0, 0, 1, f"word {w}", "polysemous" if w < 60 else "other")
    for w in range(120)
  ]
  words = words_of(2.0 + tokens_W, tokens_W)
  effect = diversity.compare_groups(words, occurrences, "polysemous", samples=200)
  expected = tokens_W[:60].mean() - tokens_W[60:].mean()
  np.testing.assert_allclose(effect.difference, expected)
  assert 0 < effect.low < expected < effect.high
  spread = np.sqrt((tokens_W[:60].var(ddof=1) + tokens_W[60:].var(ddof=1)) / 2)
  np.testing.assert_allclose(effect.standardised, expected / spread)
  np.testing.assert_allclose(effect.adjusted, 0, atol=1e-9)
  # The other way round: an effect that tokens hide.
  words = words_of(tokens_W + 1.5 * (np.arange(120) < 60), tokens_W)
  effect = diversity.compare_groups(words, occurrences, "polysemous", samples=50)
  np.testing.assert_allclose(effect.adjusted, 1.5)


def test_the_interval_is_over_words():
  # Four words a hundred times each are four words.
  occurrences = [
    Occurrence(0, 0, 1, f"word {w % 4}", "a" if w % 4 < 2 else "b") for w in range(400)
  ]
  words = words_of([1.0, 3.0, 1.0, 3.0] * 100, [1] * 400)
  effect = diversity.compare_groups(words, occurrences, "a", samples=200)
  assert (effect.difference, effect.low, effect.high) == (0.0, -2.0, 2.0)
  with pytest.raises(ValueError, match="two words on each side, got 0 of group 'c'"):
    diversity.compare_groups(words, occurrences, "c")


def test_senses():
  # "bank": each sense has an expert of its own, one bit. "bar": both go to either.
  load_E = {"0": [1.0, 0.0], "1": [0.0, 1.0]}
  occurrences, loads = [], []
  for i in range(16):
    sense = str(i % 2)
    occurrences.append(Occurrence(0, 0, 1, "bank", sense))
    loads.append([load_E[sense]])
    occurrences.append(Occurrence(0, 0, 1, "bar", sense))
    loads.append([load_E[str(i // 2 % 2)]])
  occurrences.append(Occurrence(0, 0, 1, "rare", "0"))
  loads.append([load_E["0"]])
  words = words_of(np.ones(33), np.ones(33))._replace(load_WNE=np.array(loads))
  found = diversity.compare_senses(words, occurrences, permutations=99)
  assert set(found) == {"bank", "bar"}
  np.testing.assert_allclose(found["bank"].divergence, 1.0)
  assert found["bank"].p_value == 0.01
  np.testing.assert_allclose(found["bar"].divergence, 0.0, atol=1e-9)
  assert found["bar"].p_value == 1.0
  assert 0 < found["bank"].chance < 0.3


def test_frequency_is_taken_out():
  # Diversity falls with the log frequency alone, and words of the group are rarer.
  count_W = np.array([1, 2, 4, 2, 4, 8])
  occurrences = [Occurrence(0, 0, 1, str(w), "ab"[w // 3]) for w in range(6)]
  words = words_of(9 - np.log(count_W), [1] * 6)._replace(count_W=count_W)
  effect = diversity.compare_groups(words, occurrences, "a", samples=20)
  np.testing.assert_allclose(effect.difference, np.log(2))
  np.testing.assert_allclose(effect.adjusted, 0, atol=1e-9)
