"""Tasks, groups and tables of the harness, with a model that knows the answers."""

import json
import re
import types

from lm_eval.api.model import LM
import numpy as np
import pytest

from mhmoe_jax.evals import harness, task_index
from tests.evals.records import FOUNDRY, HUB, write
from tests.evals.small import make_lm, small_config

PAPER = ["arc_challenge", "arc_easy", "rte", "openbookqa", "winogrande", "piqa"]
PAPER += ["boolq", "hellaswag", "truthfulqa_mc1", "truthfulqa_mc2"]


class Scripted(LM):
  """Has its own view of every pair of texts, and remembers what it was asked."""

  def __init__(self, view):
    super().__init__()
    self.view, self.asked = view, []

  def loglikelihood(self, requests):
    self.asked += [request.args for request in requests]
    return [(self.view(*request.args), False) for request in requests]

  def loglikelihood_rolling(self, requests):
    raise NotImplementedError

  def generate_until(self, requests):
    raise NotImplementedError


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
  return write(tmp_path_factory.mktemp("hub"), HUB)


@pytest.fixture(scope="module")
def foundry(tmp_path_factory):
  return write(tmp_path_factory.mktemp("foundry"), FOUNDRY)


def run(names, directory, view=lambda context, continuation: -1.0, **options):
  model = Scripted(view)
  return harness.Suite(names, directory, **options).run(model), model.asked


def test_the_first_papers_prompts(hub):
  """As the harness has them; the first record of each task."""
  _, asked = run(PAPER, hub, limit=1)
  assert asked[:6] == [
    ("Question: What is bright?\nAnswer:", " a dog"),
    ("Question: What is bright?\nAnswer:", " the sun"),
    ("Question: What is bright?\nAnswer:", " a chair"),
    ("Question: What is made?\nAnswer:", " a dog"),
    ("Question: What is made?\nAnswer:", " the sun"),
    ("Question: What is made?\nAnswer:", " a chair"),
  ]
  assert asked[6:8] == [
    ("It rains.\nQuestion: It is wet. True or False?\nAnswer:", " True"),
    ("It rains.\nQuestion: It is wet. True or False?\nAnswer:", " False"),
  ]
  assert asked[8] == ("In the sky there is", " a dog")
  assert asked[11:13] == [
    ("The cup fell off the table because the cup", " was tilted."),
    ("The cup fell off the table because the table", " was tilted."),
  ]
  assert asked[13] == ("Question: open a jar\nAnswer:", " turn it")
  assert asked[15] == ("Ice melts.\nQuestion: does ice melt?\nAnswer:", " no")
  assert asked[17] == ("Walking: A man walks. home. He", " sings.")
  assert asked[21][0].endswith("\n\nQ: Is it?\nA:")
  assert asked[21][1] == " Yes."
  assert len(asked) == 26


LIKES = {
  # Of 5, 7 and 7 characters: a dog is the likeliest, for its length it is the sun.
  **{" a dog": -8.0, " the sun": -9.0, " a chair": -9.5},
  **{" True": -1.0, " turn it": -2.0, " eat it": -1.0, " yes": -1.0, " sings.": -3.0},
  **{" Yes.": np.log(0.2), " Sure.": np.log(0.1), " No.": np.log(0.3)},
}


def view(context, continuation):
  return LIKES.get(continuation, -5.0) + context.endswith("the table")


def test_the_first_papers_fourteen_numbers_and_their_average(hub):
  results, _ = run(["mhmoe_paper1"], hub, view)
  numbers = {
    "arc_challenge": (0.5, 0.5),
    "arc_easy": (0.0, 0.0),
    "rte": (1.0,),
    "openbookqa": (0.0, 1.0),
    "winogrande": (1.0,),
    "piqa": (0.0,),
    "boolq": (1.0,),
    "hellaswag": (1.0, 1.0),
    "truthfulqa_mc1": (0.0,),
    "truthfulqa_mc2": (0.5,),  # 0.2 and 0.1 are true, of 0.6
  }
  for task, (acc, *acc_norm) in numbers.items():
    assert results["results"][task]["acc,none"] == pytest.approx(acc)
    for value in acc_norm:
      assert results["results"][task]["acc_norm,none"] == value
  average = results["groups"]["mhmoe_paper1"]["average,none"]
  assert average == pytest.approx(7.5 / 14)
  rows = re.sub(" +", "", harness.table(results))
  assert "|-arc_challenge|1|none|0|acc|↑|0.5000|±|0.5|" in rows
  assert rows.count("|mhmoe_paper1|1|none|0|average|↑|0.5357||") == 2
  scalars = harness.scalars(results)
  assert scalars["harness/mhmoe_paper1/average"] == average
  assert scalars["harness/openbookqa/acc_norm"] == 1.0
  assert len(scalars) == 16  # and PIQA's acc_norm
  json.dumps(scalars)


def test_the_average_of_table_2():
  """Rows of 2404.15045 Table 2, whose last column is the mean of the others."""
  (group,) = (task_index.know_tasks().task_index["mhmoe_paper1"].cfg,)
  columns = [(task, m) for task, ms in group["metadata"]["average"].items() for m in ms]
  assert [task for task, metric in columns if metric == "acc"] == group["task"]
  for row, average in {
    "18.1 23.3 44.9 39.7 51.5 17.1 29.0 48.2 66.6 55.0 29.7 34.1 24.1 39.3": 37.2,
    "21.4 26.8 50.6 44.8 53.4 18.8 31.6 53.8 69.3 56.6 35.0 42.1 24.8 39.5": 40.6,
  }.items():
    results = {task: {} for task, _ in columns}
    for (task, metric), value in zip(columns, map(float, row.split()), strict=True):
      results[task][f"{metric},none"] = value
    found = harness._average(group["metadata"]["average"], results)
    assert round(found, 1) == average


def test_xnli_of_fourteen_languages(tmp_path):
  """Languages count alike, and prompts are whole sentences behind nothing."""
  languages = ["bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr"]
  languages += ["ur", "vi", "zh"]
  records = {f"xnli_{lang}": HUB["xnli_sw"] for lang in languages}
  records["xnli_en"] = [{"premise": "a", "hypothesis": "b", "label": n} for n in (0, 1)]
  data = write(tmp_path, records)
  entails = " a, right? Yes, b"

  results, asked = run(["mhmoe_xnli"], data, lambda _, text: -1.0 - (text != entails))
  assert len(asked) == 3 * 15
  assert {context for context, _ in asked} == {""}
  assert [text for _, text in asked if "Maji" in text][21:24] == [
    " Mvua, sahihi? Ndiyo, Maji",
    " Mvua, sahihi? Hivyo, Maji",
    " Mvua, sahihi? Hapana, Maji",
  ]
  assert results["results"]["xnli_en"]["acc,none"] == 0.5
  assert results["groups"]["mhmoe_xnli"]["acc,none"] == pytest.approx(0.5 / 14)


def test_llm_foundrys_records_give_the_same_requests(hub, foundry):
  tasks = [task for task in HUB if task in FOUNDRY]
  tasks += ["openbookqa", "wsc273"]

  def ask(directory):
    results, asked = run(tasks, directory, view)
    return asked, harness.scalars(results)

  assert ask(foundry) == ask(hub)


def test_examples_are_others(tmp_path):
  """No record is among its own examples, of all the others."""
  options = {"text": ["yes", "no"], "label": ["A", "B"]}
  names = "abcdef"
  records = [{"question": q, "choices": options, "answerKey": "A"} for q in names]
  data = write(tmp_path, {"arc_challenge": records})
  _, asked = run(["arc_challenge"], data, num_fewshot=5)
  for name, (context, _) in zip(names, asked[::2], strict=True):
    *examples, last = context.split("\n\n")
    assert last == f"Question: {name}\nAnswer:"
    others = [f"Question: {q}\nAnswer: yes" for q in names if q != name]
    assert sorted(examples) == others


def test_what_is_wrong_is_said(hub, tmp_path):
  with pytest.raises(ValueError, match=r"got 'arc_eazy'; near it are .*arc_easy"):
    harness.Suite(["arc_eazy"], hub)
  with pytest.raises(ValueError, match=r"knows, got 'qqqqqqqq'\.$"):
    harness.Suite(["qqqqqqqq"], hub)
  with pytest.raises(ValueError, match=f"task xnli_bg needs a file in {hub}, looked"):
    harness.Suite(["mhmoe_xnli"], hub)
  other = write(tmp_path, {"piqa": [{"goal": "a", "sol1": "b", "label": 0}]})
  with pytest.raises(ValueError) as error:
    harness.Suite(["piqa"], other)
  assert str(error.value) == (
    f"the records of {other}/piqa.jsonl must be as those of baber/piqa on the hub, got "
    "the fields goal, sol1, label."
  )
  with pytest.raises(ValueError, match="reads its data itself, not from --data"):
    harness.Suite(["squadv2"], hub)


PIQA, ARC = HUB["piqa"][0], HUB["arc_easy"][0]


@pytest.mark.parametrize(
  ("task", "record", "wrong", "reason"),
  [
    ("piqa", PIQA, {"label": -1}, "ValueError: its answer must be one of 2, got -1"),
    ("piqa", PIQA, {"label": 2}, "ValueError: its answer must be one of 2, got 2"),
    (
      "piqa",
      PIQA,
      {"label": None},
      "ValueError: its answer must be one of 2, got None",
    ),
    ("arc_easy", ARC, {"answerKey": ""}, "ValueError: '' is not in list"),
    (
      "winogrande",
      HUB["winogrande"][0],
      {"sentence": "no gap"},
      "ValueError: substring not found",
    ),
  ],
)
def test_a_record_without_an_answer(tmp_path, task, record, wrong, reason):
  """As of a test split whose labels are kept secret; blank lines are lines."""
  lines = [json.dumps(record), "", json.dumps(record | wrong)]
  path = tmp_path / f"{task}.jsonl"
  path.write_text("\n".join(lines))
  with pytest.raises(ValueError) as error:
    harness.Suite([task], str(tmp_path))
  assert str(error.value) == (
    f"task {task} must be able to ask every record, got line 3 of {path} ({reason})."
  )
  harness.Suite([task], str(tmp_path), limit=1)


def test_more_examples_than_records(hub, tmp_path):
  rule = "num_fewshot must be at most the records that can be examples, got num_fewshot"
  with pytest.raises(ValueError, match=f"^{rule}=2, 1 of them in task arc_challenge.$"):
    harness.Suite(["arc_challenge"], hub, num_fewshot=2)
  harness.Suite(["arc_challenge"], hub, num_fewshot=1)
  sums = write(tmp_path, {"gsm8k": [{"question": "1 + 1?", "answer": "#### 2"}]})
  with pytest.raises(ValueError, match=f"^{rule}=5, 0 of them in task gsm8k.$"):
    harness.Suite(["gsm8k"], sums)  # which has five by itself


def test_examples_that_a_task_brings_itself(tmp_path):
  sums = {"question": "1 + 1?", "answer": "#### 2"}
  suite = harness.Suite(["gsm8k_cot"], write(tmp_path, {"gsm8k_cot": [sums]}))
  prompt = suite._loaded["tasks"]["gsm8k_cot"].fewshot_context(sums, 8)
  assert prompt.startswith("Q: There are 15 trees in the grove.")


@pytest.mark.parametrize("group", ["flan_held_in", "t0_eval"])
def test_a_group_of_tasks_without_names(hub, group):
  with pytest.raises(ValueError, match=f"name of their own, got the group {group}, wh"):
    harness.Suite([group], hub)


def test_patterns_and_no_data_left_behind(hub):
  results, _ = run(["arc_eas?"], hub)
  assert list(results["results"]) == ["arc_easy"]
  entry = task_index.know_tasks().task_index["arc_easy"]
  assert "custom_dataset" not in entry.cfg


def test_a_trained_model(tmp_path):
  """All three kinds of requests, twice, and a file of results."""
  page = "== Rain ==\nIt rains. " * 9
  records = {"piqa": HUB["piqa"], "wikitext": [{"page": page}] * 2}
  records["gsm8k"] = [{"question": "One and one?", "answer": "It is #### 2"}]
  suite = harness.Suite(list(records), write(tmp_path, records), num_fewshot=0)
  model = make_lm(small_config(), max_length=300)
  results = suite.run(model)
  scalars = harness.scalars(results)
  assert harness.scalars(suite.run(model)) == scalars
  assert scalars["harness/piqa/acc"] in (0.0, 1.0)
  nats = model.loglikelihood_rolling([types.SimpleNamespace(args=(page,))])[0]
  per_byte = -nats / np.log(2) / len(page)
  assert scalars["harness/wikitext/bits_per_byte"] == pytest.approx(per_byte)
  assert scalars["harness/gsm8k/exact_match/strict-match"] == 0.0
  path = tmp_path / "results.json"
  harness.save(results, {"step": 7}, str(path))
  saved = json.loads(path.read_text())
  assert saved["run"] == {"step": 7}
  assert saved["results"] == results["results"]
