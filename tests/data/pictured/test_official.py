"""The official accuracy: by its formula, by hand, and the form of answers."""

import pytest

from mhmoe_jax.data.pictured import official


def by_the_formula(prediction, answers):
  """Leaves out one person after the other, as the evaluation code of VQA v2 does."""
  accuracies = []
  for left_out in range(len(answers)):
    others = answers[:left_out] + answers[left_out + 1 :]
    accuracies.append(min(1, sum(answer == prediction for answer in others) / 3))
  return sum(accuracies) / len(accuracies)


@pytest.mark.parametrize("count", range(11))
def test_the_table_of_ten_people(count):
  answers = ["red"] * count + ["blue"] * (10 - count)
  expected = [0, 0.3, 0.6, 0.9, 1, 1, 1, 1, 1, 1, 1][count]
  assert official.accuracy("red", answers) == pytest.approx(expected)
  assert by_the_formula("red", answers) == pytest.approx(expected)


def test_another_number_of_people():
  for answers in (["a cat"], ["x", "x"], ["x", "y", "x"], ["y"] * 5 + ["x"] * 3):
    for said in ("x", "y"):
      if len(answers) > 1:
        expected = by_the_formula(said, answers)
        assert official.accuracy(said, answers) == pytest.approx(expected)
  # One answer stands for ten people, who agree.
  assert official.accuracy("a cat", ["a cat"]) == 1
  assert official.accuracy("a dog", ["a cat"]) == 0


@pytest.mark.parametrize(
  ("answer", "form"),
  [
    ("Yes.", "yes"),
    ("the Two dogs", "2 dogs"),
    ("none", "0"),
    ("a", ""),
    ("dont know", "don't know"),
    (
      "Im here",
      "im here",
    ),  # "Im" is in the official table, but words are small by then.
    ("couldntve", "couldntve"),
    ("couldnt've", "couldn't've"),
    ("somebody'd", "somebodyd"),
    ("red/white", "red white"),
    ("red / white", "red white"),
    ("red, white", "red white"),
    ("1,000 t-shirts", "1000 tshirts"),  # A comma takes the hyphen with it.
    ("t-shirts", "t shirts"),
    ("t-shirts - red", "tshirts red"),
    ("2.5", "2.5"),
    ("2. 5", "2 5"),
    ("u.s.", "us"),
    ("what?!", "what"),
    ("cat's", "cat's"),
    (" red\n\tball ", "red ball"),
  ],
)
def test_the_official_form(answer, form):
  assert official.normalize(answer) == form


def test_forms_count_only_where_people_disagree():
  people = ["Yes"] * 9
  assert official.accuracy("yes", [*people, "no"]) == 1
  assert official.accuracy("yes", [*people, "Yes"]) == 0
  assert official.accuracy("Yes", [*people, " Yes\n"]) == 1
