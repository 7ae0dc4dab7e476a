"""Where the sub-tokens of the main table's models go: routing.py --runs RUNS

RUNS is what run.py made. OUT/results gets runs.jsonl, routing.md and figures; OUT the
traces, which may be deleted. Start it again when more models are finished. Measured on
the first tokens of the validation text:

  along the window   loss, entropy of the router and distinct experts by position
  over training      the same, dead experts and saturation at every checkpoint
  drops              what a capacity drops in evaluation, and what that costs in loss
"""

import argparse
from collections.abc import Mapping, Sequence
import pathlib
import shutil
import statistics

import config as rows
import matplotlib.pyplot as plt
from ml_collections import ConfigDict
import numpy as np
import run

from experiments import routing_measures
from mhmoe_jax.analysis.statistics import activation, drops, heads, training
from mhmoe_jax.analysis.traces import tracing
from mhmoe_jax.analysis.traces.trace import Trace, load_trace
from mhmoe_jax.checkpoints import restore, saved
from mhmoe_jax.data import documents

TOKENS = 50_000
FACTORS = (0.75, 1.0, 1.25, 1.5, 2.0)  # of capacity, in even shares
BINS = 8  # of the window


def make_trace(
  workdir: pathlib.Path,
  vocabulary: str,
  text: pathlib.Path,
  directory: pathlib.Path,
  step: int,
  changes: Mapping[str, object],
) -> Trace:
  """Traces a checkpoint, its MoE layer changed."""
  config = saved.load_config(str(workdir))
  config["data"]["vocabulary"] = vocabulary
  config["model"]["moe"] |= changes
  cfg, params = restore.load_model(str(workdir), ConfigDict(config), step)
  meta = tracing.describe_model(cfg, config, workdir.name, step, [str(text)])
  read = documents.iterate_documents([str(text)], "paragraph", "text")
  shutil.rmtree(directory, ignore_errors=True)  # of a killed run
  tracing.write_trace(str(directory), meta, cfg, params, read, max_tokens=TOKENS)
  return load_trace(directory)


def measure(
  workdir: pathlib.Path,
  vocabulary: str,
  text: pathlib.Path,
  out: pathlib.Path,
  steps: Sequence[int],
  factors: Sequence[float] = FACTORS,
) -> dict:
  """All measures of one run, with checkpoints of `steps` and limited to `factors`."""

  def trace(name: str, step: int, **changes) -> Trace:
    return make_trace(workdir, vocabulary, text, out / name, step, changes)

  by_step = [trace(f"step_{step}", step) for step in steps]
  last = by_step[-1]
  limited = [
    trace(f"at_{f}", steps[-1], dispatch="capacity", eval_capacity_factor=f)
    for f in factors
  ]
  cost = drops.cost_by_capacity(limited)
  place = heads.position_profile(last, BINS)
  over = training.over_training(by_step)
  load = activation.measure(last).load_NE
  return {
    "load": load.tolist(),
    "effective": routing_measures.effective_experts(load),
    "distinct": routing_measures.diversity_numbers(last),
    "head": routing_measures.head_numbers(last),
    "predictability": routing_measures.predictability(last),
    "position": {
      "start": place.start_X.tolist(),
      "loss": place.loss_X.tolist(),
      "entropy": place.entropy_XN.mean(axis=1).tolist(),
      "distinct": place.distinct_XN.mean(axis=1).tolist(),
    },
    "training": {
      "step": over.step_X.tolist(),
      "active": over.active_XN.mean(axis=1).tolist(),
      "distinct": over.distinct_XN.mean(axis=1).tolist(),
      "entropy": over.entropy_XN.mean(axis=1).tolist(),
      "saturation": over.saturation_XN.mean(axis=1).tolist(),
    },
    "drops": {
      "factor": cost.factor_X.tolist(),
      "choices": cost.choices_XN.mean(axis=1).tolist(),
      "some": cost.some_XN.mean(axis=1).tolist(),
      "extra": (cost.loss_X - last.loss_T.mean(dtype=np.float64)).tolist(),
    },
  }


def by_row(results: Sequence[dict]) -> dict[str, list[dict]]:
  """Results of each row, in the order of the main table."""
  found = {row: [r for r in results if r["row"] == row] for row in run.MAIN}
  return {row: of_row for row, of_row in found.items() if of_row}


def table(results: Sequence[dict]) -> str:
  """Means over seeds."""
  head = [
    *("", "seeds", "effective share of experts", "distinct experts of a token"),
    *("dealt to tokens at random", "bits that head and expert share"),
    *("first expert told by the piece", "blind"),
    *("dropped at capacity 1", "1.25", "2", "loss more at 1", "1.25", "2"),
  ]
  lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
  at = [FACTORS.index(factor) for factor in (1.0, 1.25, 2.0)]
  for row, of_row in by_row(results).items():

    def mean(read, of_row=of_row) -> float:
      return statistics.fmean(map(read, of_row))

    cells = [
      row,
      str(len(of_row)),
      f"{mean(lambda r: r['effective']):.2f}",
      f"{mean(lambda r: r['distinct']['mean']):.2f}",
      f"{mean(lambda r: r['distinct']['dealt']):.2f}",
      f"{mean(lambda r: r['head']['information']):.2f}",
      f"{mean(lambda r: r['predictability']['by_text']):.0%}",
      f"{mean(lambda r: r['predictability']['blind']):.0%}",
      *(f"{mean(lambda r, i=i: r['drops']['choices'][i]):.1%}" for i in at),
      *(f"{mean(lambda r, i=i: r['drops']['extra'][i]):+.3f}" for i in at),
    ]
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines) + "\n"


def draw(results: Sequence[dict], path: pathlib.Path) -> None:
  """Along the window, over training, and what a capacity drops."""
  figure, axes = plt.subplots(2, 3, figsize=(13, 7), layout="constrained")
  places = (
    ("position", "start", "loss", "position in the window", "loss"),
    (
      "position",
      "start",
      "entropy",
      "position in the window",
      "router's entropy, nats",
    ),
    (
      "drops",
      "factor",
      "extra",
      "capacity factor",
      "loss for what is dropped",
    ),
    ("training", "step", "entropy", "step", "entropy of the router / log E"),
    ("training", "step", "saturation", "step", "choices as at the end"),
    ("training", "step", "active", "step", "experts with 0.1 even shares or more"),
  )
  for ax, (part, x, y, xlabel, ylabel) in zip(axes.flat, places, strict=True):
    for colour, (row, of_row) in enumerate(by_row(results).items()):
      values = np.array([r[part][y] for r in of_row])
      ax.plot(
        of_row[0][part][x],
        values.mean(axis=0),
        marker="o",
        markersize=3,
        color=f"C{colour}",
        label=row,
      )
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.grid(alpha=0.3)
  axes[0, 0].legend(fontsize=7)
  figure.savefig(path, dpi=120)
  plt.close(figure)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--runs", type=pathlib.Path, required=True)
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  args = parser.parse_args()

  def of_job(job: run.Job, out: pathlib.Path) -> dict:
    workdir, text = args.runs / run.name_of(job), args.data / "valid.txt"
    steps = range(job.steps // 5, job.steps + 1, job.steps // 5)
    return measure(workdir, str(args.runs / "tokens.model"), text, out, steps)

  def is_wanted(job: run.Job) -> bool:
    return rows.ROWS[job.row].layer is not None

  results = run.measure_finished(args.runs, args.out, of_job, is_wanted)
  text = table(results)
  (args.out / "results" / "routing.md").write_text(text)
  print(text)
  draw(results, args.out / "results" / "routing.png")


if __name__ == "__main__":
  main()
