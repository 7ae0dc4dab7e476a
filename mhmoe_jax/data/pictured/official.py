"""The official accuracy of visual question answering, and its form of answers.

As the evaluation code of VQA v2 (1612.00837; GT-Vision-Lab/VQA, vqaEval.py), with what
is odd in it: a comma between digits takes all marks away, a word keeps its accidental
form unless a contraction is known, and where all people agree to the letter answers
count as they were written.
"""

from collections.abc import Sequence
import functools
import re

PEOPLE = 10  # who answered each question of VQA v2

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_MOST_PERIODS = 32  # that are taken out of an answer, there by mistake
_ARTICLES = ("a", "an", "the")
_NUMBERS = "zero one two three four five six seven eight nine ten"
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS.split())}
_DIGITS |= {"none": "0"}
# One apostrophe that was forgotten comes back.
_CONTRACTIONS = """
  ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've
  hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am
  mightn't mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at
  shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
  someone'd someone'd've someone'll someone's something'd something'd've something'll
  that's there'd there'd've there're there's they'd they'd've they'll they're they've
  'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd
  where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
  wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_REPAIRED = {
  word[:i] + word[i + 1 :]: word
  for word in _CONTRACTIONS.split()
  for i, letter in enumerate(word)
  if letter == "'"
} | {"somebody'd": "somebodyd"}


def accuracy(prediction: str, answers: Sequence[str]) -> float:
  """The share of people whom a prediction satisfies, in [0, 1].

  The mean over all ways to leave one person out of min(1, others who said it / 3).

  Args:
    prediction: an answer.
    answers: of ten people, or the only right one, which stands for ten.
  """
  given = given_answers(answers)
  said = plain(prediction) if is_unanimous(answers) else normalize(prediction)
  return satisfied(given.count(said), len(given))


def given_answers(answers: Sequence[str]) -> list[str]:
  """What people said, in the form in which it counts."""
  form = plain if is_unanimous(answers) else normalize
  given = [form(answer) for answer in answers]
  return given * PEOPLE if len(given) == 1 else given


def is_unanimous(answers: Sequence[str]) -> bool:
  """Whether all said the same, to the letter."""
  return len({plain(answer) for answer in answers}) == 1


def satisfied(count: int, people: int) -> float:
  """The accuracy of what `count` of all people said."""
  if_one_of_them, if_another = min(1, (count - 1) / 3), min(1, count / 3)
  return (count * if_one_of_them + (people - count) * if_another) / people


def plain(answer: str) -> str:
  """An answer on one line."""
  return answer.replace("\n", " ").replace("\t", " ").strip()


@functools.lru_cache(2**18)
def normalize(answer: str) -> str:
  """An answer without marks, articles and capitals, with numbers as digits."""
  answer = found = plain(answer)
  has_comma = _COMMA.search(answer)
  for mark in _MARKS:
    is_apart = has_comma or f"{mark} " in answer or f" {mark}" in answer
    found = found.replace(mark, "" if is_apart else " ")
  found = _PERIOD.sub("", found, count=_MOST_PERIODS).lower()
  words = (_DIGITS.get(word, word) for word in found.split())
  return " ".join(_REPAIRED.get(x, x) for x in words if x not in _ARTICLES)
