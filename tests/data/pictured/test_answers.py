"""Known answers: which there are, what they score, how they are kept."""

import json

import numpy as np
import pytest

from mhmoe_jax.data.images.sources import PictureConfig
from mhmoe_jax.data.pictured import official
from mhmoe_jax.data.pictured.answers import (
  TYPES,
  Answers,
  AnswersConfig,
  find_answers,
  load_answers,
  read_answers,
  read_type,
)


def index(folder, *records):
  path = folder / "index.jsonl"
  path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
  return PictureConfig("files", "", str(path), "x", "question", 1, 1, 0)


def question(*answers):
  return {"image": "a.png", "question": "?", "answers": list(answers)}


def test_those_of_the_training_questions(tmp_path):
  """The most frequent one of each, in official form; the first of equally many."""
  pictures = index(
    tmp_path,
    question("Two", "2", "three"),
    question("2"),
    question("a dog", "cat"),
    question("cat", "dog"),
    question("cat"),
    question("rare", "common", "the common"),
  )
  for least, words in ((1, ["2", "cat", "common", "dog"]), (2, ["2", "cat"])):
    found = find_answers(pictures, AnswersConfig("", "answers", least))
    assert list(found.words) == words
  with pytest.raises(ValueError, match=r"least_count=3 of the training .* 6 questions"):
    find_answers(pictures, AnswersConfig("", "answers", 3))
  # What is in the file now counts, not what was in it.
  index(tmp_path, question("yes"))
  assert find_answers(pictures, AnswersConfig("", "answers", 1)).words == ("yes",)


def test_targets_and_accuracies():
  answers = Answers(["yes", "no", "2", "Two"])
  people = ["yes"] * 3 + ["Yes."] + ["no"] * 2 + ["two"] + ["maybe"] * 3
  np.testing.assert_allclose(answers.targets(people), [1, 0.6, 0.3, 0], rtol=1e-6)
  for given in (people, ["two"] * 10, ["Two"] * 10, ["no"], ["a", "the"]):
    expected = [official.accuracy(word, given) for word in answers.words]
    np.testing.assert_allclose(answers.accuracies(given), expected, rtol=1e-6)
  # All said "two", to the letter: "2" is learned, though it counts for nothing.
  np.testing.assert_allclose(answers.targets(["two"] * 10), [0, 0, 1, 0])
  assert answers.knows(["maybe", "The no"])
  assert not answers.knows(["maybe", "Two dogs"])


def test_saved_and_damaged(tmp_path):
  path = tmp_path / "answers.json"
  answers = Answers(["naïve", "no"])
  answers.save(path)
  assert load_answers(path).words == answers.words
  assert [x.name for x in tmp_path.iterdir()] == ["answers.json"]
  path.write_text(path.read_text().replace("naïve", "naive"))
  with pytest.raises(ValueError, match=r"as a run wrote them, got .*json, changed\."):
    load_answers(path)
  for content in ("[1]", "{", '{"answers": 3}', '{"answers": [3], "fingerprint": ""}'):
    path.write_text(content)
    with pytest.raises(ValueError, match="answers must be a file that a run wrote, go"):
      load_answers(path)
  with pytest.raises(ValueError, match=r"got .*none.json \(FileNotFoundError"):
    load_answers(tmp_path / "none.json")


def test_fields():
  record = {"a": {"b": [b"x", "y"]}, "one": "z", "empty": [], "blank": "", "bad": [1]}
  assert read_answers(record, "line 1", "a/b") == ["x", "y"]
  assert read_answers(record, "line 1", "one") == ["z"]
  for key in ("a/c", "none", "empty", "blank", "bad", "a"):
    with pytest.raises(ValueError, match=f"in '{key}', got the fields a, .* of line 1"):
      read_answers(record, "line 1", key)


@pytest.mark.parametrize(
  ("record", "answers", "kind"),
  [
    ({"answer_type": "other"}, ["yes"], "other"),
    ({}, ["Yes", "no", "no."], "yes/no"),
    ({}, ["two"], "number"),
    ({}, ["2.5"], "number"),
    ({}, ["red"], "other"),
  ],
)
def test_types(record, answers, kind):
  assert TYPES[read_type(record, "x", answers)] == kind


def test_an_unknown_type():
  with pytest.raises(ValueError) as error:
    read_type({"answer_type": "colour"}, "line 1", ["red"])
  assert str(error.value) == (
    "answer_type must be one of yes/no, number, other, got 'colour' of line 1."
  )
