"""What can be had without pictures: references.py --data DIR --out RUNS

Of questions the most frequent answer that the same words have in training, of
statements the more frequent label, of captions the training caption that scores best
when it is said of every picture (of the most frequent 200 and the first 200).
"""

import argparse
from collections import Counter
import json
import pathlib

import config as tasks

from configs import base_finetune, base_masked

FIRST = 2000  # questions of a validation, as config.py has it
CAPTIONS = 200


def read(data: pathlib.Path, files: str, split: str) -> list[dict]:
  """The lines beside a task's pictures."""
  lines = []
  for name in files.split():
    lines += (data / f"{name}_{split}.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def generate(task: str, split: str) -> list[dict]:
  """What is said of generated pictures."""
  from mhmoe_jax.data.images.sources import ShapesSource

  pictures = base_finetune.tune(base_masked.get_config(), task).data.pictures
  number = tasks.NUM_GENERATED[split]
  split = "validation" if split == "valid" else split
  source = ShapesSource(pictures.seed, split, number, 0, pictures.text_key)
  rows = [source.record(i)[0] for i in range(number)]
  return [{"text": row["caption"], **row} for row in rows]


def answer_by_question(train: list[dict], valid: list[dict]) -> float:
  """Accuracy of the most frequent answer to the same question, or to any."""
  by_question = {}
  for row in train:
    by_question.setdefault(row["question"], Counter())[row["answer"]] += 1
  any_answer = sum(by_question.values(), Counter())
  right = [
    by_question.get(row["question"], any_answer).most_common(1)[0][0] == row["answer"]
    for row in valid[:FIRST]
  ]
  return sum(right) / len(right)


def more_frequent(train: list[dict], valid: list[dict]) -> float:
  """Accuracy of the label that more training statements have."""
  label = Counter(row["label"] for row in train).most_common(1)[0][0]
  return sum(row["label"] == label for row in valid) / len(valid)


def one_caption(train: list[dict], valid: list[dict]) -> dict:
  """CIDEr-D of the best caption for all."""
  from mhmoe_jax.evals.captions import score

  texts = [row["text"] for row in train]
  candidates = {*(text for text, _ in Counter(texts).most_common(200)), *texts[:200]}
  references = [[row["text"]] for row in valid[:CAPTIONS]]
  scores = {
    text: score([text] * len(references), references)["cider_d"]
    for text in sorted(candidates)
  }
  best = max(scores, key=scores.get)
  return {"caption": best, "cider_d": scores[best]}


MEASURES = {"vqa": answer_by_question, "nlvr": more_frequent, "captioning": one_caption}


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  args = parser.parse_args()
  found = {}
  for name, task in tasks.TASKS.items():
    if name == "coco":
      continue
    rows = (
      read(args.data, task.files, split) if task.files else generate(task.task, split)
      for split in ("train", "valid")
    )
    found[name] = MEASURES[task.task](*rows)
  path = args.out / "results" / "references.json"
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(found, indent=1) + "\n")
  print(path.read_text())


if __name__ == "__main__":
  main()
