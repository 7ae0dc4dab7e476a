"""What an evaluation of masked modelling found, in numbers and in words."""

from collections.abc import Mapping
import math
from typing import NamedTuple

import numpy as np


class Part(NamedTuple):
  """Means over the masked places of a modality in a kind of example."""

  loss: float  # nats
  accuracy: float
  count: int

  @property
  def perplexity(self) -> float:
    """Of visual codes or of tokens."""
    return math.exp(min(self.loss, 700.0))


class MaskedEvaluation(NamedTuple):
  """Means over a validation split."""

  parts: Mapping[str, Part]  # "image", "text", "pair/image" and "pair/text"
  loads: Mapping[str, np.ndarray]  # of the tokens of each modality, all kinds together

  @property
  def loss(self) -> float:
    """Nats per masked place, of all kinds together."""
    total = sum(part.count for part in self.parts.values())
    return sum(part.loss * part.count for part in self.parts.values()) / total

  def scalars(self) -> dict[str, float]:
    """Loss, perplexity and accuracy, of all places and of each part."""
    found = {"loss": self.loss, "perplexity": math.exp(min(self.loss, 700.0))}
    for name, part in self.parts.items():
      found[f"{name}/loss"] = part.loss
      found[f"{name}/perplexity"] = part.perplexity
      found[f"{name}/accuracy"] = part.accuracy
    return found

  def in_short(self) -> str:
    """The loss, and the perplexity of each part."""
    parts = (f"{name} {part.perplexity:.2f}" for name, part in self.parts.items())
    return f"loss {self.loss:.4f}  perplexity: {', '.join(parts)}"

  def in_words(self) -> list[str]:
    """A line for all places, and one for each part."""
    pooled = math.exp(min(self.loss, 700.0))
    lines = [f"validation      perplexity {pooled:.3f} over all masked places"]
    return lines + [
      f"  {name:13} perplexity {part.perplexity:.3f}, {part.accuracy:.1%} right, over "
      f"{part.count:,} masked {'tokens' if name.endswith('text') else 'patches'}"
      for name, part in self.parts.items()
    ]
