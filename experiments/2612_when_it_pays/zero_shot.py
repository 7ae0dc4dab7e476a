"""The harness's tasks, asked of the main table's models: zero_shot.py --runs RUNS

RUNS is what run.py made. TASKS has the harness's records as TASK.jsonl
(docs/evaluation.md). OUT/results gets runs.jsonl and zero_shot.md: accuracies with the
harness's standard errors, beside chance. Start it again when more models are finished.
"""

import argparse
from collections.abc import Sequence
import pathlib
import statistics

from ml_collections import ConfigDict
import run

from mhmoe_jax import sharding
from mhmoe_jax.checkpoints import restore, saved
from mhmoe_jax.evals import judge

CHANCE = {  # of a guess; LAMBADA's is any word
  "arc_easy": 0.25,
  "piqa": 0.5,
  "copa": 0.5,
  "lambada_openai": 0.0,
  "xnli_en": 1 / 3,
}
LIMIT = 500  # records of each task
CONTEXT = 512  # tokens; the models were trained on 128, few records are longer


def ask(
  workdir: pathlib.Path,
  vocabulary: str,
  tasks: pathlib.Path,
  names: Sequence[str] = tuple(CHANCE),
) -> dict[str, list[float]]:
  """Accuracy and standard error by task."""
  harness = judge.load_harness(str(tasks))
  from mhmoe_jax.evals.lm import RunLM

  config = ConfigDict(saved.load_config(str(workdir)))
  config.data.vocabulary = vocabulary
  mesh = sharding.make_mesh()
  cfg, params = restore.load_model(str(workdir), config, mesh=mesh)
  suite = harness.Suite(list(names), str(tasks), LIMIT)
  results = suite.run(RunLM(cfg, params, mesh, CONTEXT))["results"]
  return {
    task: [results[task]["acc,none"], results[task]["acc_stderr,none"]]
    for task in names
  }


def table(results: Sequence[dict]) -> str:
  """Mean accuracy over seeds in percent, and the error of one seed's."""
  lines = [f"| | seeds | {' | '.join(CHANCE)} |", "|---" * (len(CHANCE) + 2) + "|"]
  chance = [f"{100 * value:.0f}" for value in CHANCE.values()]
  lines.append(f"| chance | | {' | '.join(chance)} |")
  for row in run.MAIN:
    of_row = [r["accuracy"] for r in results if r["row"] == row]
    if of_row:
      cells = [
        f"{100 * statistics.fmean(a[task][0] for a in of_row):.1f} ± "
        f"{100 * of_row[0][task][1]:.1f}"
        for task in CHANCE
      ]
      lines.append(f"| {row} | {len(of_row)} | {' | '.join(cells)} |")
  return "\n".join(lines) + "\n"


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--runs", type=pathlib.Path, required=True)
  parser.add_argument("--tasks", type=pathlib.Path, required=True)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  args = parser.parse_args()
  vocabulary = str(args.runs / "tokens.model")

  def of_job(job: run.Job, _) -> dict:
    return {"accuracy": ask(args.runs / run.name_of(job), vocabulary, args.tasks)}

  text = table(run.measure_finished(args.runs, args.out, of_job))
  (args.out / "results" / "zero_shot.md").write_text(text)
  print(text)


if __name__ == "__main__":
  main()
