"""How captions are learned, written and judged."""

import dataclasses

from mhmoe_jax.tasks.pictured import EncoderObjectiveConfig


@dataclasses.dataclass(frozen=True)
class CaptioningObjectiveConfig(EncoderObjectiveConfig):
  """Weights of the losses, and the beam search.

  Attributes: as of `EncoderObjectiveConfig`, and
    label_smoothing: share of a target that all tokens have alike, in training.
    num_beams: of the search; 1 is greedy decoding.
    length_penalty: the power of a caption's length that its log-probability is divided
      by; more favours long ones.
    num_captions: pictures that an evaluation writes captions of and scores.
  """

  label_smoothing: float
  num_beams: int
  length_penalty: float
  num_captions: int

  def __post_init__(self):
    super().__post_init__()
    if self.label_smoothing >= 1:
      raise ValueError(
        f"label_smoothing must be below 1, got label_smoothing={self.label_smoothing}."
      )
    for name in ("num_beams", "num_captions"):
      value = getattr(self, name)
      if value < 1:
        raise ValueError(f"{name} must be at least 1, got {name}={value}.")
