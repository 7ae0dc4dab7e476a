"""Pictures of what a model fills in for hidden patches, beside the originals."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from mhmoe_jax.codes import vocabulary
from mhmoe_jax.models.patches import from_patches, normalize, to_patches, to_uint8

SHOWN = 8  # pictures
_GREY = -0.1  # of what is hidden, in [-1, 1]


def fill_in(
  codes: vocabulary.VisualVocabulary,
  arrays: vocabulary.Arrays,
  batch: Mapping[str, jax.Array],
  guessed_BJ: jax.Array,
) -> dict[str, jax.Array]:
  """Four pictures of each: as it is, what is seen of it, filled in, from its codes.

  Args:
    codes: the visual vocabulary.
    arrays: of it.
    batch: "pixels", "masked" and "patch_places", as of `Masked`.
    guessed_BJ: ids of the hidden patches by the model.

  Returns:
    uint8 (B, Y, X, 3) by name, in the order in which they are shown.
  """
  patches_BPU = normalize(to_patches(batch["pixels"], codes.patch_size))
  columns = round(patches_BPU.shape[1] ** 0.5)
  ids_BP = vocabulary.encode(codes, arrays, patches_BPU)
  guessed_BP = jnp.put_along_axis(
    ids_BP, batch["patch_places"], guessed_BJ, axis=1, inplace=False
  )
  hidden_BP1 = batch["masked"][..., None]
  filled_BPU = vocabulary.decode(codes, arrays, guessed_BP)
  made = {
    "original": patches_BPU,
    "seen": jnp.where(hidden_BP1, _GREY, patches_BPU),
    "filled in": jnp.where(hidden_BP1, filled_BPU, patches_BPU),
    "from its codes": vocabulary.decode(codes, arrays, ids_BP),
  }
  return {name: to_uint8(from_patches(x, columns)) for name, x in made.items()}


def draw(made: Mapping[str, np.ndarray], title: str) -> np.ndarray:
  """What `fill_in` returned as one picture, uint8 (height, width, 3)."""
  from mhmoe_jax.codes import sheet  # with Pillow, which training needs not

  words = "a patch is filled in with the likeliest code; the last is the best it can be"
  # A dict that was computed on devices comes back with its names sorted.
  order = ("original", "seen", "filled in", "from its codes")
  return sheet.draw_sheet({name: made[name] for name in order}, title, words, columns=2)
