"""Numbers about a trace that the library does not have: chance, and words at equality.

T tokens, N MoE layers, H heads, K experts per sub-token, E experts; U words.
"""

import collections
from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from mhmoe_jax.analysis.statistics import activation, diversity, heads
from mhmoe_jax.analysis.statistics.diversity import Occurrence, Senses, Words
from mhmoe_jax.analysis.traces.trace import Trace

POLYSEMOUS_SENSES = 5  # of WordNet; as `mhmoe routing figures`


def effective_experts(load_NE: np.ndarray) -> float:
  """Share of experts that, evenly used, have the entropy of the load; no threshold."""
  share_NE = load_NE / load_NE.sum(axis=1, keepdims=True)
  log_NE = np.log(np.maximum(share_NE, 1e-300))
  entropy_N = -(share_NE * log_NE).sum(axis=1)
  return float(np.exp(entropy_N).mean() / load_NE.shape[1])


def distinct_by_chance(H: int, K: int, E: int) -> float:
  """Expected distinct experts of H heads that each draw K of E at random."""
  return E * (1 - (1 - K / E) ** H)


def deal_heads(trace: Trace, seed: int = 0) -> Trace:
  """Each head's choices dealt to tokens at random: its load stays, no token matters."""
  rng = np.random.default_rng(seed)
  dealt_TNHK = trace.expert_TNHK.copy()
  for n in range(dealt_TNHK.shape[1]):
    for h in range(dealt_TNHK.shape[2]):
      dealt_TNHK[:, n, h] = rng.permutation(dealt_TNHK[:, n, h])
  return dataclasses.replace(trace, expert_TNHK=dealt_TNHK)


def diversity_numbers(trace: Trace) -> dict:
  """Distinct experts of a token: mean, by chance, and how many have how many."""
  distinct_TN = diversity.distinct_experts(trace)
  H, K, E = trace.meta.num_heads, trace.meta.top_k, trace.meta.num_experts
  most = min(H * K, E)
  share_X = np.bincount(distinct_TN.ravel(), minlength=most + 1) / distinct_TN.size
  return {
    "mean": float(distinct_TN.mean()),
    "dealt": float(diversity.distinct_experts(deal_heads(trace)).mean()),
    "uniform": distinct_by_chance(H, K, E),
    "most": most,
    "histogram": share_X.round(4).tolist(),
  }


def head_numbers(trace: Trace) -> dict:
  """Whether heads differ: bits that head and expert share, and agreement of heads."""
  joint_NHE = activation.count_choices(trace).astype(np.float64)
  joint_NHE /= joint_NHE.sum(axis=(1, 2), keepdims=True)
  chance_NHE = joint_NHE.sum(2, keepdims=True) * joint_NHE.sum(1, keepdims=True)
  ratio_NHE = np.where(joint_NHE > 0, joint_NHE / np.maximum(chance_NHE, 1e-300), 1)
  first_TNH = trace.expert_TNHK[..., 0]
  H, E = trace.meta.num_heads, trace.meta.num_experts
  pairs = [(a, b) for a in range(H) for b in range(a)]
  agree, chance = [], []
  for n in range(first_TNH.shape[1]):
    share_HE = np.stack(
      [np.bincount(first_TNH[:, n, h], minlength=E) for h in range(H)]
    ) / len(first_TNH)
    agree += [(first_TNH[:, n, a] == first_TNH[:, n, b]).mean() for a, b in pairs]
    chance += [share_HE[a] @ share_HE[b] for a, b in pairs]
  return {
    "information": float((joint_NHE * np.log2(ratio_NHE)).sum(axis=(1, 2)).mean()),
    "most_information": float(np.log2(min(H, E))),
    "agreement": float(np.mean(agree)) if pairs else None,
    "agreement_by_chance": float(np.mean(chance)) if pairs else None,
  }


def predictability(trace: Trace) -> dict:
  """How well a token's text alone tells the first expert of each head.

  The commonest expert of a text in every other token is the guess for the rest;
  "blind" guesses the head's commonest expert.
  """
  _, text_T = np.unique(trace.text_T.astype(str), return_inverse=True)
  E, V = trace.meta.num_experts, int(text_T.max()) + 1
  learn, test = slice(0, None, 2), slice(1, None, 2)
  right, blind = [], []
  for n in range(trace.expert_TNHK.shape[1]):
    for h in range(trace.meta.num_heads):
      first_T = trace.expert_TNHK[:, n, h, 0].astype(np.int64)
      count_VE = np.bincount(
        text_T[learn] * E + first_T[learn], minlength=V * E
      ).reshape(V, E)
      common = count_VE.sum(axis=0).argmax()
      guess_V = np.where(count_VE.any(axis=1), count_VE.argmax(axis=1), common)
      right.append((guess_V[text_T[test]] == first_T[test]).mean())
      blind.append((common == first_T[test]).mean())
  return {"by_text": float(np.mean(right)), "blind": float(np.mean(blind))}


def mean_by_word(words: Words, occurrences: Sequence[Occurrence]) -> dict:
  """Means over the occurrences of each word: names, diversity_U, tokens_U, bytes_U."""
  names, word_W = np.unique([one.word for one in occurrences], return_inverse=True)
  count_U = np.bincount(word_W)

  def mean(x_W):
    return np.bincount(word_W, x_W) / count_U

  return {
    "names": names.tolist(),
    "diversity_U": mean(words.diversity_W),
    "tokens_U": mean(words.tokens_W),
    "bytes_U": mean(words.bytes_W),
    "count_U": count_U,
  }


def slope(
  y_U: np.ndarray, x_U: np.ndarray, others_UX: np.ndarray, samples: int, seed: int = 0
) -> tuple[float, float, float]:
  """Slope of y on x at equal others, least squares; with a 95 % bootstrap interval."""
  design_UX = np.column_stack([np.ones(len(y_U)), x_U, others_UX])

  def fit(at_U):
    return np.linalg.lstsq(design_UX[at_U], y_U[at_U], rcond=None)[0][1]

  rng = np.random.default_rng(seed)
  draws = [fit(rng.integers(0, len(y_U), len(y_U))) for _ in range(samples)]
  low, high = np.quantile(draws, [0.025, 0.975])
  return float(fit(np.arange(len(y_U)))), float(low), float(high)


def matched(
  y_U: np.ndarray, inside_U: np.ndarray, strata_U: np.ndarray, samples: int, seed=0
) -> tuple[float, float, float, int]:
  """Difference of means between words inside and outside, within strata.

  A stratum counts as much as it can tell, n_in n_out / (n_in + n_out); the interval is
  bootstrapped over words. The last number: words in strata that have both.
  """
  _, strata_U = np.unique(strata_U, return_inverse=True)
  S = strata_U.max() + 1
  cell_U = strata_U * 2 + inside_U

  def estimate(weight_U):
    n_S2 = np.bincount(cell_U, weight_U, 2 * S).reshape(S, 2)
    sum_S2 = np.bincount(cell_U, weight_U * y_U, 2 * S).reshape(S, 2)
    both_S = n_S2.all(axis=1)
    if not both_S.any():
      return np.nan
    n_S2, mean_S2 = n_S2[both_S], sum_S2[both_S] / n_S2[both_S]
    difference_S = mean_S2[:, 1] - mean_S2[:, 0]
    return np.average(difference_S, weights=n_S2.prod(axis=1) / n_S2.sum(axis=1))

  rng, U = np.random.default_rng(seed), len(y_U)
  draws = [
    estimate(np.bincount(rng.integers(0, U, U), minlength=U).astype(float))
    for _ in range(samples)
  ]
  low, high = np.nanquantile(draws, [0.025, 0.975])
  both_S = np.bincount(cell_U, minlength=2 * S).reshape(S, 2).all(axis=1)
  used = int(both_S[strata_U].sum())
  return float(estimate(np.ones(U))), float(low), float(high), used


def same_pieces(trace: Trace, occurrences: Sequence[Occurrence]) -> list[Occurrence]:
  """Occurrences of each word in its commonest pieces; the rest differ by spelling."""
  first_U = np.searchsorted(trace.document_T, np.arange(len(trace.documents) + 1))
  by_word: dict[str, dict[tuple, list[Occurrence]]] = {}
  for one in occurrences:
    a, b = first_U[one.document], first_U[one.document + 1]
    low = a + np.searchsorted(trace.stop_T[a:b], one.start, side="right")
    high = a + np.searchsorted(trace.start_T[a:b], one.stop, side="left")
    pieces = tuple(trace.text_T[low:high])
    by_word.setdefault(one.word, {}).setdefault(pieces, []).append(one)
  return [one for pieces in by_word.values() for one in max(pieces.values(), key=len)]


def benjamini_hochberg(p_values: Sequence[float], rate: float = 0.05) -> np.ndarray:
  """Which tests stand at this false discovery rate (Benjamini, Hochberg 1995)."""
  p_X = np.asarray(p_values)
  order_X = np.argsort(p_X)
  below_X = p_X[order_X] <= rate * np.arange(1, len(p_X) + 1) / len(p_X)
  most = np.flatnonzero(below_X).max(initial=-1) + 1
  stand_X = np.zeros(len(p_X), bool)
  stand_X[order_X[:most]] = True
  return stand_X


def sense_numbers(results: Mapping[str, Senses], samples: int, seed: int = 0) -> dict:
  """How many words' senses go apart more than by chance, and how far on average."""
  excess_U = np.array([s.divergence - s.chance for s in results.values()])
  stand_U = benjamini_hochberg([s.p_value for s in results.values()])
  rng = np.random.default_rng(seed)
  means = [rng.choice(excess_U, len(excess_U)).mean() for _ in range(samples)]
  low, high = np.quantile(means, [0.025, 0.975])
  names = list(results)
  return {
    "words": len(names),
    "beat_chance": int(stand_U.sum()),
    "nominal": int(sum(s.p_value < 0.05 for s in results.values())),
    "divergence": float(np.mean([s.divergence for s in results.values()])),
    "chance": float(np.mean([s.chance for s in results.values()])),
    "excess": [float(excess_U.mean()), float(low), float(high)],
    "most": [names[u] for u in np.argsort(-excess_U)[:10] if stand_U[u]],
  }


def common_senses(
  occurrences: Sequence[Occurrence], least: int = 3
) -> list[Occurrence]:
  """Those of senses that are there so often; a rare one would cost its whole word."""
  keys = [(one.word, one.group) for one in occurrences]
  count = collections.Counter(keys)
  return [
    one for one, key in zip(occurrences, keys, strict=True) if count[key] >= least
  ]


def label_information(trace: Trace) -> float:
  """Bits that a head's expert tells about the label, mean over layers and heads."""
  per_head = [
    dataclasses.replace(trace, expert_TNHK=trace.expert_TNHK[:, :, [h]])
    for h in range(trace.meta.num_heads)
  ]
  return float(np.mean([heads.label_load(one).information_N for one in per_head]))
