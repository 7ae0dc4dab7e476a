"""Patches to uncorrelated numbers of about the same variance, and back.

Of a patch nearly all is one colour. Without this, both kinds of vocabulary would see
little else: k-means by its distances, a network by its gradients (in 200 steps of one,
18.6 dB without and 24.0 dB with it, on pictures of shapes).
"""

import jax
import jax.numpy as jnp
import numpy as np


def fit(
  patches_TU: np.ndarray, num_components: int, softening: float
) -> dict[str, np.ndarray]:
  """Principal components, the largest first.

  Args:
    patches_TU: in [-1, 1].
    num_components: R, at most; no more than a patch has numbers.
    softening: what is added to all variances before they are brought to 1, as a share
      of the largest. At 0 the last components, noise, count as much as the first.

  Returns:
    mean_U; whiten_UR, patches to components; color_RU, components to patches.
  """
  variance_U, vectors_UU = np.linalg.eigh(np.cov(patches_TU.T))  # ascending
  variance_R = np.maximum(variance_U[::-1][:num_components], 0)
  vectors_UR = vectors_UU[:, ::-1][:, :num_components]
  deviation_R = np.sqrt(variance_R + softening * variance_U[-1] + 1e-8)
  arrays = {
    "mean_U": patches_TU.mean(axis=0, dtype=np.float64),
    "whiten_UR": vectors_UR / deviation_R,
    "color_RU": (vectors_UR * deviation_R).T,
  }
  return {name: np.asarray(x, np.float32) for name, x in arrays.items()}


def whiten(arrays, patches_BPU: jax.Array) -> jax.Array:
  """(B, P, R)."""
  return (patches_BPU - arrays["mean_U"][None, None]) @ arrays["whiten_UR"]


def color(arrays, x_BPR: jax.Array) -> jax.Array:
  """Inverse of `whiten`, up to the components that were left out; (B, P, U)."""
  return x_BPR @ arrays["color_RU"] + arrays["mean_U"][None, None]


def array_shapes(
  patch_dim: int, num_components: int
) -> dict[str, jax.ShapeDtypeStruct]:
  U, R = patch_dim, min(patch_dim, num_components)
  shapes = {"mean_U": (U,), "whiten_UR": (U, R), "color_RU": (R, U)}
  return {name: jax.ShapeDtypeStruct(s, jnp.float32) for name, s in shapes.items()}
