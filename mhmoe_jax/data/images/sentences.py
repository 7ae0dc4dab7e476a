"""What can be said, asked and claimed of pictures of shapes; right by construction.

Everything is drawn from the scene and a RandomState: captions for image-text pairs,
questions with answers for VQA, statements about one picture (as NLVR's) and about two
(as NLVR2's), half of them true.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np

from mhmoe_jax.data.images.shapes import (
  COLORS,
  COLUMNS,
  ROWS,
  SHAPES,
  TEXTURES,
  Scene,
  Shape,
)

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")


class Question(NamedTuple):
  """A question about a picture, and its only answer."""

  question: str
  answer: str
  kind: str  # of the answer: "yes/no", "number" or "other", as in VQA v2


class Statement(NamedTuple):
  """A claim about one picture or two, and whether it holds."""

  sentence: str
  label: bool


def describe(shape: Shape) -> str:
  """A shape in words, without its place: "small red striped circle"."""
  texture = "" if shape.texture == "flat" else f"{shape.texture} "
  return f"{shape.size} {shape.color} {texture}{shape.shape}"


def place(shape: Shape) -> str:
  """Where a shape is: "in the top left", "in the center"."""
  row, column = ROWS[shape.row], COLUMNS[shape.column]
  if row == "middle":
    return "in the center" if column == "center" else f"on the {column}"
  return f"at the {row}" if column == "center" else f"in the {row} {column}"


def caption(scene: Scene, draw: np.random.RandomState) -> str:
  """A sentence that names all shapes, in an order and with details that are drawn."""
  parts = []
  for i in draw.permutation(len(scene.shapes)):
    words = f"a {describe(scene.shapes[i])}"
    parts.append(f"{words} {place(scene.shapes[i])}" if draw.randint(2) else words)
  return _list(parts)


def question(scene: Scene, draw: np.random.RandomState) -> Question:
  """A question with one right answer."""
  one = scene.shapes[draw.randint(len(scene.shapes))]
  kinds = Counter(shape.shape for shape in scene.shapes)
  asked = draw.randint(5)
  if asked == 0:
    return Question(f"what shape is {place(one)}?", one.shape, "other")
  if asked == 1 and kinds[one.shape] == 1:
    return Question(f"what color is the {one.shape}?", one.color, "other")
  if asked == 2 and kinds[one.shape] == 1:
    words = f"is the {one.shape} plain, striped, dotted or noisy?"
    return Question(words, _word(one.texture), "other")
  if asked == 3:
    shape = one.shape if draw.randint(3) else SHAPES[draw.randint(len(SHAPES))]
    words = f"how many {_plural(shape)} are there?"
    return Question(words, str(kinds[shape]), "number")
  claim = statement(scene, draw)
  verb, rest = claim.sentence.removeprefix("there ").split(" ", 1)
  return Question(f"{verb} there {rest}?", "yes" if claim.label else "no", "yes/no")


def statement(scene: Scene, draw: np.random.RandomState) -> Statement:
  """A claim that there is something in one picture, as often true as false."""
  wanted = bool(draw.randint(2))
  while True:  # Of any scene some claims of either kind can be made.
    made = _claim(scene, draw, wanted)
    if made.label == wanted:
      return made


def compare(left: Scene, right: Scene, draw: np.random.RandomState) -> Statement:
  """A claim about two pictures, as often true as false."""
  wanted = bool(draw.randint(2))
  while True:
    made = _comparison(left, right, draw)
    if made.label == wanted:
      return made


def _claim(scene: Scene, draw: np.random.RandomState, wanted: bool) -> Statement:
  one = scene.shapes[draw.randint(len(scene.shapes))]
  # What is there makes true claims likely, what is drawn false ones.
  shape = one.shape if wanted else SHAPES[draw.randint(len(SHAPES))]
  color = one.color if wanted else list(COLORS)[draw.randint(len(COLORS))]
  texture = one.texture if wanted else TEXTURES[draw.randint(len(TEXTURES))]
  kind = draw.randint(4)
  if kind == 0:
    found = any(s.shape == shape and s.color == color for s in scene.shapes)
    return Statement(f"there is {_article(color)} {shape}", found)
  if kind == 1:
    found = any(s.shape == shape and s.texture == texture for s in scene.shapes)
    return Statement(f"there is a {_word(texture)} {shape}", found)
  if kind == 2:
    count = draw.randint(1, 4)
    found = sum(s.color == color for s in scene.shapes) == count
    words = f"are exactly {_NUMBERS[count]} {color} shapes"
    if count == 1:
      words = f"is exactly one {color} shape"
    return Statement(f"there {words}", found)
  first, second = one.shape, scene.shapes[draw.randint(len(scene.shapes))].shape
  pairs = [
    (a, b)
    for a in scene.shapes
    for b in scene.shapes
    if a is not b and (a.shape, b.shape) == (first, second)
  ]
  if draw.randint(2):
    found = any(a.row < b.row for a, b in pairs)
    return Statement(f"there is a {first} above a {second}", found)
  found = any(a.column < b.column for a, b in pairs)
  return Statement(f"there is a {first} to the left of a {second}", found)


def _comparison(left: Scene, right: Scene, draw: np.random.RandomState) -> Statement:
  both = left.shapes + right.shapes
  one = both[draw.randint(len(both))]
  kind = draw.randint(4)
  if kind == 0:
    found = all(one.shape in {s.shape for s in scene.shapes} for scene in (left, right))
    return Statement(f"both pictures have a {one.shape}", found)
  if kind == 1:
    name, this, that = (("left", left, right), ("right", right, left))[draw.randint(2)]
    found = one.color in {s.color for s in this.shapes}
    found = found and one.color not in {s.color for s in that.shapes}
    return Statement(f"only the {name} picture has {_article(one.color)} shape", found)
  if kind == 2:
    number = draw.randint(2, len(_NUMBERS))
    return Statement(f"there are {_NUMBERS[number]} shapes in all", len(both) == number)
  more, less = (
    sum(s.texture == one.texture for s in scene.shapes) for scene in (left, right)
  )
  sentence = f"the left picture has more {_word(one.texture)} shapes than the right one"
  return Statement(sentence, more > less)


def _word(texture: str) -> str:
  return "plain" if texture == "flat" else texture


def _list(parts: list[str]) -> str:
  if len(parts) == 1:
    return parts[0]
  return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _plural(shape: str) -> str:
  return f"{shape}es" if shape == "cross" else f"{shape}s"


def _article(word: str) -> str:
  return f"an {word}" if word[0] in "aeiou" else f"a {word}"
