"""How certain a mean over seeds is."""

from collections.abc import Sequence
import math
import statistics
from typing import NamedTuple

import numpy as np
from scipy import stats


def interval(values: list[float]) -> tuple[float, float]:
  """Mean and half a 95 % interval of Student's t; NaN for one value."""
  mean, n = statistics.fmean(values), len(values)
  if n < 2:
    return mean, math.nan
  t = float(stats.t.ppf(0.975, n - 1))
  return mean, t * statistics.stdev(values) / math.sqrt(n)


def told(values: list[float]) -> str:
  """Mean of differences and half an interval of it, as far as there is one."""
  if not values:
    return ""
  mean, half = interval(values)
  return f"{mean:+.3f}" if math.isnan(half) else f"{mean:+.3f} ± {half:.3f}"


class Spread(NamedTuple):
  """How far runs lie from their row's and their seed's mean."""

  variance: float  # of one run
  free: int  # degrees of freedom of that estimate

  def half(self, pairs: int) -> float:
    """Half a 95 % interval of a mean difference of two rows over so many seeds."""
    t = float(stats.t.ppf(0.975, self.free))
    return t * math.sqrt(2 * self.variance / pairs)


def common_spread(values_RS: Sequence[Sequence[float]]) -> Spread | None:
  """The spread that all rows share, of a randomised complete block design.

  So many rows tell it better than the few differences of two of them, if no row's is
  larger than another's.

  Args:
    values_RS: a value for every row and seed.

  Returns:
    None where there are not two rows and two seeds.
  """
  if len(values_RS) < 2 or len(values_RS[0]) < 2:
    return None
  values = np.asarray(values_RS)
  rows, seeds = values.shape
  rest = values - values.mean(1, keepdims=True) - values.mean(0) + values.mean()
  free = (rows - 1) * (seeds - 1)
  return Spread(float(np.sum(rest**2)) / free, free)
