"""Whether patches with texture reach more experts: numbers with intervals.

Patches of a picture are not independent, so intervals are bootstrapped over pictures.
Where patches lie and how bright they are goes with texture, too, so that both are taken
out of texture and experts before they are compared.

U pictures of P patches, S resamples, X values of a column.
"""

from collections.abc import Sequence

import numpy as np
from scipy import stats

SAMPLES = 1_000
_BRIGHTNESS_BINS = 10
# Three numbers: the estimate and the ends of its 95 % interval.
Interval = list[float]


def resample(num_pictures: int, samples: int = SAMPLES, seed: int = 0) -> np.ndarray:
  """How often each picture comes in each resample, (S, U); all pictures once first.

  The same for equal numbers, so that differences between models are paired.
  """
  rng = np.random.default_rng(seed)
  drawn = rng.integers(0, num_pictures, (samples, num_pictures))
  counts = [np.bincount(one, minlength=num_pictures) for one in drawn]
  return np.stack([np.ones(num_pictures, np.int64), *counts])


def interval(draws_S: np.ndarray) -> Interval:
  """Of draws whose first is the estimate."""
  low, high = np.nanquantile(draws_S[1:], [0.025, 0.975])
  return [float(draws_S[0]), float(low), float(high)]


def span(brightness_UP: np.ndarray, within: bool) -> np.ndarray:
  """Orthonormal columns that span places and bins of brightness, (U * P, X).

  Args:
    brightness_UP: mean grey of each patch; place p is the same in all pictures.
    within: and pictures, so that only regions of one picture are compared.
  """
  U, P = brightness_UP.shape
  edges = np.quantile(brightness_UP, np.linspace(0, 1, _BRIGHTNESS_BINS + 1)[1:-1])
  groups = [np.tile(np.arange(P), U), np.digitize(brightness_UP.reshape(-1), edges)]
  if within:
    groups.append(np.repeat(np.arange(U), P))
  # Of every group but the first one member follows from the others.
  columns = [g[:, None] == np.unique(g)[int(n > 0) :] for n, g in enumerate(groups)]
  return np.linalg.qr(np.concatenate(columns, axis=1).astype(np.float64))[0]


def residuals(x_UP: np.ndarray, span_TX: np.ndarray) -> np.ndarray:
  """Ranks of x less what the columns of `span` tell of them, (U, P)."""
  rank_T = stats.rankdata(x_UP).reshape(-1)
  return (rank_T - span_TX @ (span_TX.T @ rank_T)).reshape(x_UP.shape)


def correlate(x_UP: np.ndarray, y_UP: np.ndarray, weight_SU: np.ndarray) -> np.ndarray:
  """Pearson's correlation in every resample of pictures, (S,)."""
  sums_XU = np.stack(
    [x.sum(axis=1) for x in (x_UP, y_UP, x_UP**2, y_UP**2, x_UP * y_UP)]
  )
  total_S = weight_SU.sum(axis=1) * x_UP.shape[1]
  x_S, y_S, xx_S, yy_S, xy_S = sums_XU @ weight_SU.T / total_S
  variance_S = (xx_S - x_S**2) * (yy_S - y_S**2)
  return (xy_S - x_S * y_S) / np.sqrt(np.maximum(variance_S, 1e-30))


def spans(brightness_UP: np.ndarray) -> dict[str, np.ndarray]:
  """What `compare` takes out, by name."""
  return {"matched": span(brightness_UP, False), "within": span(brightness_UP, True)}


def compare(
  x_UP: np.ndarray,
  y_UP: np.ndarray,
  taken_out: dict[str, np.ndarray],
  weight_SU: np.ndarray,
) -> dict[str, np.ndarray]:
  """Rank correlation in every resample, (S,): plain, and less what is taken out.

  That is fitted once, to all pictures, and not in each resample.
  """
  ranks = [stats.rankdata(v).reshape(v.shape) for v in (x_UP, y_UP)]
  made = {"plain": correlate(*ranks, weight_SU)}
  for name, span_TX in taken_out.items():
    made[name] = correlate(*(residuals(v, span_TX) for v in (x_UP, y_UP)), weight_SU)
  return made


def difference(
  y_UP: np.ndarray, inside_UP: np.ndarray, outside_UP: np.ndarray, weight_SU: np.ndarray
) -> np.ndarray:
  """Mean of y where `inside` less that where `outside`, in every resample, (S,)."""

  def mean(where_UP):
    total_S = weight_SU @ (y_UP * where_UP).sum(axis=1)
    return total_S / np.maximum(weight_SU @ where_UP.sum(axis=1), 1)

  return mean(inside_UP) - mean(outside_UP)


def matched_difference(
  y_UP: np.ndarray,
  inside_UP: np.ndarray,
  outside_UP: np.ndarray,
  brightness_UP: np.ndarray,
  weight_SU: np.ndarray,
) -> np.ndarray:
  """The same among patches of one place and one fifth of brightness, (S,).

  A stratum counts as much as it can tell, n_in n_out / (n_in + n_out).
  """
  U, P = y_UP.shape
  edges = np.quantile(brightness_UP, [0.2, 0.4, 0.6, 0.8])
  stratum_UP = np.arange(P)[None] * 5 + np.digitize(brightness_UP, edges)
  place_UP = np.arange(U)[:, None] * (5 * P) + stratum_UP
  found = []
  for where_UP in (inside_UP, outside_UP):
    for value_UP in (where_UP, y_UP * where_UP):
      flat = np.bincount(place_UP.ravel(), value_UP.ravel(), U * 5 * P)
      found.append(weight_SU @ flat.reshape(U, -1))
  n_in, y_in, n_out, y_out = found
  share = n_in * n_out / np.maximum(n_in + n_out, 1)
  gap = y_in / np.maximum(n_in, 1) - y_out / np.maximum(n_out, 1)
  return (share * gap).sum(axis=1) / np.maximum(share.sum(axis=1), 1e-12)


def effective_experts(load_NE: np.ndarray) -> float:
  """Share of experts that, evenly used, have the entropy of the load."""
  log_NE = np.log(np.maximum(load_NE, 1e-300))
  return float(np.exp(-(load_NE * log_NE).sum(axis=1)).mean() / load_NE.shape[1])


def shuffle(pixels_UYXC: np.ndarray, patch_size: int, seed: int = 0) -> np.ndarray:
  """Pictures whose patches lie elsewhere in the same picture."""
  U, Y, X, C = pixels_UYXC.shape
  rows, columns = Y // patch_size, X // patch_size
  cut = pixels_UYXC.reshape(U, rows, patch_size, columns, patch_size, C).swapaxes(2, 3)
  cut = cut.reshape(U, rows * columns, patch_size, patch_size, C)
  rng = np.random.default_rng(seed)
  moved = np.stack([patches[rng.permutation(rows * columns)] for patches in cut])
  moved = moved.reshape(U, rows, columns, patch_size, patch_size, C).swapaxes(2, 3)
  return moved.reshape(U, Y, X, C)


def noise(count: int, size: int, seed: int = 0) -> np.ndarray:
  """Pictures in which every pixel is drawn by itself."""
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (count, size, size, 3)).astype(np.uint8)


def against(draws_S: np.ndarray, others: Sequence[np.ndarray]) -> dict:
  """A number beside those of fresh routers, which differ among themselves.

  Args:
    draws_S: of the trained router, the estimate first.
    others: the same of each fresh one.

  Returns:
    "mean": of the fresh ones, with its interval over pictures; "fresh": the estimate of
    each; "above": how many of them it exceeds.
  """
  estimates = [float(one[0]) for one in others]
  return {
    "mean": interval(np.mean(others, axis=0)),
    "fresh": estimates,
    "above": sum(float(draws_S[0]) > x for x in estimates),
  }
