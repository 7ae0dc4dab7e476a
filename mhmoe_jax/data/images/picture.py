"""What a source of pictures gives."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np


class Picture(NamedTuple):
  """A picture and what is known of it."""

  pixels: np.ndarray  # uint8 (height, width, 3)
  record: Mapping[str, Any]  # of an index line, or of TFDS without the image
  name: str  # for errors and reports


class Source(Protocol):
  """Pictures by number."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Picture: ...

  def record(self, index: int) -> tuple[Mapping[str, Any], str]:
    """What is known of a picture, and its name, without the picture."""

  def second(self, index: int, key: str) -> np.ndarray:
    """Another picture, which the field `key` names; uint8 (height, width, 3).

    Raises:
      ValueError: there is none.
    """
