"""A visual vocabulary by k-means on whitened patches: seconds, and the oracle.

Patches are centred and projected on their largest principal components, each scaled to
variance 1; a patch's id is its nearest code. It sees no context: codes are colours and
edges. Fitted with numpy, applied by jax.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class KMeans(NamedTuple):
  """What was fitted; U numbers a patch, R components, K codes. All float32."""

  mean_U: jax.Array
  whiten_UR: jax.Array  # patches to components
  color_RU: jax.Array  # components to patches
  codes_KR: jax.Array


def encode(codes: KMeans, patches_BPU: jax.Array) -> jax.Array:
  """The nearest code of each patch, int32 (B, P); patches in [-1, 1]."""
  x_BPR = (patches_BPU - codes.mean_U) @ codes.whiten_UR
  # |x - c|^2 without |x|^2, which all codes share.
  distance_BPK = jnp.square(codes.codes_KR).sum(axis=1) - 2 * x_BPR @ codes.codes_KR.T
  return jnp.argmin(distance_BPK, axis=-1).astype(jnp.int32)


def decode(codes: KMeans, ids_BP: jax.Array) -> jax.Array:
  """The patches of codes, (B, P, U)."""
  return codes.codes_KR[ids_BP] @ codes.color_RU + codes.mean_U


def fit(
  patches_TU: np.ndarray,
  num_codes: int,
  num_components: int,
  seed: int,
  num_rounds: int,
  report: Callable[[int, float], None] = lambda *_: None,
) -> KMeans:
  """Fits the codes to patches by Lloyd's algorithm from a k-means++ start.

  Args:
    patches_TU: in [-1, 1].
    num_codes: K, at most T.
    num_components: R, at most U.
    seed: of the start, and of codes that lose all their patches, which start anew at
      the patch that is farthest from its code.
    num_rounds: of assignment and mean.
    report: called after each round with its number, from 1, and the mean square
      distance of a patch to its code.
  """
  draw = np.random.RandomState(seed)
  wide = patches_TU.astype(np.float64)
  mean_U = wide.mean(axis=0)
  covariance = np.cov(wide.T)
  values, vectors = np.linalg.eigh(covariance)
  order = np.argsort(values)[::-1][:num_components]
  deviations = np.sqrt(np.maximum(values[order], 1e-8))
  whiten_UR = vectors[:, order] / deviations
  color_RU = (vectors[:, order] * deviations).T
  x_TR = ((wide - mean_U) @ whiten_UR).astype(np.float32)

  codes_KR = _spread_out(x_TR, num_codes, draw)
  for nth in range(1, num_rounds + 1):
    nearest_T, distance_T = _assign(x_TR, codes_KR)
    counts_K = np.bincount(nearest_T, minlength=num_codes)
    sums_KR = np.stack(
      [np.bincount(nearest_T, column, num_codes) for column in x_TR.T], axis=1
    )
    codes_KR = (sums_KR / np.maximum(counts_K, 1)[:, None]).astype(np.float32)
    empty = np.flatnonzero(counts_K == 0)
    codes_KR[empty] = x_TR[np.argsort(distance_T)[::-1][: len(empty)]]
    report(nth, float(distance_T.mean()))
  arrays = (mean_U, whiten_UR, color_RU, codes_KR)
  return KMeans(*(jnp.asarray(x, jnp.float32) for x in arrays))


def _assign(x_TR: np.ndarray, codes_KR: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The nearest code of each row, and the square of its distance."""
  nearest, distance = [], []
  squares_K = np.square(codes_KR).sum(axis=1)
  for part in np.array_split(x_TR, -(-len(x_TR) // 2**14)):
    scores = squares_K - 2 * part @ codes_KR.T
    nearest.append(scores.argmin(axis=1))
    distance.append(scores.min(axis=1) + np.square(part).sum(axis=1))
  return np.concatenate(nearest), np.maximum(np.concatenate(distance), 0)


def _spread_out(x_TR: np.ndarray, num_codes: int, draw) -> np.ndarray:
  """k-means++: each start is drawn in proportion to its distance from those before."""
  # On a sample: for thousands of codes the whole would take minutes, to no gain.
  x_TR = x_TR[draw.permutation(len(x_TR))[: max(2**14, 4 * num_codes)]]
  chosen = [draw.randint(len(x_TR))]
  distance_T = np.square(x_TR - x_TR[chosen[0]]).sum(axis=1)
  while len(chosen) < num_codes:
    chosen.append(_draw_one(distance_T, draw))
    new = np.square(x_TR - x_TR[chosen[-1]]).sum(axis=1)
    distance_T = np.minimum(distance_T, new)
  return x_TR[chosen]


def _draw_one(weight_T: np.ndarray, draw) -> int:
  total_T = np.cumsum(weight_T, dtype=np.float64)
  # Where all are at distance 0, there are fewer different patches than codes.
  if total_T[-1] == 0:
    return draw.randint(len(weight_T))
  return int(np.searchsorted(total_T, draw.uniform(0, total_T[-1]), side="right"))
