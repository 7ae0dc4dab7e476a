"""Records of llm-foundry's `local_data`, back in the fields of the hub's data sets.

Its files hold prompts: "query", "choices" and "gold", or "context_options" and
"continuation" where the choice comes first. What the harness would put there is taken
away again, so that the harness's own prompt is what the model reads.
"""

from collections.abc import Callable
import itertools
import re


def is_foundrys(task: str, record: dict) -> bool:
  """Whether it is llm-foundry's record, of a task that llm-foundry has.

  Tasks elsewhere have fields of these names in records of their own.
  """
  return task in _CONVERT and bool({"gold", "continuation"} & record.keys())


def to_hub(task: str, record: dict) -> dict:
  """One record of a task in the fields that the harness's prompt wants.

  Raises:
    ValueError: it is not as llm-foundry has it.
  """
  try:
    return _CONVERT[task](record)
  except (KeyError, IndexError, AttributeError, TypeError, ValueError) as error:
    raise ValueError(
      f"task {task} needs records as llm-foundry has them, got {record} "
      f"({type(error).__name__}: {error})."
    ) from None


def _arc(record):
  labels = [chr(ord("A") + i) for i in range(len(record["choices"]))]
  return {
    "question": record["query"].removeprefix("Question: ").rstrip("\n"),
    "choices": {"text": record["choices"], "label": labels},
    "answerKey": labels[record["gold"]],
  }


def _openbookqa(record):
  same = _arc(record)
  return {"question_stem": same.pop("question"), **same}


def _piqa(record):
  sol1, sol2 = record["choices"]
  goal = record["query"].removeprefix("Question: ").rstrip("\n")
  return {"goal": goal, "sol1": sol1, "sol2": sol2, "label": record["gold"]}


def _boolq(record):
  passage, question = record["query"].rsplit("\nQuestion: ", 1)
  return {
    "passage": passage.removeprefix("Passage: "),
    "question": question.rstrip("\n").removesuffix("?"),
    "label": record["gold"],
  }


def _hellaswag(record):
  activity, context = record["query"].split(": ", 1)
  return {
    "activity_label": activity,
    "ctx_a": context,
    "ctx_b": "",
    "endings": record["choices"],
    "label": str(record["gold"]),
  }


def _copa(record):
  match = re.fullmatch(r"(.*), (because|therefore)", record["query"])
  premise, connector = match.groups()
  choice1, choice2 = record["choices"]
  return {
    "premise": premise + ".",
    "question": {"because": "cause", "therefore": "effect"}[connector],
    "choice1": choice1,
    "choice2": choice2,
    "label": record["gold"],
  }


def _lambada(record):
  return {"text": f"{record['context']} {record['continuation']}"}


def _gap(record) -> tuple[str, list[str]]:
  """What stands before the gap of a Winograd schema, and what may fill it."""
  options = record["context_options"]
  # Whole words, and of neither option its last.
  words = [option.split(" ")[:-1] for option in options]
  pairs = zip(*words, strict=False)
  shared = itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)
  before = "".join(f"{word} " for word, _ in shared)
  return before, [option.removeprefix(before) for option in options]


def _winogrande(record):
  before, (option1, option2) = _gap(record)
  return {
    "sentence": f"{before}_ {record['continuation']}",
    "option1": option1,
    "option2": option2,
    "answer": str(record["gold"] + 1),
  }


def _wsc273(record):
  before, options = _gap(record)
  return {
    "text": f"{before}_ {record['continuation']}",
    "pronoun": "_",
    "pronoun_loc": len(before),
    "options": options,
    "label": record["gold"],
  }


_CONVERT: dict[str, Callable[[dict], dict]] = {
  "arc_challenge": _arc,
  "arc_easy": _arc,
  "boolq": _boolq,
  "copa": _copa,
  "hellaswag": _hellaswag,
  "lambada_openai": _lambada,
  "openbookqa": _openbookqa,
  "piqa": _piqa,
  "winogrande": _winogrande,
  "wsc273": _wsc273,
}
