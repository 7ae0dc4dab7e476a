"""How certain a mean over seeds is."""

import math
import statistics

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
