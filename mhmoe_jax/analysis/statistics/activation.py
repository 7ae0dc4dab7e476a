"""Which experts a model uses (2404.15045 Figs. 1a and 5).

The paper divides how often an expert is chosen by the number of tokens, and counts it
as active above a threshold that it never states. An MH-MoE makes H times the choices
of an SMoE, so that measure alone favours it; loads in even shares do not. Both are
here, and the share of active experts is a curve over all thresholds.
"""

from typing import NamedTuple

import numpy as np

from mhmoe_jax.analysis.traces.trace import Trace


class Activation(NamedTuple):
  """How much each expert of each MoE layer is used."""

  load_NE: np.ndarray  # share of the choices times E: 1.0 is an even share
  frequency_NE: np.ndarray  # choices per token, the paper's measure; up to H


def count_choices(trace: Trace) -> np.ndarray:
  """How many choices of each head fell on each expert, (N, H, E) int64.

  As the router chose: what was dropped counts, too.
  """
  _, N, H, _ = trace.expert_TNHK.shape
  E = trace.meta.num_experts
  place_NH = np.arange(N * H, dtype=np.int32).reshape(N, H) * E
  flat = (trace.expert_TNHK + place_NH[None, :, :, None]).ravel()
  return np.bincount(flat, minlength=N * H * E).reshape(N, H, E)


def measure(trace: Trace) -> Activation:
  """The use of the experts in `trace`."""
  count_NE = count_choices(trace).sum(axis=1)
  total = count_NE.sum(axis=1, keepdims=True)
  return Activation(
    load_NE=count_NE / total * count_NE.shape[1],
    frequency_NE=count_NE / len(trace.document_T),
  )


def active_curve(use_NE: np.ndarray, thresholds_X: np.ndarray) -> np.ndarray:
  """Share of all experts used more than each threshold, (X,), in [0, 1]."""
  return (use_NE.reshape(-1, 1) > thresholds_X[None]).mean(axis=0)
