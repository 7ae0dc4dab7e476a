"""Charts of which experts are reached together, in a block and from one to the next."""

import itertools

import numpy as np

from mhmoe_jax.analysis.report.vega import Chart, columns_of, grid, heat
from mhmoe_jax.analysis.statistics import activation, heads
from mhmoe_jax.analysis.traces.trace import Trace

# More experts than these make cells too small to see: the busiest are shown.
MOST_PAIRED = 48


def pair_experts(model: int, trace: Trace) -> list[Chart]:
  """How much likelier than chance a token reaches two experts."""
  use_E = activation.measure(trace).load_NE.sum(axis=0)
  shown = np.sort(np.argsort(-use_E, kind="stable")[:MOST_PAIRED])
  blocks = trace.meta.layers
  cut = f" The {MOST_PAIRED} busiest experts." if len(use_E) > MOST_PAIRED else ""
  charts = []
  for title, says, pairs, names in (
    (
      "Experts together in a block",
      "How much likelier than chance a token reaches both experts: 0 is chance, +1 "
      "twice as often, -1 half as often. Healthy: some structure, not two blocks that "
      "never meet.",
      [(n, n) for n in range(len(blocks))],
      [f"{block}" for block in blocks],
    ),
    (
      "From one MoE block to the next",
      "The same for an expert of one block (down) and one of the next (across). Strong "
      "cells are paths through the network; none at all means that each block sorts by "
      "something else.",
      [(n, n + 1) for n in range(len(blocks) - 1)],
      [f"{a} to {b}" for a, b in itertools.pairwise(blocks)],
    ),
  ):
    if not pairs or (pairs[0][0] == pairs[0][1] and trace.expert_TNHK[0, 0].size == 1):
      continue  # One choice a token: no two experts are reached together.
    lift_NEE = np.stack([heads.coactivation(trace, a, b) for a, b in pairs])
    lift_NEE = lift_NEE[:, shown][:, :, shown]
    if pairs[0][0] == pairs[0][1]:
      lift_NEE[:, range(len(shown)), range(len(shown))] = np.nan  # of itself: 1 / P
    log_NEE = np.full(lift_NEE.shape, np.nan)
    known = ~np.isnan(lift_NEE)
    log_NEE[known] = np.log2(np.maximum(lift_NEE[known], 2.0**-3))
    column = "block" if pairs[0][0] == pairs[0][1] else "blocks"
    labels = {column: names, "expert": shown, "other expert": shown}
    made = grid((column, "expert", "other expert", "log2 lift"), log_NEE, **labels)
    spec = heat("other expert", "expert", "log2 lift", (-3, 3), middle=0)
    spec["height"] = {"step": 20 if len(shown) <= 16 else 9}
    charts.append(
      Chart(
        "together",
        title,
        says + cut,
        columns_of(**made),
        spec,
        model=model,
        pick=column,
      )
    )
  return charts
