"""What heads and experts specialise in, and how they go together.

T tokens, N MoE layers, H heads, E experts, K of them per sub-token. "Lift" is how many
times likelier something is than by chance.
"""

from typing import NamedTuple

import numpy as np

from mhmoe_jax.analysis.statistics.activation import count_choices
from mhmoe_jax.analysis.statistics.diversity import distinct_experts
from mhmoe_jax.analysis.traces.trace import Trace


class Speciality(NamedTuple):
  """A token that a head sends to an expert."""

  text: str
  lift: float
  count: int  # how often the token is in the trace


def specialities(
  trace: Trace, layer: int, *, top: int = 5, min_count: int = 20
) -> list[list[list[Speciality]]]:
  """The tokens of highest lift for each head and expert of an MoE layer.

  Args:
    trace: what happened.
    layer: n, in [0, N).
    top: how many tokens of each.
    min_count: rarer tokens are left out: chance gives them any lift.

  Returns:
    [head][expert][rank]; lift is P(expert | token, head) / P(expert | head).
  """
  texts, text_T = np.unique(trace.text_T.astype(str), return_inverse=True)
  count_V = np.bincount(text_T, minlength=len(texts))
  E, found = trace.meta.num_experts, []
  for head in range(trace.meta.num_heads):
    expert_TK = trace.expert_TNHK[:, layer, head].astype(np.int64)
    joint = np.bincount(
      (text_T[:, None] * E + expert_TK).ravel(), minlength=len(texts) * E
    )
    joint_VE = joint.reshape(-1, E) / expert_TK.shape[1]
    base_E = np.maximum(joint_VE.sum(axis=0), 1) / len(text_T)
    lift_VE = joint_VE / count_V[:, None] / base_E[None]
    lift_VE[count_V < min_count] = 0
    best_XE = np.argsort(-lift_VE, axis=0, kind="stable")[:top]
    found.append(
      [
        [
          Speciality(str(texts[v]), float(lift_VE[v, e]), int(count_V[v]))
          for v in best_XE[:, e]
          if lift_VE[v, e] > 0
        ]
        for e in range(E)
      ]
    )
  return found


def head_load(trace: Trace) -> np.ndarray:
  """Share of each head's choices that fell on each expert, (N, H, E)."""
  count_NHE = count_choices(trace)
  return count_NHE / count_NHE.sum(axis=-1, keepdims=True)


def head_entropy(trace: Trace) -> np.ndarray:
  """Mean entropy of the router's softmax for each head, nats, (N, H)."""
  return trace.entropy_TNH.mean(axis=0, dtype=np.float64)


def head_agreement(trace: Trace) -> np.ndarray:
  """How often two heads of one token prefer the same expert, (N, H, H), in [0, 1]."""
  first_TNH = trace.expert_TNHK[..., 0]
  H = first_TNH.shape[2]
  columns = [(first_TNH == first_TNH[:, :, [h]]).mean(axis=0) for h in range(H)]
  return np.stack(columns, axis=-1)


def coactivation(trace: Trace, first: int, second: int) -> np.ndarray:
  """Lift of a token reaching expert e in one MoE layer and f in another, (E, E).

  1.0 by chance, NaN where one of the two is never reached. Within a layer, `first` is
  `second`, the diagonal compares an expert with itself and is 1 / P(e).
  """
  a_TE, b_TE = _reached(trace, first), _reached(trace, second)
  both_EE = a_TE.T @ b_TE / len(a_TE)
  chance_EE = a_TE.mean(axis=0)[:, None] * b_TE.mean(axis=0)[None]
  return np.where(
    chance_EE > 0, both_EE / np.where(chance_EE > 0, chance_EE, 1), np.nan
  )


def _reached(trace: Trace, layer: int) -> np.ndarray:
  T, E = len(trace.document_T), trace.meta.num_experts
  reached_TE = np.zeros((T, E), np.float32)
  experts = trace.expert_TNHK[:, layer].reshape(T, -1)
  np.put_along_axis(reached_TE, experts.astype(np.int64), 1, axis=1)
  return reached_TE


class LabelLoad(NamedTuple):
  """Where the tokens of each label, such as a language, go; Y labels."""

  labels: list[str]
  load_YNE: np.ndarray  # share of a label's choices; rows sum to 1
  information_N: np.ndarray  # bits that an expert tells about the label


def label_load(trace: Trace) -> LabelLoad:
  """Load of the experts by label, and the mutual information of label and expert."""
  return load_by(trace, trace.label_T.astype(str))


def load_by(trace: Trace, label_T: np.ndarray) -> LabelLoad:
  """The same for other labels of the tokens, strings."""
  labels, label_T = np.unique(label_T, return_inverse=True)
  E, (T, N, _, _) = trace.meta.num_experts, trace.expert_TNHK.shape
  count_YNE = np.zeros((len(labels), N, E))
  for n in range(N):
    expert_TX = trace.expert_TNHK[:, n].reshape(T, -1).astype(np.int64)
    flat = (label_T[:, None] * E + expert_TX).ravel()
    count_YNE[:, n] = np.bincount(flat, minlength=len(labels) * E).reshape(-1, E)
  joint_YNE = count_YNE / count_YNE.sum(axis=(0, 2), keepdims=True)
  chance_YNE = joint_YNE.sum(axis=2, keepdims=True) * joint_YNE.sum(axis=0)[None]
  ratio_YNE = np.where(joint_YNE > 0, joint_YNE / np.maximum(chance_YNE, 1e-300), 1)
  return LabelLoad(
    labels=labels.tolist(),
    load_YNE=count_YNE / count_YNE.sum(axis=2, keepdims=True),
    information_N=(joint_YNE * np.log2(ratio_YNE)).sum(axis=(0, 2)),
  )


class PositionProfile(NamedTuple):
  """Means over tokens that are at the same place of their window; X bins."""

  start_X: np.ndarray  # first place of each bin
  loss_X: np.ndarray  # nats; NaN where a bin has no token
  entropy_XN: np.ndarray  # of the router, nats
  distinct_XN: np.ndarray  # experts that a token reaches


def position_profile(trace: Trace, bins: int = 16) -> PositionProfile:
  """Loss, router entropy and diversity along the window that the model sees."""
  window = trace.meta.window
  bins = min(bins, window)
  bin_T = trace.position_T.astype(np.int64) % window * bins // window
  count_X = np.bincount(bin_T, minlength=bins)
  distinct_TN = distinct_experts(trace)

  def mean(x_T):
    total_X = np.bincount(bin_T, x_T, minlength=bins)
    return np.where(count_X > 0, total_X / np.maximum(count_X, 1), np.nan)

  layers = range(len(trace.meta.layers))
  return PositionProfile(
    start_X=-(-np.arange(bins) * window // bins),
    loss_X=mean(trace.loss_T),
    entropy_XN=np.stack(
      [mean(trace.entropy_TNH[:, n].mean(axis=-1)) for n in layers], axis=-1
    ),
    distinct_XN=np.stack([mean(distinct_TN[:, n]) for n in layers], axis=-1),
  )
