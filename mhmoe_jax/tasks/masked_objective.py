"""How much each kind of example counts in masked modelling."""

import dataclasses

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
