"""Makes a visual vocabulary from pictures, and says what it is worth.

A vocabulary of which fewer than half of the codes are in use is an error: its size,
and what a model's perplexity over it means, would be other than they seem.
"""

from collections.abc import Callable
import time
from typing import NamedTuple

import numpy as np

from mhmoe_jax.codes import kmeans, training
from mhmoe_jax.codes.measure import Statistics, measure
from mhmoe_jax.codes.vocabulary import Arrays, VisualVocabulary

_SECONDS = 2  # between two lines of progress

Tell = Callable[[str], None]


class Fitted(NamedTuple):
  """A vocabulary and what it makes of the pictures that it was fitted to."""

  arrays: Arrays
  statistics: Statistics


def fit(
  vocabulary: VisualVocabulary,
  pictures_NYXC: np.ndarray,
  *,
  steps: int,
  seed: int,
  tell: Tell = lambda line: None,
) -> Fitted:
  """Fits a vocabulary; the same on the same machine whenever the arguments are.

  Args:
    vocabulary: kind, codes and patch size.
    pictures_NYXC: uint8 square pictures of one size.
    steps: rounds of k-means, or steps of a VQ-VAE, each of about 2,048 patches.
    seed: of all that is drawn.
    tell: called with a line of progress every few seconds.

  Raises:
    ValueError: the patches do not fit the pictures, or are fewer than the codes, or
      fewer than half of the codes are in use at the end.
  """
  check_pictures(vocabulary, pictures_NYXC.shape)
  if steps < 1:
    raise ValueError(f"steps must be at least 1, got steps={steps}.")
  show = _Progress(tell, steps).show
  train = _fit_kmeans if vocabulary.kind == "kmeans" else training.train
  arrays = train(vocabulary, pictures_NYXC, steps, seed, show)
  statistics = measure(vocabulary, arrays, pictures_NYXC)
  if 2 * statistics.codes_in_use < vocabulary.num_codes:
    raise ValueError(
      "at least half of the codes must be in use, got "
      f"{statistics.codes_in_use} of num_codes={vocabulary.num_codes} in "
      f"{statistics.pictures} pictures; take fewer codes, more pictures or more steps."
    )
  return Fitted(arrays, statistics)


def check_pictures(vocabulary: VisualVocabulary, shape_NYXC: tuple[int, ...]) -> None:
  """Raises ValueError unless pictures of a shape can be cut into enough patches."""
  count, height, width = shape_NYXC[:3]
  size = vocabulary.patch_size
  if height != width or height % size:
    raise ValueError(
      "pictures must be square and a multiple of patch_size, got "
      f"patch_size={size}, height={height}, width={width}."
    )
  patches = count * (height // size) ** 2
  if patches < vocabulary.num_codes:
    raise ValueError(
      "there must be at least as many patches as codes, got "
      f"num_codes={vocabulary.num_codes}, {patches} patches in {count} pictures."
    )


def _fit_kmeans(vocabulary, pictures_NYXC, steps, seed, show) -> Arrays:
  least = max(kmeans.NUM_PATCHES, kmeans.PATCHES_OF_A_CODE * vocabulary.num_codes)
  draw = np.random.RandomState(seed)
  patches_TU = training.draw_patches(vocabulary, pictures_NYXC, least, draw)
  return kmeans.fit(
    patches_TU,
    vocabulary.num_codes,
    steps,
    seed,
    lambda nth, distance: show(nth, lambda: f"mean square {distance:.3f}"),
  )


class _Progress:
  """Lines that say how far, how good, how long still."""

  def __init__(self, tell: Tell, total: int):
    self._tell, self._total = tell, total
    self._began = self._shown = time.monotonic()

  def show(self, nth: int, describe: Callable[[], str]) -> None:
    now = time.monotonic()
    if nth == 1:  # It has compiled.
      self._began = now
    if now < self._shown + _SECONDS and nth < self._total:
      return
    self._shown = now
    line = f"step {nth:>{len(str(self._total))}}/{self._total}  {describe()}"
    if 1 < nth < self._total:
      left = (now - self._began) / (nth - 1) * (self._total - nth)
      line += f"  {left:.0f}s left"
    self._tell(line)
