"""A visual vocabulary by k-means on whitened patches: seconds, and the oracle.

A patch's id is that of the nearest code, and a code looks like the mean of its patches.
It sees no context: codes are colours and edges. Fitted with numpy, applied by jax.

`fit_codes` is k-means itself, from which a VQ-VAE's codes start as well.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mhmoe_jax.codes import whitening

NUM_COMPONENTS, SOFTENING = 48, 0.1  # of the whitening
# What a fit looks at: so many patches, or so many for each code.
NUM_PATCHES, PATCHES_OF_A_CODE = 2**16, 16

Report = Callable[[int, float], None]


def encode(arrays, patches_BPU: jax.Array) -> jax.Array:
  """The nearest code of each patch, int32 (B, P)."""
  return nearest(whitening.whiten(arrays, patches_BPU), arrays["codes_WR"])


def nearest(x_BPR: jax.Array, codes_WR: jax.Array) -> jax.Array:
  """The number of the nearest code of each vector, int32 (B, P)."""
  # |x - c|^2 without |x|^2, which all codes share.
  squares_W = jnp.square(codes_WR).sum(axis=1)
  distance_BPW = squares_W[None, None] - 2 * x_BPR @ codes_WR.T
  return jnp.argmin(distance_BPW, axis=-1).astype(jnp.int32)


def decode(arrays, ids_BP: jax.Array) -> jax.Array:
  """The patches of codes, (B, P, U)."""
  return arrays["patches_WU"][ids_BP]


def array_shapes(patch_dim: int, num_codes: int) -> dict[str, jax.ShapeDtypeStruct]:
  shapes = whitening.array_shapes(patch_dim, NUM_COMPONENTS)
  num_components = shapes["whiten_UR"].shape[1]
  codes = jax.ShapeDtypeStruct((num_codes, num_components), jnp.float32)
  patches = jax.ShapeDtypeStruct((num_codes, patch_dim), jnp.float32)
  return shapes | {"codes_WR": codes, "patches_WU": patches}


def fit(
  patches_TU: np.ndarray, num_codes: int, num_rounds: int, seed: int, report: Report
) -> dict[str, np.ndarray]:
  """Fits a vocabulary to patches in [-1, 1]; see `fit_codes` for the rest."""
  arrays = whitening.fit(patches_TU, NUM_COMPONENTS, SOFTENING)
  x_TR = (patches_TU - arrays["mean_U"]) @ arrays["whiten_UR"]
  draw = np.random.RandomState(seed)
  codes_WR = fit_codes(x_TR, num_codes, num_rounds, draw, report)
  nearest_T, _ = _assign(x_TR, codes_WR)
  means_WU, counts_W = _means(patches_TU, nearest_T, num_codes)
  # A code without patches is never asked for, unless a model says it.
  means_WU[counts_W == 0] = arrays["mean_U"]
  return arrays | {"codes_WR": codes_WR, "patches_WU": means_WU}


def fit_codes(
  x_TR: np.ndarray,
  num_codes: int,
  num_rounds: int,
  draw: np.random.RandomState,
  report: Report = lambda *_: None,
  on_sphere: bool = False,
) -> np.ndarray:
  """Lloyd's algorithm from a k-means++ start.

  Args:
    x_TR: vectors, float32, at least as many as codes.
    num_codes: W.
    num_rounds: of assignment and mean.
    draw: decides the start. Codes that lose all their vectors start anew at the vectors
      that are farthest from their codes.
    report: called after each round with its number, from 1, and the mean square
      distance of a vector to its code.
    on_sphere: vectors have length 1, and so shall codes.

  Returns:
    The codes, float32 (W, R).
  """
  codes_WR = _spread_out(x_TR, num_codes, draw)
  for nth in range(1, num_rounds + 1):
    nearest_T, distance_T = _assign(x_TR, codes_WR)
    codes_WR, counts_W = _means(x_TR, nearest_T, num_codes)
    empty = np.flatnonzero(counts_W == 0)
    codes_WR[empty] = x_TR[np.argsort(distance_T)[::-1][: len(empty)]]
    if on_sphere:
      codes_WR /= np.linalg.norm(codes_WR, axis=1, keepdims=True)
    report(nth, float(distance_T.mean()))
  return codes_WR


def _assign(x_TR: np.ndarray, codes_WR: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The nearest code of each row, and the square of its distance."""
  nearest, distance = [], []
  squares_W = np.square(codes_WR).sum(axis=1)
  for part in np.array_split(x_TR, -(-len(x_TR) // 2**14)):
    scores = squares_W - 2 * part @ codes_WR.T
    nearest.append(scores.argmin(axis=1))
    distance.append(scores.min(axis=1) + np.square(part).sum(axis=1))
  return np.concatenate(nearest), np.maximum(np.concatenate(distance), 0)


def _means(
  x_TR: np.ndarray, nearest_T: np.ndarray, num_codes: int
) -> tuple[np.ndarray, np.ndarray]:
  """For each code the mean of its rows, float32 (W, R), and their number."""
  counts_W = np.bincount(nearest_T, minlength=num_codes)
  sums_WR = np.stack([np.bincount(nearest_T, x, num_codes) for x in x_TR.T], axis=1)
  return (sums_WR / np.maximum(counts_W, 1)[:, None]).astype(np.float32), counts_W


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
  # Where all are at distance 0, there are fewer different vectors than codes.
  if total_T[-1] == 0:
    return draw.randint(len(weight_T))
  return int(np.searchsorted(total_T, draw.uniform(0, total_T[-1]), side="right"))
