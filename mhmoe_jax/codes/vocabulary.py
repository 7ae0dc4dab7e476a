"""The interface of visual vocabularies: patches in [-1, 1] to ids, and back.

What is fixed is a `VisualVocabulary`; what was fitted is a dict of arrays, named by
their dimensions as parameters are, so that a training state can carry it. `encode` and
`decode` are pure and may be jitted; a picture has one id for each of its patches.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from mhmoe_jax.codes import kmeans, vqvae

KINDS = ("kmeans", "vqvae")

Arrays = Mapping[str, Any]  # of jax.Array, or of such mappings


@dataclasses.dataclass(frozen=True)
class VisualVocabulary:
  """What is fixed of a visual vocabulary.

  Attributes:
    kind: "kmeans": the nearest of some patches, which sees a patch alone; "vqvae": a
      convolutional network that sees a patch's neighbours as well.
    num_codes: size of the vocabulary.
    patch_size: height and width of a patch, in pixels of three colours.
  """

  kind: str
  num_codes: int
  patch_size: int

  def __post_init__(self):
    if self.kind not in KINDS:
      raise ValueError(f"kind must be one of {', '.join(KINDS)}, got kind={self.kind}.")
    for name, least in (("num_codes", 2), ("patch_size", 1)):
      value = getattr(self, name)
      if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(
          f"{name} must be an integer of at least {least}, got {name}={value!r}."
        )

  @property
  def patch_dim(self) -> int:
    """U, the numbers of a patch."""
    return 3 * self.patch_size**2


def encode(
  vocabulary: VisualVocabulary, arrays: Arrays, patches_BPU: jax.Array
) -> jax.Array:
  """The ids of patches.

  Args:
    vocabulary: what is fixed.
    arrays: what was fitted.
    patches_BPU: of whole square pictures, `patches.to_patches` of `patches.normalize`.

  Returns:
    int32 (B, P), in [0, num_codes).

  Raises:
    ValueError: the patches are of another size, or not of square pictures.
  """
  _check(vocabulary, patches_BPU.shape)
  # Where products are rounded to bfloat16, other codes would be the nearest.
  with jax.default_matmul_precision("highest"):
    return _model(vocabulary).encode(arrays, patches_BPU.astype(jnp.float32))


def decode(
  vocabulary: VisualVocabulary, arrays: Arrays, ids_BP: jax.Array
) -> jax.Array:
  """The patches that ids stand for, float32 (B, P, U), not quite all in [-1, 1]."""
  _check(vocabulary, (*ids_BP.shape, vocabulary.patch_dim))
  with jax.default_matmul_precision("highest"):
    return _model(vocabulary).decode(arrays, ids_BP)


def array_shapes(vocabulary: VisualVocabulary) -> Arrays:
  """The arrays of a vocabulary as `jax.ShapeDtypeStruct`, without fitting one."""
  return _model(vocabulary).array_shapes(vocabulary.patch_dim, vocabulary.num_codes)


def _model(vocabulary: VisualVocabulary):
  return kmeans if vocabulary.kind == "kmeans" else vqvae


def _check(vocabulary: VisualVocabulary, shape: tuple[int, ...]) -> None:
  if shape[-1] != vocabulary.patch_dim:
    raise ValueError(
      "patches must have 3 * patch_size ** 2 numbers, got "
      f"patch_size={vocabulary.patch_size}, {shape[-1]} numbers."
    )
  if math.isqrt(shape[1]) ** 2 != shape[1]:
    raise ValueError(f"pictures must be square, got {shape[1]} patches in one.")
