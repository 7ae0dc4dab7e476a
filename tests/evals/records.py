"""A record or two of each task, as the hub has them and as llm-foundry does.

Made up, in the fields of the hub's data sets.
"""

import json

_OPTIONS = {"text": ["a dog", "the sun", "a chair"], "label": ["A", "B", "C"]}
HUB = {
  "arc_challenge": [
    {"question": "What is bright?", "choices": _OPTIONS, "answerKey": "B"},
    {"question": "What barks?", "choices": _OPTIONS, "answerKey": "A"},
  ],
  "arc_easy": [{"question": "What is made?", "choices": _OPTIONS, "answerKey": "C"}],
  "rte": [{"sentence1": "It rains.", "sentence2": "It is wet.", "label": 0}],
  "openbookqa": [
    {"question_stem": "In the sky there is", "choices": _OPTIONS, "answerKey": "B"}
  ],
  "winogrande": [
    {
      "sentence": "The cup fell off the table because _ was tilted.",
      "option1": "the cup",
      "option2": "the table",
      "answer": "2",
    }
  ],
  "piqa": [{"goal": "open a jar", "sol1": "turn it", "sol2": "eat it", "label": 0}],
  "boolq": [{"passage": "Ice melts.", "question": "does ice melt", "label": 1}],
  "hellaswag": [
    {
      "activity_label": "Walking",
      "ctx_a": "A man walks [title] home.",
      "ctx_b": "he",
      "endings": ["sings.", "flies.", "melts.", "is a dog."],
      "label": "0",
    }
  ],
  "truthfulqa_mc1": [
    {
      "question": "Is it?",
      "mc1_targets": {"choices": ["Yes.", "No."], "labels": [1, 0]},
      "mc2_targets": {"choices": ["Yes.", "Sure.", "No."], "labels": [1, 1, 0]},
    }
  ],
  "copa": [
    {
      "premise": "The man sang.",
      "question": "effect",
      "choice1": "We left.",
      "choice2": "It rained.",
      "label": 1,
    }
  ],
  "wsc273": [
    {
      "text": "The dog chased the cat because it was fast.",
      "pronoun": "it",
      "pronoun_loc": 31,
      "options": ["The dog", "The cat"],
      "label": 0,
    }
  ],
  "lambada_openai": [{"text": "One, two, three, four"}],
  "xnli_sw": [{"premise": "Mvua", "hypothesis": "Maji", "label": 2}],
}
HUB["truthfulqa_mc2"] = HUB["truthfulqa_mc1"]

FOUNDRY = {
  "arc_challenge": [
    {"query": "Question: What is bright?", "choices": _OPTIONS["text"], "gold": 1},
    {"query": "Question: What barks?", "choices": _OPTIONS["text"], "gold": 0},
  ],
  "arc_easy": [
    {"query": "Question: What is made?", "choices": _OPTIONS["text"], "gold": 2}
  ],
  "openbook_qa": [
    {"query": "In the sky there is", "choices": _OPTIONS["text"], "gold": 1}
  ],
  "winogrande": [
    {
      "context_options": [
        "The cup fell off the table because the cup",
        "The cup fell off the table because the table",
      ],
      "continuation": "was tilted.",
      "gold": 1,
    }
  ],
  "piqa": [
    {"query": "Question: open a jar\n", "choices": ["turn it", "eat it"], "gold": 0}
  ],
  "boolq": [
    {
      "query": "Passage: Ice melts.\nQuestion: does ice melt?",
      "choices": ["no", "yes"],
      "gold": 1,
    }
  ],
  "hellaswag": [
    {
      "query": "Walking: A man walks. home. He",
      "choices": ["sings.", "flies.", "melts.", "is a dog."],
      "gold": 0,
    }
  ],
  "copa": [
    {
      "query": "The man sang, therefore",
      "choices": ["we left.", "it rained."],
      "gold": 1,
    }
  ],
  "winograd_wsc": [
    {
      "context_options": [
        "The dog chased the cat because the dog",
        "The dog chased the cat because the cat",
      ],
      "continuation": "was fast.",
      "gold": 0,
    }
  ],
  "lambada_openai": [{"context": "One, two, three,", "continuation": "four"}],
}


def write(directory, records):
  """Files of records by task."""
  directory.mkdir(exist_ok=True)
  for task, listed in records.items():
    lines = (json.dumps(record) + "\n" for record in listed)
    (directory / f"{task}.jsonl").write_text("".join(lines), encoding="utf-8")
  return str(directory)
