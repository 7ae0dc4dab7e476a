"""The pictures of the region study, and what is known of their patches."""

import pathlib
from typing import NamedTuple

import measures
import numpy as np

from mhmoe_jax.analysis.statistics.texture import measure_texture, to_grey
from mhmoe_jax.data.images import shapes

PICTURES = 200  # of each set
TEXTURES = ("deviation", "detrended", "weakest")


class Pictures(NamedTuple):
  """A set of pictures and what is known of their patches."""

  pixels_UYXC: np.ndarray
  texture: dict  # (U, P) by measure
  brightness_UP: np.ndarray
  kinds: dict  # bool (U, P): patches of generated pictures that are of a kind


def describe(pixels_UYXC: np.ndarray, patch_size: int) -> Pictures:
  """Measures patches."""
  U = len(pixels_UYXC)
  made = measure_texture(pixels_UYXC, patch_size)
  texture = {x: getattr(made, f"{x}_URC").reshape(U, -1) for x in TEXTURES}
  grey_UP = to_grey(pixels_UYXC, patch_size).mean(axis=(-2, -1)).reshape(U, -1)
  return Pictures(pixels_UYXC, texture, grey_UP, {})


def read(data: pathlib.Path, size: int, patch_size: int) -> dict[str, Pictures]:
  """The pictures of the study; none was trained on."""
  with np.load(data / "caltech_valid.npz") as arrays:
    # Classes lie one behind the other.
    photographs = arrays["images"]
    photographs = photographs[:: len(photographs) // PICTURES][:PICTURES]
  scenes = [shapes.make_scene(1, "validation", i) for i in range(PICTURES)]
  drawn = np.stack([shapes.render(scene, size) for scene in scenes])
  sets = {
    "photographs": photographs,
    "shapes": drawn,
    "shuffled photographs": measures.shuffle(photographs, patch_size),
    "noise": measures.noise(PICTURES // 2, size),
  }
  made = {name: describe(pixels, patch_size) for name, pixels in sets.items()}
  known = np.stack([shapes.texture_map(scene, size, patch_size) for scene in scenes])
  textured_UP = known.reshape(PICTURES, -1)
  plain_UP = np.stack([_plain(s, size, patch_size).ravel() for s in scenes])
  made["shapes"].texture["known"] = textured_UP
  made["shapes"].kinds.update(
    textured=(textured_UP >= 0.5) & (plain_UP < 0.02),
    plain=(plain_UP >= 0.5) & (textured_UP < 0.02),
    ground=(plain_UP + textured_UP) < 0.001,
  )
  return made


def _plain(scene, size: int, patch_size: int) -> np.ndarray:
  """The share of every patch that is covered by something without a texture."""
  swapped = {"flat": "noisy"}  # what has none has one, and the other way round
  turned = tuple(
    shape._replace(texture=swapped.get(shape.texture, "flat")) for shape in scene.shapes
  )
  return shapes.texture_map(scene._replace(shapes=turned), size, patch_size)
