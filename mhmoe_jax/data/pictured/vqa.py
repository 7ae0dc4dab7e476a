"""Questions about pictures: examples of visual question answering as arrays."""

import dataclasses

import numpy as np

from mhmoe_jax.data.images.index import read_text
from mhmoe_jax.data.images.numbered import Place, Row
from mhmoe_jax.data.pictured.answers import (
  Answers,
  AnswersConfig,
  read_all_answers,
  read_answers,
  read_type,
)
from mhmoe_jax.data.pictured.config import PicturedConfig
from mhmoe_jax.data.pictured.feed import Pictured


@dataclasses.dataclass(frozen=True)
class VqaDataConfig(PicturedConfig):
  """Where questions, pictures and answers come from.

  Attributes: as in `PicturedConfig`, and
    answers: which there are.
  """

  answers: AnswersConfig


class VqaRows:
  """The questions of a split; in training those that have a known answer.

  Args:
    cfg: of the data.
    size: height and width of pictures for the model.
    split: "train" or "validation".
    answers: that are known.

  Raises:
    ValueError: the data cannot be read, or no training question has a known answer.
  """

  def __init__(self, cfg: VqaDataConfig, size: int, split: str, answers: Answers):
    self._cfg, self._split, self._answers = cfg, split, answers
    self._made = Pictured(cfg, size, split)
    source = self._made.source
    self._known: range | list[int] = range(len(source))
    if split == "train":
      given = read_all_answers(source, cfg.answers.key)
      self._known = [i for i, x in enumerate(given) if answers.knows(x)]
      if not self._known:
        raise ValueError(
          "some training question must have a known answer, got "
          f"{len(source)} questions, none with any of {len(answers)} answers."
        )

  def __len__(self) -> int:
    return len(self._known)

  def __call__(self, place: Place) -> Row:
    """A question: arrays of picture and text, and "targets" float32 (V,).

    In validation also "accuracies" float32 (V,), official, of each answer, and "type"
    int32, in `TYPES`.

    Raises:
      ValueError: it has no picture, no text or no answers.
    """
    place = place._replace(index=self._known[place.index])
    picture, draw = self._made.source[place.index], self._made.draw(place)
    record, name = picture.record, picture.name
    questions = read_text(record, self._cfg.pictures.text_key, name)
    nth = draw.randint(len(questions)) if self._split == "train" else 0
    given = read_answers(record, name, self._cfg.answers.key)
    row = {
      "pixels": self._made.pixels(picture.pixels, draw),
      **self._made.text(questions[nth], name),
      "targets": self._answers.targets(given),
    }
    if self._split == "train":
      return row
    return row | {
      "accuracies": self._answers.accuracies(given),
      "type": np.int32(read_type(record, name, given)),
    }
