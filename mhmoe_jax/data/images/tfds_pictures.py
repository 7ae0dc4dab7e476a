"""Pictures of a set of TensorFlow Datasets."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mhmoe_jax.data.images.picture import Picture


class TfdsSource:
  """A set of TensorFlow Datasets; its feature "image" is the picture."""

  def __init__(self, name: str, split: str):
    from mhmoe_jax.data.quiet import tfds

    self._name = f"{name} {split}"
    try:
      builder = tfds.builder(name)
      self._rows = builder.as_data_source(split)
    except (ValueError, AssertionError, NotImplementedError) as error:
      raise ValueError(
        f"TFDS must have built {name} in a format of random access, `tfds build "
        f"{name.split(':')[0]} --file_format=array_record`, got split={split!r}: "
        f"{str(error).splitlines()[0]}"
      ) from None
    if "image" not in builder.info.features:
      raise ValueError(
        f"a set of pictures must have the feature 'image', got "
        f"{', '.join(builder.info.features)} in {name}."
      )

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> Picture:
    row = dict(self._rows[index])
    pixels = row.pop("image")
    if pixels.dtype != np.uint8 or pixels.shape[2] not in (1, 3):
      raise ValueError(
        "a picture must be uint8 with 1 or 3 colours, got "
        f"{pixels.dtype} {pixels.shape} of picture {index} of {self._name}."
      )
    if pixels.shape[2] == 1:
      pixels = np.repeat(pixels, 3, axis=2)
    return Picture(pixels, row, f"picture {index} of {self._name}")

  def record(self, index: int) -> tuple[Mapping[str, Any], str]:
    _, record, name = self[index]
    return record, name

  def second(self, index: int, key: str) -> np.ndarray:
    raise ValueError(
      "second pictures must be of source shapes, files or npz, got source tfds, "
      f"{self._name}."
    )
