"""How many experts a word's sub-tokens go to, and whether its senses differ.

2404.15045 Fig. 7 counts the distinct experts of a token, averaged over MoE layers, for
polysemous words and false cognates that GPT-4 picked. Here they come from lists
(`words.py`). A rare word, or one of many pieces, can look ambiguous, so the difference
is also given at equal frequency, pieces and bytes; intervals are bootstrapped over
words, whose occurrences are not independent.

W occurrences of words; X covariates.
"""

from collections.abc import Mapping, Sequence
import re
from typing import NamedTuple

import numpy as np

from mhmoe_jax.analysis.traces.trace import Trace
from mhmoe_jax.data.documents import Document


class Occurrence(NamedTuple):
  """A word somewhere in a document."""

  document: int  # its place in `Trace.documents`
  start: int  # bytes from the start of the document
  stop: int
  word: str
  group: str  # what it is compared by: a sense, or "polysemous" or "other"


def distinct_experts(trace: Trace) -> np.ndarray:
  """How many different experts each token reaches in each MoE layer, (T, N) int64."""
  return count_distinct(trace.expert_TNHK.reshape(*trace.expert_TNHK.shape[:2], -1))


def count_distinct(expert: np.ndarray) -> np.ndarray:
  """How many different numbers stand along the last axis, which goes."""
  return 1 + (np.diff(np.sort(expert, axis=-1), axis=-1) != 0).sum(axis=-1)


def find_words(
  documents: Sequence[Document], groups: Mapping[str, str]
) -> list[Occurrence]:
  """Every occurrence of the words of `groups`, small or capital, with their group."""
  found = []
  for number, document in enumerate(documents):
    for match in re.finditer(r"\w+", document.text):
      word = match[0].lower()
      if word in groups:
        start = len(document.text[: match.start()].encode())
        stop = start + len(match[0].encode())
        found.append(Occurrence(number, start, stop, word, groups[word]))
  return found


def find_contexts(
  documents: Sequence[Document], contexts: Sequence[tuple[str, int, int, str, str]]
) -> list[Occurrence]:
  """Occurrences in documents that are the sentences of `contexts`.

  Args:
    documents: of a trace of the sentences, a line each.
    contexts: sentence, bytes where the word starts and stops in it, word, sense.
  """
  numbers = {document.text: i for i, document in enumerate(documents)}
  return [
    Occurrence(numbers[sentence], start, stop, word, sense)
    for sentence, start, stop, word, sense in contexts
    if sentence in numbers
  ]


class Words(NamedTuple):
  """What became of W occurrences."""

  diversity_W: np.ndarray  # distinct experts a token, mean over its tokens and layers
  tokens_W: np.ndarray  # of the word
  bytes_W: np.ndarray
  count_W: np.ndarray  # occurrences of the same word
  load_WNE: np.ndarray  # share of the word's choices; rows sum to 1


def measure_words(trace: Trace, occurrences: Sequence[Occurrence]) -> Words:
  """Diversity and load of words; the tokens of a word are those that share its bytes.

  Raises:
    ValueError: there is no occurrence, or one lies beyond the trace.
  """
  if not occurrences:
    raise ValueError("words must occur in the traced text, got 0 occurrences.")
  distinct_T = distinct_experts(trace).mean(axis=1)
  N, E = len(trace.meta.layers), trace.meta.num_experts
  W = len(occurrences)
  # Documents lie one behind the other, and tokens in them are in order.
  first_U = np.searchsorted(trace.document_T, np.arange(len(trace.documents) + 1))
  diversity_W, tokens_W = np.zeros(W), np.zeros(W, np.int64)
  load_WNE = np.zeros((W, N, E))
  for w, one in enumerate(occurrences):
    a, b = first_U[one.document], first_U[one.document + 1]
    low = a + np.searchsorted(trace.stop_T[a:b], one.start, side="right")
    high = a + np.searchsorted(trace.start_T[a:b], one.stop, side="left")
    if high <= low:
      raise ValueError(f"words must lie in the traced text, got {one}.")
    diversity_W[w], tokens_W[w] = distinct_T[low:high].mean(), high - low
    for n in range(N):
      load_WNE[w, n] = np.bincount(trace.expert_TNHK[low:high, n].ravel(), minlength=E)
  _, word_W = np.unique([one.word for one in occurrences], return_inverse=True)
  return Words(
    diversity_W=diversity_W,
    tokens_W=tokens_W,
    bytes_W=np.array([one.stop - one.start for one in occurrences]),
    count_W=np.bincount(word_W)[word_W],
    load_WNE=load_WNE / load_WNE.sum(axis=-1, keepdims=True),
  )


class Effect(NamedTuple):
  """How much more diverse the words of a group are than the others."""

  difference: float  # of means, in experts
  low: float  # 95 % interval, bootstrapped over words
  high: float
  standardised: float  # the difference in standard deviations (Cohen's d)
  adjusted: float  # at equal log frequency, tokens and bytes
  adjusted_low: float
  adjusted_high: float


def compare_groups(
  words: Words,
  occurrences: Sequence[Occurrence],
  group: str,
  *,
  samples: int = 1_000,
  seed: int = 0,
) -> Effect:
  """The words of `group` against all others (2404.15045 Fig. 7).

  Raises:
    ValueError: one side has fewer than two words.
  """
  names, word_W = np.unique([one.word for one in occurrences], return_inverse=True)
  inside_W = np.array([one.group == group for one in occurrences])
  sides = [len(set(word_W[inside_W == side])) for side in (True, False)]
  if min(sides) < 2:
    raise ValueError(
      f"a comparison needs two words on each side, got {sides[0]} of group {group!r} "
      f"and {sides[1]} others."
    )
  covariates_WX = np.stack(
    [
      np.ones(len(word_W)),
      inside_W,
      np.log(words.count_W),
      words.tokens_W,
      words.bytes_W,
    ],
    axis=1,
  ).astype(np.float64)

  def estimate(weight_W):
    y_W = words.diversity_W
    plain = np.average(y_W[inside_W], weights=weight_W[inside_W]) - np.average(
      y_W[~inside_W], weights=weight_W[~inside_W]
    )
    root_W = np.sqrt(weight_W)
    fit = np.linalg.lstsq(covariates_WX * root_W[:, None], y_W * root_W, rcond=None)
    return plain, fit[0][1]

  rng = np.random.default_rng(seed)
  draws = []
  while len(draws) < samples:
    # A resample of the words, as how often each of them came.
    drawn = rng.integers(0, len(names), len(names))
    weight_W = np.bincount(drawn, minlength=len(names))[word_W].astype(float)
    if weight_W[inside_W].any() and weight_W[~inside_W].any():
      draws.append(estimate(weight_W))
  difference, adjusted = estimate(np.ones(len(word_W)))
  (low, adjusted_low), (high, adjusted_high) = np.quantile(
    draws, [0.025, 0.975], axis=0
  )
  variances = [
    words.diversity_W[inside_W == side].var(ddof=1) for side in (True, False)
  ]
  spread = np.sqrt(np.mean(variances))
  return Effect(
    *map(float, (difference, low, high, difference / max(spread, 1e-12))),
    *map(float, (adjusted, adjusted_low, adjusted_high)),
  )


class Senses(NamedTuple):
  """Whether the senses of one word go to different experts."""

  divergence: float  # Jensen-Shannon, bits, mean over layers, weighted by occurrences
  chance: float  # the same with senses dealt at random, mean
  p_value: float  # how often chance gives as much


def compare_senses(
  words: Words,
  occurrences: Sequence[Occurrence],
  *,
  permutations: int = 200,
  seed: int = 0,
) -> dict[str, Senses]:
  """For each word with two senses or more, each at least twice, how they diverge.

  The divergence of the senses' loads is never 0 by chance, so it is compared with that
  of the same occurrences under shuffled senses.
  """
  rng = np.random.default_rng(seed)
  by_word: dict[str, list[int]] = {}
  for w, one in enumerate(occurrences):
    by_word.setdefault(one.word, []).append(w)
  results = {}
  for word, places in by_word.items():
    senses, sense_W = np.unique(
      [occurrences[w].group for w in places], return_inverse=True
    )
    if len(senses) < 2 or np.bincount(sense_W).min() < 2:
      continue
    load_WNE = words.load_WNE[places]
    real = _divergence(load_WNE, sense_W)
    random = [
      _divergence(load_WNE, rng.permutation(sense_W)) for _ in range(permutations)
    ]
    as_much = 1 + sum(x >= real - 1e-12 for x in random)
    results[word] = Senses(
      real, float(np.mean(random)), float(as_much / (permutations + 1))
    )
  return results


def _divergence(load_WNE: np.ndarray, sense_W: np.ndarray) -> float:
  def entropy(load_NE):
    return -(load_NE * np.log2(np.maximum(load_NE, 1e-300))).sum(axis=-1)

  inner_N = sum(
    (sense_W == s).mean() * entropy(load_WNE[sense_W == s].mean(axis=0))
    for s in range(sense_W.max() + 1)
  )
  return float((entropy(load_WNE.mean(axis=0)) - inner_N).mean())
