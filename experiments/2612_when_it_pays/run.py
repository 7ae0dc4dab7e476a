"""Trains the rows: run.py --table width --data DIR --out runs/when_it_pays

DIR/train.txt and DIR/valid.txt are plain text. Start it as often as there are cores:
see `experiments/work_queue.py`. README.md says what the tables are.
"""

import argparse
import os
import pathlib
import statistics
from typing import NamedTuple

import config as rows
from ml_collections import ConfigDict

from experiments import work_queue
from experiments.vocabulary import set_vocabulary

SEEDS = (0, 1, 2)
RATES = (0.002, 0.004, 0.008)
BASE = (f"smoe_{rows.WIDTH}", f"mhmoe_{rows.WIDTH}_{rows.HEADS}")
STEPS = 2_000  # of 1,024 tokens
RATE = 0.004


class Job(NamedTuple):
  """One training run; what identifies its result."""

  row: str
  seed: int  # of the data's order and of the initial weights
  steps: int = STEPS
  rate: float = RATE  # the highest learning rate


def _width() -> list[Job]:
  kinds = ("dense_", "smoe_", "fine_", "mhmoe_")
  of_width = [name for name in rows.ROWS if name.startswith(kinds)]
  first = sorted(of_width, key=lambda name: rows.ROWS[name].width != rows.WIDTH)
  return [Job(name, seed) for seed in SEEDS for name in first]


TABLES = {
  "width": _width(),
  "rate": [Job(row, s, STEPS, rate) for s in SEEDS for rate in RATES for row in BASE],
  "parts": [
    Job(row, s) for s in SEEDS for row in (*BASE, "split", "linear", "head", "merge")
  ],
  "factors": [
    Job(row, s) for s in SEEDS for row in (*BASE, *(r for r in rows.ROWS if "=" in r))
  ],
  "tokens": [Job(row, s, n) for s in SEEDS for n in (600, 6_000) for row in BASE],
}


def make_jobs(table: str) -> list[Job]:
  """The runs of a table or of all, the most wanted first."""
  if table != "all" and table not in TABLES:
    raise ValueError(f"table must be all, {', '.join(TABLES)}, got table={table!r}.")
  wanted = TABLES.values() if table == "all" else [TABLES[table]]
  return list(dict.fromkeys(job for jobs in wanted for job in jobs))


def job_of(result: dict) -> Job:
  """The job that a result is of."""
  return Job(*(result[name] for name in Job._fields))


def name_of(job: Job) -> str:
  """The folder of a job."""
  return f"{job.row}-{job.steps}-{job.rate:g}-{job.seed}"


def make_config(job: Job, data: pathlib.Path, out: pathlib.Path) -> ConfigDict:
  """The config of a job; trains the vocabulary if it is the first to need it."""
  config = rows.get_config(job.row)
  rows.set_steps(config, job.steps)
  config.optimizer.learning_rate = job.rate
  config.train.seed = config.data.seed = job.seed
  config.data.train, config.data.valid = f"{data}/train.txt", f"{data}/valid.txt"
  set_vocabulary(config, out / "tokens.model")
  return config


def train(job: Job, config: ConfigDict, workdir: pathlib.Path) -> dict | None:
  """Trains and tells the result; None if a signal stopped it."""
  from mhmoe_jax.moe.telemetry import active_share
  from mhmoe_jax.plan.accounting import count_flops, count_parameters
  from mhmoe_jax.train import loop
  from mhmoe_jax.train.config import resolve
  from mhmoe_jax.train.metrics import read_metrics

  evaluation = loop.train(config, str(workdir)).evaluation
  if evaluation is None:
    return None
  cfg, load = resolve(config), evaluation.load_NHE
  metrics = read_metrics(workdir / "metrics.jsonl")
  losses = [m["loss"] for m in metrics if "loss" in m]
  return job._asdict() | {
    "parameters": count_parameters(cfg.task).total,
    "macs_per_token": count_flops(cfg, training=False).forward / 2,
    "tokens": cfg.train.batch_size * cfg.data.sequence_length * job.steps,
    "valid_loss": evaluation.loss,
    "bits_per_byte": evaluation.bits_per_byte,
    "train_loss": statistics.fmean(losses[-5:]),
    "curve": [
      [m["step"], m["valid/loss"]] for m in metrics if m.get("valid/loss") is not None
    ],
    "active_experts": None
    if load is None
    else float(active_share(load.mean(axis=1)).mean()),
  }


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--table", default="all", help=f"all, {', '.join(TABLES)}")
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  args = parser.parse_args()
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(args.out / "compiled"))

  def run(job: Job, workdir: pathlib.Path) -> dict | None:
    return train(job, make_config(job, args.data, args.out), workdir)

  work_queue.work(make_jobs(args.table), args.out, name_of, job_of, run)


if __name__ == "__main__":
  main()
