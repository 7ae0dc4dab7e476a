"""Trains the rows: run.py --table width --data DIR --out runs/when_it_pays

DIR has plain text, train.txt and valid.txt and for "languages" ar.train.txt ... . Start
it as often as there are cores: see `experiments/work_queue.py`. README.md says what the
tables are.
"""

import argparse
from collections.abc import Callable
import os
import pathlib
import statistics
from typing import NamedTuple

import config as rows
from ml_collections import ConfigDict

from experiments import work_queue
from experiments.vocabulary import set_vocabulary

SEEDS = (0, 1, 2)
RATES = (0.004, 0.002, 0.008)
BASE = (f"smoe_{rows.WIDTH}", f"mhmoe_{rows.WIDTH}_{rows.HEADS}")
PIECES = ("split", "linear", "head", "merge")
OTHERS = (f"fine_{rows.WIDTH}", f"dense_{rows.WIDTH}")
CONTROLS = ("narrow", "split_4", "split_8")
# The models between which a user chooses, and the pieces of the layer (2411.16205
# Tables 4 and 5); the most wanted first.
MAIN = (
  *("smoe_192", "mhmoe_192_2", "split", "fine_192", "dense_192", "merge"),
  *("mhmoe_192_3", "smoe,router=cosine", "equal_size", "head"),
)
# At D = 512; the first rate is the best of the three for all of them.
WIDE = ("smoe_512", "mhmoe_512_2", "split_512", "dense_512")
WIDE_RATES = (0.001, 0.002, 0.004)
STEPS = 2_000  # of 1,024 tokens
LONG = 10_000
RATE = 0.004


class Job(NamedTuple):
  """One training run; what identifies its result."""

  row: str
  seed: int  # of the data's order and of the initial weights
  steps: int = STEPS
  rate: float = RATE  # the highest learning rate


def _width() -> list[str]:
  kinds = ("dense_", "smoe_", "fine_", "mhmoe_")
  of_width = [name for name in rows.ROWS if name.startswith(kinds)]
  of_width = [name for name in of_width if rows.ROWS[name].width != rows.WIDE]
  return sorted(of_width, key=lambda name: rows.ROWS[name].width != rows.WIDTH)


def _factors() -> list[str]:
  """MH-MoE's first."""
  changed = (name for name in rows.ROWS if "=" in name)
  return [*BASE, *sorted(changed, key=lambda name: name.startswith("smoe,"))]


TABLES = {
  "width": [Job(row, SEEDS[0]) for row in _width()],
  "parts": [
    *(Job(row, s) for s in SEEDS for row in (*BASE, *PIECES, *OTHERS)),
    *(Job(row, SEEDS[0]) for row in CONTROLS),
  ],
  "factors": [Job(row, s) for s in SEEDS for row in _factors()],
  "rate": [Job(row, SEEDS[0], STEPS, rate) for rate in RATES for row in MAIN],
  "tokens": [
    *(Job(row, s, 600) for s in SEEDS for row in BASE),
    *(Job(row, SEEDS[0], 6_000) for row in BASE),
  ],
  "main": [Job(row, s, LONG) for s in SEEDS for row in MAIN],
  "languages": [Job(f"languages,{row}", SEEDS[0]) for row in rows.IN_LANGUAGES],
  "wide": [
    *(Job(row, SEEDS[0], STEPS, rate) for rate in WIDE_RATES for row in WIDE),
    *(Job(row, s, STEPS, WIDE_RATES[1]) for s in SEEDS[1:] for row in WIDE),
    *(Job(WIDE[0], s, LONG, WIDE_RATES[0]) for s in SEEDS),
  ],
}


def make_jobs(table: str, row: str = "") -> list[Job]:
  """The runs of a table or of all: every row with one seed, then with the next.

  Args:
    table: one of `TABLES`, or all.
    row: the only one wanted, or all of them.
  """
  if table != "all" and table not in TABLES:
    raise ValueError(f"table must be all, {', '.join(TABLES)}, got table={table!r}.")
  wanted = TABLES.values() if table == "all" else [TABLES[table]]
  jobs = dict.fromkeys(job for jobs in wanted for job in jobs)
  if row and row not in (names := dict.fromkeys(job.row for job in jobs)):
    raise ValueError(f"row must be one of {', '.join(names)}, got row={row!r}.")
  jobs = [job for job in jobs if row in ("", job.row)]
  return sorted(jobs, key=lambda job: job.seed)


def job_of(result: dict) -> Job:
  """The job that a result is of."""
  return Job(*(result[name] for name in Job._fields))


def measure_finished(
  runs: pathlib.Path,
  out: pathlib.Path,
  measure: Callable[[Job, pathlib.Path], dict],
  wanted: Callable[[Job], bool] = lambda job: True,
) -> list[dict]:
  """Measures what has finished of the main table and is not measured; all results.

  Args:
    runs: what this script made.
    out: gets `results/runs.jsonl`.
    measure: of a job, with a folder for what it leaves.
    wanted: which jobs.
  """
  done = set(map(job_of, work_queue.read_results(runs / "results" / "runs.jsonl")))
  jobs = [job for job in make_jobs("main") if job in done and wanted(job)]

  def run(job: Job, folder: pathlib.Path) -> dict:
    return job._asdict() | measure(job, folder)

  work_queue.work(jobs, out, name_of, job_of, run)
  return work_queue.read_results(out / "results" / "runs.jsonl")


def name_of(job: Job) -> str:
  """The folder of a job."""
  return f"{job.row}-{job.steps}-{job.rate:g}-{job.seed}"


def make_config(job: Job, data: pathlib.Path, out: pathlib.Path) -> ConfigDict:
  """The config of a job; trains the vocabulary if it is the first to need it."""
  config = rows.get_config(job.row, job.steps)
  config.optimizer.learning_rate = job.rate
  config.train.seed = config.data.seed = job.seed
  for files in config.data.mixture.values() or [config.data]:
    for split in ("train", "valid"):
      files[split] = str(data / pathlib.Path(files[split]).name)
  set_vocabulary(config, out / pathlib.Path(config.data.vocabulary).name)
  return config


def train(job: Job, config: ConfigDict, workdir: pathlib.Path) -> dict | None:
  """Trains and tells the result; None if a signal stopped it."""
  import starts

  from mhmoe_jax.plan.accounting import count_flops, count_parameters
  from mhmoe_jax.train import loop
  from mhmoe_jax.train.config import resolve
  from mhmoe_jax.train.metrics import read_metrics

  start = rows.ROWS[job.row].start
  if start:
    starts.begin(config, start, str(workdir))
  evaluation = loop.train(config, str(workdir)).evaluation
  if evaluation is None:
    return None
  cfg = resolve(config)
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
    "active_experts": active_experts(evaluation),
  }


def active_experts(evaluation) -> float | None:
  """The share of experts in use, a mean over MoE layers; None if there are none."""
  from mhmoe_jax.moe.telemetry import active_share

  load = evaluation.load_NHE
  return None if load is None else float(active_share(load.mean(axis=1)).mean())


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--table", default="all", help=f"all, {', '.join(TABLES)}")
  parser.add_argument("--row", default="", help="this one alone, see config.py")
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  args = parser.parse_args()
  try:
    jobs = make_jobs(args.table, args.row)
  except ValueError as error:
    parser.error(str(error))
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(args.out / "compiled"))

  def run(job: Job, workdir: pathlib.Path) -> dict | None:
    return train(job, make_config(job, args.data, args.out), workdir)

  work_queue.work(jobs, args.out, name_of, job_of, run)


if __name__ == "__main__":
  main()
