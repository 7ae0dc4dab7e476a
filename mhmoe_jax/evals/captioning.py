"""Captions of pictures from a trained run."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.sharding import Mesh
import numpy as np

from mhmoe_jax import sharding
from mhmoe_jax.data.images.augment import squash
from mhmoe_jax.tasks.task import Params
from mhmoe_jax.train.config import RunConfig


class Caption(NamedTuple):
  """What was written of a picture."""

  text: str
  worth: float  # its log-probability over its length to the length penalty


class Captioner:
  """Writes captions, in batches of one size.

  Args:
    cfg: of a run of captioning.
    mesh: with the parameters.

  Attributes:
    batch_size: pictures of a batch, that of training.
  """

  def __init__(self, cfg: RunConfig, mesh: Mesh):
    cfg.need("captioning", "caption")
    self.batch_size = cfg.train.batch_size
    self._task, self._mesh = cfg.task, mesh
    sharding.check_batch(self.batch_size, mesh)
    self._write = jax.jit(self._task.write, out_shardings=sharding.copies(mesh))

  def __call__(self, params: Params, pictures: Sequence[np.ndarray]) -> list[Caption]:
    """The captions of at most `batch_size` pictures, uint8 (height, width, 3)."""
    size, missing = self._task.model.picture_size, self.batch_size - len(pictures)
    pixels_NYXC = np.stack([squash(picture, size) for picture in pictures])
    pixels_BYXC = np.pad(pixels_NYXC, [(0, missing), (0, 0), (0, 0), (0, 0)])
    real_B = np.arange(self.batch_size) < len(pictures)
    batch = sharding.place_batch((pixels_BYXC, real_B), self._mesh, self.batch_size)
    with jax.set_mesh(self._mesh):
      found = jax.device_get(self._write(params, *batch))
    rows = zip(*(x[: len(pictures)] for x in found), strict=True)
    return [Caption(self._task.to_text(text), float(worth)) for text, worth in rows]
