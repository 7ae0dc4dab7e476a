"""Sentences about pictures: right, answerable, and half of the claims true."""

from collections import Counter

import numpy as np
import pytest

from configs import base_masked
from mhmoe_jax.data.images import sentences
from mhmoe_jax.data.images.shapes import Scene, Shape, make_scene, random_state

RING = Shape("ring", "orange", "small", "striped", row=0, column=0, x=0.2, y=0.2)
CROSS = Shape("cross", "blue", "large", "flat", row=2, column=1, x=0.5, y=0.8)
CROSS_2 = CROSS._replace(color="green", row=1, column=2)
SCENE = Scene((RING, CROSS, CROSS_2), ground=0, noise_seed=0, angle=0.0, period=0.1)
ALONE = Scene((RING,), ground=0, noise_seed=0, angle=0.0, period=0.1)


def said(make, scenes, count=400):
  return [make(*scenes, random_state(i)) for i in range(count)]


def test_words():
  assert sentences.describe(RING) == "small orange striped ring"
  assert sentences.describe(CROSS) == "large blue cross"
  assert sentences.place(RING) == "in the top left"
  assert sentences.place(CROSS) == "at the bottom"
  assert sentences.place(CROSS_2) == "on the right"


def test_captions_name_every_shape():
  captions = set(said(sentences.caption, [SCENE]))
  assert len(captions) > 20  # orders and details
  for text in captions:
    for words in ("small orange striped ring", "large blue cross", "large green cross"):
      assert words in text
  assert (
    "a large blue cross, a large green cross and a small orange striped ring"
    in captions
  )


# Everything that can be asked or claimed of SCENE, by hand.
ANSWERS = {
  "what shape is in the top left?": "ring",
  "what shape is at the bottom?": "cross",
  "what shape is on the right?": "cross",
  "what color is the ring?": "orange",
  "is the ring plain, striped, dotted or noisy?": "striped",
  "how many rings are there?": "1",
  "how many crosses are there?": "2",
  "how many squares are there?": "0",
  "is there an orange ring?": "yes",
  "is there a red ring?": "no",
  "is there a plain cross?": "yes",
  "is there a dotted cross?": "no",
  "is there a striped cross?": "no",
  "is there exactly one blue shape?": "yes",
  "are there exactly two blue shapes?": "no",
  "is there a ring above a cross?": "yes",
  "is there a cross above a ring?": "no",
  "is there a cross above a cross?": "yes",
  "is there a ring above a ring?": "no",
  "is there a ring to the left of a cross?": "yes",
  "is there a cross to the left of a ring?": "no",
}


def test_answers():
  asked = {q.question: q.answer for q in said(sentences.question, [SCENE], 3000)}
  found = {question: asked.get(question) for question in ANSWERS}
  assert found == ANSWERS


def test_side_by_side_is_not_above_and_below_each_other_not_to_the_left():
  for place, words in (({"row": 0}, "above"), ({"column": 0}, "to the left of")):
    scene = SCENE._replace(shapes=(RING, CROSS._replace(**place)))
    asked = dict(q[:2] for q in said(sentences.question, [scene], 1500))
    for one, other in (("ring", "cross"), ("cross", "ring")):
      assert asked[f"is there a {one} {words} a {other}?"] == "no"


CLAIMS = {
  "both pictures have a ring": True,
  "both pictures have a cross": False,
  "only the left picture has a blue shape": True,
  "only the right picture has a blue shape": False,
  "only the left picture has an orange shape": False,
  "there are four shapes in all": True,
  "there are three shapes in all": False,
  "the left picture has more plain shapes than the right one": True,
  "the left picture has more striped shapes than the right one": False,
}


def test_comparisons():
  claimed = dict(said(sentences.compare, [SCENE, ALONE], 3000))
  assert {claim: claimed.get(claim) for claim in CLAIMS} == CLAIMS


def test_half_of_the_claims_are_true_and_all_answers_occur():
  scenes = [make_scene(0, "train", i) for i in range(1000)]
  true = [sentences.statement(s, random_state(i)).label for i, s in enumerate(scenes)]
  pairs = zip(scenes, scenes[::-1], strict=True)
  both = [sentences.compare(*p, random_state(i)).label for i, p in enumerate(pairs)]
  assert np.mean(true) == pytest.approx(0.5, abs=0.05)
  assert np.mean(both) == pytest.approx(0.5, abs=0.05)
  asked = [sentences.question(s, random_state(i)) for i, s in enumerate(scenes)]
  kinds = Counter(q.kind for q in asked)
  assert min(kinds[kind] for kind in ("yes/no", "number", "other")) > 150
  yes = Counter(q.answer for q in asked if q.kind == "yes/no")
  assert yes["yes"] / yes.total() == pytest.approx(0.5, abs=0.07)


def test_the_longest_caption_fits_into_the_defaults():
  """In bytes, with a token before and one behind it."""
  longest = Scene(
    tuple(
      Shape("triangle", "orange", "large", "striped", row, column, 0.5, 0.5)
      for row in (0, 2)
      for column in (0, 2)
    ),
    ground=0,
    noise_seed=0,
    angle=0.0,
    period=0.1,
  )
  lengths = [len(sentences.caption(longest, random_state(n))) for n in range(200)]
  assert max(lengths) <= base_masked.get_config().data.pair_length - 2
  assert max(lengths) > base_masked.get_config().data.pair_length - 24
