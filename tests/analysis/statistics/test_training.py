import dataclasses

import numpy as np

from mhmoe_jax.analysis.report.changes import make_changes
from mhmoe_jax.analysis.statistics.training import over_training
from tests.analysis.made import make_pictures, make_trace


def test_over_training():
  # Two tokens, two choices among four experts. First all to {0, 1}; then token 0 to
  # {0, 2} and token 1 to {2, 3}.
  early = make_trace([[[[0, 1]]], [[[1, 0]]]], 4, step=10)
  entropy_TNH = np.full((2, 1, 1), np.log(2))
  late = make_trace([[[[2, 0]]], [[[2, 3]]]], 4, step=20, entropy_TNH=entropy_TNH)
  made = over_training([late, early])
  assert made.step_X.tolist() == [10, 20]
  assert made.load_XNE.tolist() == [[[2, 2, 0, 0]], [[1, 0, 2, 1]]]
  assert made.active_XN.tolist() == [[0.5], [0.75]]
  assert made.distinct_XN.tolist() == [[2], [2]]
  np.testing.assert_allclose(made.entropy_XN, [[0], [0.5]])
  # Of the early choices only token 0's expert 0 is among the late ones.
  assert made.saturation_XN.tolist() == [[0.25], [1]]
  assert made.revived_NE.tolist() == [[False, False, True, True]]


def test_pools_change_by_themselves():
  traces = [
    dataclasses.replace(trace, meta=dataclasses.replace(trace.meta, step=step))
    for step in (1, 2)
    for trace in [
      make_pictures(np.full((5, 1, 2, 1), step), 4, 2, "a", ("image", "text"))
    ]
  ]
  charts = make_changes(traces)
  titles = [chart.title for chart in charts]
  assert "Saturation by step (image)" in titles
  assert "Saturation by step (text)" in titles
  assert not any(title.startswith("Loss") for title in titles)
  (saturation,) = (x for x in charts if x.title == "Saturation by step (text)")
  assert saturation.columns["saturation"] == [0, 1]
