"""Asking a trained model about a picture."""

from typing import NamedTuple

import jax
import numpy as np

from mhmoe_jax.data.images.augment import squash
from mhmoe_jax.data.images.decoding import read
from mhmoe_jax.data.pictured.answers import find_answers
from mhmoe_jax.data.pictured.text import TextWindow
from mhmoe_jax.tasks.task import Params
from mhmoe_jax.train.config import RunConfig


class Answer(NamedTuple):
  """What may be said, and the probability that people are satisfied with it."""

  answer: str
  probability: float


def ask(
  cfg: RunConfig, params: Params, image: str, question: str, count: int = 5
) -> list[Answer]:
  """The likeliest answers, the best one first.

  Args:
    cfg: of a run of visual question answering.
    params: of its model.
    image: path of a PNG or JPEG.
    question: about it.
    count: of answers.

  Raises:
    ValueError: the run is of another task, the picture cannot be read, or the question
      is empty or longer than the window.
  """
  cfg.need("vqa", "answering questions")
  if not question.strip():
    raise ValueError(f"a question must have words, got {question!r}.")
  data = cfg.data
  keys = "data.text_length", "data.cut_texts"
  window = TextWindow(data.vocabulary, data.text_length, data.cut_texts, keys)
  row = {
    "pixels": squash(read(image), cfg.model.picture_size),
    **window(question, "the question"),
  }
  words = find_answers(data.pictures, data.answers).words
  predict = jax.jit(cfg.task.predict)
  (scores_V,) = predict(params, {name: x[None] for name, x in row.items()})
  best = np.argsort(-np.asarray(scores_V), kind="stable")[:count]
  return [Answer(words[i], float(scores_V[i])) for i in best]
