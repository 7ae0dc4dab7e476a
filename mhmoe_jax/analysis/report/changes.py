"""Charts of how routing changed over the checkpoints of one run."""

from collections.abc import Sequence

import numpy as np

from mhmoe_jax.analysis.report.vega import Chart, columns_of, lines
from mhmoe_jax.analysis.statistics.training import OverTraining, over_training
from mhmoe_jax.analysis.traces.trace import Trace


def make_changes(traces: Sequence[Trace]) -> list[Chart]:
  """Measures by step, a line for each block.

  Args:
    traces: of one run at several checkpoints, in any order.

  Raises:
    ValueError: they are not: other texts, models of other shapes, or a step twice.
  """
  first = traces[0].meta
  shape = (first.layers, first.num_heads, first.num_experts, first.top_k)
  for meta in (trace.meta for trace in traces[1:]):
    got = (meta.layers, meta.num_heads, meta.num_experts, meta.top_k)
    if got != shape:
      raise ValueError(
        "earlier checkpoints must be of the same model, got blocks, heads, experts and "
        f"choices {shape} at step {first.step} and {got} at step {meta.step}."
      )
  steps = sorted(trace.meta.step for trace in traces)
  if len(set(steps)) < len(steps):
    raise ValueError(f"checkpoints must be of different steps, got steps {steps}.")
  split = [trace.split_pools() for trace in traces]
  charts = []
  for pool in split[0]:
    made = over_training([parts[pool] for parts in split])
    charts += _draw(made, first.layers, pool if len(split[0]) > 1 else "")
  return charts


def _draw(made: OverTraining, blocks: Sequence[int], pool: str) -> list[Chart]:
  step_X = made.step_X[:, None]
  name_N = np.array([f"block {n}" for n in blocks])
  where, charts = f" ({pool})" if pool else "", []
  for name, values_XN, says in (
    (
      "active experts",
      made.active_XN,
      "The share of experts with more than a tenth of an even share. Healthy: it stays "
      "near 1, or comes back.",
    ),
    (
      "entropy",
      made.entropy_XN,
      "Of the router over its maximum. Healthy: it falls from 1 as the router learns "
      "to decide, and does not reach 0.",
    ),
    (
      "saturation",
      made.saturation_XN,
      "The share of choices that are those of the last checkpoint. Where it is near 1, "
      "routing has settled.",
    ),
    (
      "distinct experts",
      made.distinct_XN,
      "How many experts a token reaches. A fall: heads become alike.",
    ),
    (
      "loss",
      np.broadcast_to(made.loss_X[:, None], made.active_XN.shape)[:, :1],
      "Nats per token of this text.",
    ),
  ):
    if np.isnan(values_XN).all():
      continue  # Of pictures nothing is told that could be wrong.
    lines_N = np.array(["model"]) if name == "loss" else name_N
    columns = columns_of(**{"step": step_X, name: values_XN, "line": lines_N})
    spec = lines("step", name, "line", zero=False)
    charts.append(
      Chart("training", f"{name.capitalize()} by step{where}", says, columns, spec)
    )
  return charts
