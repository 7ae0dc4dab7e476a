"""What pictures and words share: experts of one pool, and heads.

N MoE layers, H heads, E experts.
"""

from typing import NamedTuple

import numpy as np

from mhmoe_jax.analysis.statistics.heads import load_by
from mhmoe_jax.analysis.statistics.training import DEAD_BELOW
from mhmoe_jax.analysis.traces.trace import Trace


class Sharing(NamedTuple):
  """How a pool of experts serves patches and words."""

  load_YNE: np.ndarray  # share of the choices of patches, and of words; rows sum to 1
  overlap_N: np.ndarray  # share of the load that is of both: 1 is alike, 0 is apart
  both_N: np.ndarray  # share of experts that are dead for neither
  information_N: np.ndarray  # bits that an expert tells about the modality
  head_information_NH: np.ndarray  # the same, of each head's choices alone


def measure_sharing(trace: Trace) -> Sharing | None:
  """How patches and words share experts; None unless one pool serves both."""
  if len(trace.meta.pools) > 1 or len(set(trace.modality_T)) < 2:
    return None
  made = load_by(trace, trace.modality_T)
  alive_YNE = made.load_YNE * trace.meta.num_experts > DEAD_BELOW
  heads_HN = [
    load_by(trace.only_head(h), trace.modality_T).information_N
    for h in range(trace.meta.num_heads)
  ]
  return Sharing(
    load_YNE=made.load_YNE,
    overlap_N=made.load_YNE.min(axis=0).sum(axis=-1),
    both_N=alive_YNE.all(axis=0).mean(axis=-1),
    information_N=made.information_N,
    head_information_NH=np.stack(heads_HN, axis=1),
  )
