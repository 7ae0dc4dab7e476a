"""The answers that a model knows: those that training questions have, as classes."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import functools
import hashlib
import json
from typing import Any

from etils import epath
import numpy as np

from mhmoe_jax.data.images.identity import identify
from mhmoe_jax.data.images.picture import Source
from mhmoe_jax.data.images.sources import PictureConfig, open_source
from mhmoe_jax.data.pictured import official

TYPES = ("yes/no", "number", "other")  # of answers, as in VQA v2


@dataclasses.dataclass(frozen=True)
class AnswersConfig:
  """Which answers there are.

  Attributes:
    path: a file that a run wrote; empty: those of the training questions.
    key: the field of the answers to a question, a string or a list of ten.
    least_count: questions that an answer must be the most frequent one of.
  """

  path: str
  key: str
  least_count: int

  def __post_init__(self):
    if not self.key:
      raise ValueError("data.answers needs a key, got key=''.")
    if self.least_count < 1:
      raise ValueError(
        f"least_count must be at least 1, got least_count={self.least_count}."
      )


class Answers:
  """Answers by number, in the official form.

  Args:
    words: all of them.
  """

  def __init__(self, words: Sequence[str]):
    self.words = tuple(words)
    self._ids = {word: i for i, word in enumerate(self.words)}
    # The official form of an official form may be another.
    self._ids_of_form = defaultdict(list)
    for i, word in enumerate(self.words):
      self._ids_of_form[official.normalize(word)].append(i)

  def __len__(self) -> int:
    return len(self.words)

  @property
  def fingerprint(self) -> str:
    """What tells them from others."""
    return hashlib.sha256("\n".join(self.words).encode()).hexdigest()[:16]

  def knows(self, answers: Sequence[str]) -> bool:
    """Whether any answer to a question is among them."""
    return any(official.normalize(answer) in self._ids for answer in answers)

  def targets(self, answers: Sequence[str]) -> np.ndarray:
    """What training aims at, float32 (V,): 0, .3, .6, .9, 1 for 0 to 4 or more of ten.

    BEiT-3's table, which is the official accuracy of each answer.
    """
    found = np.zeros(len(self), np.float32)
    given = [official.normalize(answer) for answer in answers]
    given = given * official.PEOPLE if len(given) == 1 else given
    for answer, count in Counter(given).items():
      if answer in self._ids:
        found[self._ids[answer]] = official.satisfied(count, len(given))
    return found

  def accuracies(self, answers: Sequence[str]) -> np.ndarray:
    """The official accuracy of each of them as a prediction, float32 (V,)."""
    found = np.zeros(len(self), np.float32)
    given = official.given_answers(answers)
    exact = official.is_unanimous(answers)
    for answer, count in Counter(given).items():
      ids = [self._ids[answer]] if answer in self._ids else []
      for i in ids if exact else self._ids_of_form.get(answer, ()):
        found[i] = official.satisfied(count, len(given))
    return found

  def save(self, path: epath.PathLike) -> None:
    """Writes them to a JSON file, as a whole or not at all."""
    about = {"fingerprint": self.fingerprint, "answers": self.words}
    part = epath.Path(f"{path}.part")
    part.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    part.replace(path)


def load_answers(path: epath.PathLike) -> Answers:
  """Reads what `Answers.save` wrote.

  Raises:
    ValueError: it is not there, or not that.
  """
  try:
    about = json.loads(epath.Path(path).read_text())
    answers = Answers(about["answers"])
    is_whole = answers.fingerprint == about["fingerprint"]
  except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
    reason = f"{type(error).__name__}: {error}"
    raise ValueError(
      f"answers must be a file that a run wrote, got {path} ({reason})."
    ) from None
  if not is_whole:
    raise ValueError(f"answers must be as a run wrote them, got {path}, changed.")
  return answers


def find_answers(pictures: PictureConfig, cfg: AnswersConfig) -> Answers:
  """Those of a file, or of the training questions of `pictures`.

  Raises:
    ValueError: the file is not one, or a question has no answers.
  """
  if cfg.path:
    return load_answers(cfg.path)
  # In a run it is asked for again and again.
  return _collect(pictures, cfg, tuple(sorted(identify(pictures).items())))


@functools.lru_cache(2)
def _collect(pictures: PictureConfig, cfg: AnswersConfig, identity: Any) -> Answers:
  del identity  # A part of the key.
  source = open_source(pictures, "train", size=1)
  counts = Counter(most_frequent(x) for x in read_all_answers(source, cfg.key))
  known = [word for word, count in counts.items() if word and count >= cfg.least_count]
  if not known:
    raise ValueError(
      f"some answer must be that to data.answers.least_count={cfg.least_count} of the "
      f"training questions, got {len(source)} questions."
    )
  return Answers(sorted(known, key=lambda word: (-counts[word], word)))


def most_frequent(answers: Sequence[str]) -> str:
  """The answer that most people gave, of equally many the first, in official form."""
  return Counter(map(official.normalize, answers)).most_common(1)[0][0]


def read_all_answers(source: Source, key: str) -> Iterable[list[str]]:
  """The answers to every question of a source."""
  for index in range(len(source)):
    yield read_answers(*source.record(index), key)


def read_answers(record: Mapping[str, Any], name: str, key: str) -> list[str]:
  """The answers to a question.

  Raises:
    ValueError: it has none.
  """
  found: Any = record
  for part in key.split("/"):
    found = found.get(part) if isinstance(found, Mapping) else None
  answers = list(found) if isinstance(found, list | tuple | np.ndarray) else [found]
  answers = [x.decode() if isinstance(x, bytes) else x for x in answers]
  if not any(answers) or not all(isinstance(answer, str) for answer in answers):
    raise ValueError(
      f"every question must have answers, text or a list of it, in {key!r}, got the "
      f"fields {', '.join(record)} of {name}."
    )
  return answers


def read_type(record: Mapping[str, Any], name: str, answers: Sequence[str]) -> int:
  """The number of the answer's type in `TYPES`; where none is told, by its look.

  Raises:
    ValueError: it is told, and not one of them.
  """
  told = record.get("answer_type")
  if told is None:
    word = most_frequent(answers)
    told = "yes/no" if word in ("yes", "no") else "other"
    told = "number" if word.replace(".", "").isdecimal() else told
  if told not in TYPES:
    raise ValueError(
      f"answer_type must be one of {', '.join(TYPES)}, got {told!r} of {name}."
    )
  return TYPES.index(told)
