import numpy as np

from mhmoe_jax.analysis.statistics import activation
from tests.analysis.made import make_trace

# Two tokens, two heads, one choice each: layer 0 to 0, 0, 0, 1; layer 1 to 3 alone.
TRACE = make_trace([[[[0], [0]], [[3], [3]]], [[[0], [1]], [[3], [3]]]], 4)


def test_counts_loads_and_frequencies():
  count_NHE = activation.count_choices(TRACE)
  assert count_NHE[0].tolist() == [[2, 0, 0, 0], [1, 1, 0, 0]]
  assert count_NHE[1].tolist() == [[0, 0, 0, 2], [0, 0, 0, 2]]
  load_NE, frequency_NE = activation.measure(TRACE)
  np.testing.assert_allclose(load_NE, [[3, 1, 0, 0], [0, 0, 0, 4]])
  np.testing.assert_allclose(frequency_NE, [[1.5, 0.5, 0, 0], [0, 0, 0, 2]])


def test_the_curve_falls_from_what_is_used_at_all():
  load_NE, _ = activation.measure(TRACE)
  thresholds_X = np.array([0, 0.5, 1, 3.5, 4])
  curve_X = activation.active_curve(load_NE, thresholds_X)
  np.testing.assert_allclose(curve_X, [3 / 8, 3 / 8, 2 / 8, 1 / 8, 0])
