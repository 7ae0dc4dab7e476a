"""What an evaluation of captioning found, in numbers and in words."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mhmoe_jax.tasks.masked_evaluation import Part

_SHOWN = 3


class CaptioningEvaluation(NamedTuple):
  """Of a validation split, and captions of its first pictures."""

  masked: Part  # tokens told from the picture and what is left of them
  captions: list[str]  # as written
  references: list[list[str]]  # of the same pictures
  scores: Mapping[str, float]  # as of `captions.score`
  loads: Mapping[str, np.ndarray]

  @property
  def loss(self) -> float:
    """Nats per masked token."""
    return self.masked.loss

  def scalars(self) -> dict[str, float]:
    """Loss, perplexity and accuracy at masked places, and scores of captions."""
    found = {"loss": self.loss, "perplexity": self.masked.perplexity}
    return found | {"accuracy": self.masked.accuracy, **self.scores}

  def in_short(self) -> str:
    """Perplexity, and the three scores that papers have."""
    return (
      f"loss {self.loss:.4f}  perplexity {self.masked.perplexity:.2f}  "
      f"{self._tell_scores()}"
    )

  def in_words(self) -> list[str]:
    """Lines of both, and the first captions, each beside what a person wrote."""
    masked, count = self.masked, len(self.captions)
    lines = [
      f"validation      perplexity {masked.perplexity:.3f}, {masked.accuracy:.1%} "
      f"right, over {masked.count:,} masked tokens",
      f"captions        {self._tell_scores()}, of {count:,} pictures",
    ]
    for caption, texts in zip(self.captions[:_SHOWN], self.references, strict=False):
      lines += [f"  written       {caption}", f"  reference     {texts[0]}"]
    return lines

  def _tell_scores(self) -> str:
    names = {"BLEU-4": "bleu_4", "ROUGE-L": "rouge_l", "CIDEr-D": "cider_d"}
    return ", ".join(f"{title} {self.scores[x]:.3f}" for title, x in names.items())
