"""Tables of what run.py has finished: report.py --results runs/vision_language/results

Reads runs.jsonl in the folder, and references.json if it is there, and writes
tables.md.
"""

import argparse
import json
import pathlib
import statistics

import config as tasks
import run

from experiments import work_queue
from experiments.intervals import told

REFERENCE = "xmoe_8"
MEASURES = {
  "vqa": ("accuracy", "accuracy/yes/no", "accuracy/number", "accuracy/other", "loss"),
  "nlvr": ("accuracy", "consistency", "loss"),
  "captioning": ("cider_d", "bleu_4", "rouge_l", "loss"),
}


def table(name: str, results: list[dict], blind: float | None) -> list[str]:
  """Markdown lines of a task: every model and start, and differences from X-MoE.

  Args:
    name: of the task.
    results: of all tasks.
    blind: the first measure of the best that references.py has without pictures.
  """
  kind = tasks.TASKS[name][0]
  found = {}
  for r in results:
    if r["task"] == name:
      found.setdefault((r["model"], r["start"]), {})[r["seed"]] = r["valid"]
  if not found:
    return []
  shown = [
    key
    for key in MEASURES[kind]
    if all(key in valid for seeds in found.values() for valid in seeds.values())
  ]
  lines = [f"### {name}", ""]
  lines += ["| model | start | seeds | " + " | ".join(shown) + f" | less {REFERENCE} |"]
  lines += ["|---" * (len(shown) + 4) + "|"]
  for (model, start), seeds in sorted(found.items(), key=_order):
    means = [statistics.fmean(v[key] for v in seeds.values()) for key in shown]
    reference = found.get((REFERENCE, start), {})
    pairs = [
      valid[shown[0]] - reference[seed][shown[0]]
      for seed, valid in seeds.items()
      if seed in reference
    ]
    less = told(pairs) if model != REFERENCE else ""
    cells = " | ".join(f"{x:.3f}" for x in means)
    lines.append(f"| {model} | {start} | {len(seeds)} | {cells} | {less} |")
  if blind is not None:
    lines.append(f"| without pictures | | | {blind:.3f} |" + " |" * len(shown))
  return [*lines, ""]


def _order(item) -> tuple:
  (model, start), _ = item
  return start, run.MODELS.index(model)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--results", type=pathlib.Path, required=True)
  args = parser.parse_args()
  results = work_queue.read_results(args.results / "runs.jsonl")
  path, blind = args.results / "references.json", {}
  for name, found in (json.loads(path.read_text()) if path.exists() else {}).items():
    blind[name] = found["cider_d"] if isinstance(found, dict) else found
  lines = [ln for name in tasks.TASKS for ln in table(name, results, blind.get(name))]
  text = "\n".join(lines)
  (args.results / "tables.md").write_text(text)
  print(text)


if __name__ == "__main__":
  main()
