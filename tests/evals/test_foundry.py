"""llm-foundry's records in the hub's fields.

That the harness asks the same of both is in test_harness.py.
"""

import pytest

from mhmoe_jax.evals import foundry
from tests.evals.records import FOUNDRY, HUB


@pytest.mark.parametrize("task", ["arc_easy", "piqa", "boolq", "lambada_openai"])
def test_the_same_records(task):
  (record,) = FOUNDRY[task]
  assert [foundry.to_hub(task, record)] == HUB[task]


def test_what_may_fill_a_gap():
  """Whole words only, and never nothing."""

  def fill(*options):
    record = {"context_options": options, "continuation": "left.", "gold": 0}
    made = foundry.to_hub("winogrande", record)
    return made["sentence"], made["option1"], made["option2"]

  assert fill("so Ann", "so Anna") == ("so _ left.", "Ann", "Anna")
  assert fill("so Ann", "so Ann") == ("so _ left.", "Ann", "Ann")
  assert fill("a", "b") == ("_ left.", "a", "b")


@pytest.mark.parametrize(
  ("task", "record", "message"),
  [
    ("piqa", {"query": "a", "gold": 1}, "task piqa needs records as llm-foundry has"),
    ("arc_easy", {"query": "a", "choices": ["b"], "gold": 1}, "IndexError"),
    ("piqa", {"query": "a", "choices": ["b"], "gold": 1}, "ValueError"),
    ("copa", {"query": "He sang", "choices": ["b", "c"], "gold": 1}, "AttributeError"),
  ],
)
def test_bad_records(task, record, message):
  with pytest.raises(ValueError, match=message):
    foundry.to_hub(task, record)
