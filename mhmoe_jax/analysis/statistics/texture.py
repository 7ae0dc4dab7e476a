"""How much texture the patches of pictures have, by three measures.

2404.15045 Figs. 1b, 8 and 10 say that patches with texture reach more experts, and not
what texture is. Shading is no texture and an edge is none, so that a verdict should not
hang on one measure. All are of the patch alone: moving it changes nothing.
"""

from typing import NamedTuple

import numpy as np

# What the eye sees of red, green and blue (ITU-R BT.601).
_GREY_C = np.array([0.299, 0.587, 0.114])


class Texture(NamedTuple):
  """Of every patch, R rows and C columns of them; in grey levels of 255."""

  deviation_URC: np.ndarray  # standard deviation
  detrended_URC: np.ndarray  # the same without the plane that fits best: no shading
  # Root mean square step to the next pixel in the direction where it is smallest, from
  # the lesser eigenvalue of the structure tensor. An edge or a stripe has none.
  weakest_URC: np.ndarray
  # That eigenvalue over the mean of both, in [0, 1]; NaN where there are no steps.
  isotropy_URC: np.ndarray


def to_grey(pixels_UYXC: np.ndarray, patch_size: int) -> np.ndarray:
  """Grey patches, float64 (U, rows, columns, height, width), in [0, 255]."""
  U, Y, X, _ = pixels_UYXC.shape
  grey_UYX = pixels_UYXC @ _GREY_C
  cut = grey_UYX.reshape(U, Y // patch_size, patch_size, X // patch_size, patch_size)
  return cut.swapaxes(2, 3)


def measure_texture(pixels_UYXC: np.ndarray, patch_size: int) -> Texture:
  """The texture of every patch.

  Args:
    pixels_UYXC: uint8 pictures.
    patch_size: height and width of a patch, at least 2; divides those of the pictures.
  """
  grey = to_grey(pixels_UYXC, patch_size)
  centred = grey - grey.mean(axis=(-2, -1), keepdims=True)
  # Of centred places a fitted plane is the sum of two fits.
  place = np.arange(patch_size) - (patch_size - 1) / 2
  flat = centred.copy()
  for at in (place[:, None], place[None]):
    at = np.broadcast_to(at, (patch_size, patch_size))
    slope = (centred * at).sum(axis=(-2, -1), keepdims=True) / (at**2).sum()
    flat -= slope * at
  down, right = np.gradient(grey, axis=(-2, -1))
  dd, rr, dr = (x.mean(axis=(-2, -1)) for x in (down**2, right**2, down * right))
  middle, spread = (dd + rr) / 2, np.hypot((dd - rr) / 2, dr)
  # Rounding leaves a trace of steps where there are none.
  lesser = np.where(middle > 1e-9, np.maximum(middle - spread, 0), 0)
  return Texture(
    deviation_URC=centred.std(axis=(-2, -1)),
    detrended_URC=flat.std(axis=(-2, -1)),
    weakest_URC=np.sqrt(lesser),
    isotropy_URC=np.where(middle > 1e-9, lesser / np.maximum(middle, 1e-9), np.nan),
  )


def sort_by_texture(texture_T: np.ndarray, bins: int = 10) -> list[np.ndarray]:
  """Places of patches in bins of about equal size, the flattest first.

  Patches of equal texture are in one bin, so that there are fewer where many are flat.
  """
  edges = np.unique(np.quantile(texture_T, np.linspace(0, 1, bins + 1)[1:-1]))
  bin_T = np.searchsorted(edges, texture_T, side="left")
  return [np.flatnonzero(bin_T == b) for b in np.unique(bin_T)]
