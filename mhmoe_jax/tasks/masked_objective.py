"""How well masked places are told, and how much each kind of example counts."""

import dataclasses
from typing import NamedTuple

import jax

from mhmoe_jax.tasks.objective import cross_entropy
from mhmoe_jax.tasks.pictured import EncoderObjectiveConfig

KINDS = ("image", "text", "pair")


@dataclasses.dataclass(frozen=True)
class MaskedObjectiveConfig(EncoderObjectiveConfig):
  """Weights of the losses.

  Attributes: as in `EncoderObjectiveConfig`, and
    image_weight: of pictures alone; the loss is the mean of the three kinds, weighted.
    text_weight: of texts alone.
    pair_weight: of pictures with texts.
  """

  image_weight: float
  text_weight: float
  pair_weight: float

  def __post_init__(self):
    super().__post_init__()
    if not any(self.shares().values()):
      raise ValueError(
        "one of image_weight, text_weight and pair_weight must be positive, got 0."
      )

  def shares(self) -> dict[str, float]:
    """The weight of each kind; of all together 1."""
    weights = {kind: getattr(self, f"{kind}_weight") for kind in KINDS}
    total = sum(weights.values()) or 1
    return {kind: weight / total for kind, weight in weights.items()}


class Guesses(NamedTuple):
  """How well masked places of one modality were told, summed."""

  nll: jax.Array  # nats
  correct: jax.Array
  count: jax.Array


def score(
  logits_BJV: jax.Array, targets_BJ: jax.Array, weights_BJ: jax.Array
) -> Guesses:
  """How well the targets are told by float32 logits; weights are 0 for padding."""
  right_BJ = logits_BJV.argmax(axis=-1) == targets_BJ
  return Guesses(
    nll=cross_entropy(logits_BJV, targets_BJ, weights_BJ),
    correct=(right_BJ * weights_BJ).sum(),
    count=weights_BJ.sum(),
  )
