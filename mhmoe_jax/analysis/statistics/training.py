"""The same numbers at several checkpoints of one run."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mhmoe_jax.analysis.statistics import activation
from mhmoe_jax.analysis.statistics.diversity import distinct_experts
from mhmoe_jax.analysis.statistics.drops import check_same_text
from mhmoe_jax.analysis.traces.trace import Trace

# An expert with less is dead: the threshold of `telemetry.active_share`.
DEAD_BELOW = 0.1


class OverTraining(NamedTuple):
  """X checkpoints, ascending; N MoE layers, E experts."""

  step_X: np.ndarray
  loss_X: np.ndarray  # nats per token
  load_XNE: np.ndarray  # in even shares
  active_XN: np.ndarray  # share of experts that are not dead
  distinct_XN: np.ndarray  # experts that a token reaches
  entropy_XN: np.ndarray  # of the router over log E: 1 is undecided
  saturation_XN: np.ndarray  # share of choices that are those of the last checkpoint
  revived_NE: np.ndarray  # bool, dead at a checkpoint and alive at a later one


def over_training(traces: Sequence[Trace]) -> OverTraining:
  """How routing changed.

  Router saturation is that of OLMoE (2409.02060 section 5.1): how many of a sub-token's
  K experts are among those that the last checkpoint gives it.

  Raises:
    ValueError: the traces are not of one text.
  """
  check_same_text(traces)
  traces = sorted(traces, key=lambda trace: trace.meta.step)
  load_XNE = np.stack([activation.measure(trace).load_NE for trace in traces])
  alive_XNE = load_XNE > DEAD_BELOW
  was_dead_XNE = np.logical_or.accumulate(~alive_XNE, axis=0)
  most = max(np.log(traces[0].meta.num_experts), 1e-12)
  last_TNHK = traces[-1].expert_TNHK

  def saturation_N(trace):
    same = trace.expert_TNHK[..., :, None] == last_TNHK[..., None, :]
    return same.any(axis=-1).mean(axis=(0, 2, 3))

  return OverTraining(
    step_X=np.array([trace.meta.step for trace in traces]),
    loss_X=np.array([trace.loss_T.mean(dtype=np.float64) for trace in traces]),
    load_XNE=load_XNE,
    active_XN=alive_XNE.mean(axis=-1),
    distinct_XN=np.stack([distinct_experts(trace).mean(axis=0) for trace in traces]),
    entropy_XN=np.stack(
      [trace.entropy_TNH.mean(axis=(0, 2), dtype=np.float64) / most for trace in traces]
    ),
    saturation_XN=np.stack([saturation_N(trace) for trace in traces]),
    revived_NE=(was_dead_XNE[:-1] & alive_XNE[1:]).any(axis=0),
  )
