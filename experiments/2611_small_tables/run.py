"""Trains the rows of a table: run.py --table 1 --data DIR --out runs/small_tables

DIR/english/{train,valid}.txt and DIR/multilingual/*.{train,valid}.txt are plain text.
Start it as often as there are cores: the processes share the work. Start it again after
a kill, and it goes on; what is finished is skipped. `report.py` draws what there is.
"""

import argparse
import os
import pathlib
import platform
import statistics
import time
from typing import NamedTuple

import config as rows

from experiments import work_queue
from experiments.vocabulary import set_vocabulary

RATES = (0.004, 0.008, 0.016, 0.032)


class Job(NamedTuple):
  """One training run; what identifies its result."""

  row: str
  language: str
  seed: int  # of the data's order and of the initial weights
  steps: int
  rate: float | None  # None: the best of the search for its kind


def make_jobs(table: str, steps: int) -> list[Job]:
  """The runs of a table, the most wanted first."""
  models = rows.KINDS[1:]

  def final(names, seeds=(0,), language="english"):
    return [Job(name, language, seed, steps, None) for seed in seeds for name in names]

  def counts(n):
    return [f"{kind}_{n}" for kind in models]

  tables = {
    "search": [
      Job(row, "english", 0, max(1, steps // 5), rate)
      for row in ("dense", *counts(8))
      for rate in RATES
    ],
    "1": final(["dense", *counts(8)], (0, 1, 2)),
    "5": final(["xmoe_8", "mhmoe_8", *(f"heads_{h}" for h in rows.HEADS)]),
    "1_multilingual": final(["dense", *counts(8), *counts(32)], (0,), "multilingual"),
    "6": final(
      ["dense", "dense_mlp", "xmoe_8", "xmoe_mlp", "mhmoe_without_mlp", "mhmoe_8"]
    ),
    "7": final(["mhmoe_without_mlp", "mhmoe_8", "linear_2", "linear_3"]),
    "balance": final(["mhmoe_8", *(f"balance_{weight:g}" for weight in rows.BALANCE)]),
    "1_32": final(counts(32)),
    "scaling": final(
      f"{kind}_{n}"
      for n in rows.COUNTS[1:]
      for kind in ("xmoe", "mhmoe", "mhmoe_flops")
    ),
  }
  if table == "all":
    return list(dict.fromkeys(job for jobs in tables.values() for job in jobs))
  if table not in tables:
    raise ValueError(f"table must be all, {', '.join(tables)}, got table={table!r}.")
  return list(dict.fromkeys(tables["search"] + tables[table]))


def job_of(result: dict) -> Job:
  """The job that a result is of."""
  return Job(*(result[name] for name in Job._fields))


def best_rate(results: list[dict], job: Job) -> float | None:
  """The best learning rate of a job's kind; None while the search is not over."""
  kind, steps = rows.kind_of(job.row), max(1, job.steps // 5)
  losses = {
    r["rate"]: r["valid_loss"]
    for r in results
    if r["rate"] is not None and r["steps"] == steps and rows.kind_of(r["row"]) == kind
  }
  return min(losses, key=losses.get) if losses.keys() >= set(RATES) else None


def make_config(job: Job, rate: float, data: pathlib.Path, out: pathlib.Path):
  """The config of a job; trains the vocabulary if it is the first to need it."""
  config = rows.get_config(f"{job.row},{job.language}")
  rows.set_steps(config, job.steps)
  config.optimizer.learning_rate = rate
  if job.rate:  # Nobody draws the curve of a search.
    config.train.eval_every = config.train.checkpoint_every = job.steps
  config.train.seed = config.data.seed = job.seed
  for files in config.data.mixture.values() if config.data.mixture else [config.data]:
    for part in ("train", "valid"):
      files[part] = str(data / pathlib.Path(files[part]).relative_to("data"))
  set_vocabulary(config, out / f"{job.language}.model")
  return config


def train(job: Job, config, workdir: pathlib.Path) -> dict | None:
  """Trains and tells the result; None if a signal stopped it."""
  from mhmoe_jax.moe.telemetry import active_share
  from mhmoe_jax.plan.accounting import count_flops, count_parameters
  from mhmoe_jax.train import loop
  from mhmoe_jax.train.config import resolve
  from mhmoe_jax.train.metrics import read_metrics

  evaluation = loop.train(config, str(workdir)).evaluation
  if evaluation is None:
    return None
  cfg = resolve(config)
  parameters = count_parameters(cfg.task)
  metrics = read_metrics(workdir / "metrics.jsonl")
  speeds = [m["tokens_per_second"] for m in metrics if "tokens_per_second" in m]
  speeds = [speed for speed in speeds if speed == speed]
  tokens = cfg.train.batch_size * cfg.data.sequence_length
  load = evaluation.load_NHE
  return job._asdict() | {
    "parameters": parameters.total,
    "active_parameters": parameters.active,
    "macs_per_token": count_flops(cfg, training=False).forward / 2,
    "tokens": tokens * job.steps,
    "learning_rate": cfg.optimizer.learning_rate,
    "valid_loss": evaluation.loss,
    "perplexity": evaluation.perplexity,
    "bits_per_byte": evaluation.bits_per_byte,
    "languages": {
      name: [member.loss, member.bits_per_byte]
      for name, member in evaluation.members.items()
    },
    "curve": [
      [m["step"], m["valid/loss"]] for m in metrics if m.get("valid/loss") is not None
    ],
    "seconds_per_step": tokens / statistics.median(speeds) if speeds else None,
    "active_experts": None
    if load is None
    else float(active_share(load.mean(axis=1)).mean()),
    "host": platform.machine() + ", one core",
  }


def work(
  jobs: list[Job],
  data: pathlib.Path,
  out: pathlib.Path,
  common_rate: float | None = None,
  train=train,
) -> None:
  """Does what no other process is doing until all is done, or a signal says stop.

  Args:
    jobs: the most wanted first.
    data: folder of the texts.
    out: folder of the runs and, in `results`, of what came of them.
    common_rate: of all jobs without a rate of their own; None: search for each kind.
    train: trains one job.
  """
  path = out / "results" / "runs.jsonl"
  version = work_queue.commit()
  while True:
    results = work_queue.read_results(path)
    left = [job for job in jobs if job not in set(map(job_of, results))]
    if not left:
      return
    for job in left:
      rate = job.rate or common_rate or best_rate(results, job)
      if rate is None:
        continue
      name = f"{job.row}-{job.language}-{job.steps}-{job.seed}"
      name += f"-{job.rate}" if job.rate else ""
      with work_queue.claim(out / "locks" / name) as mine:
        if not mine or job in set(map(job_of, work_queue.read_results(path))):
          continue
        result = train(job, make_config(job, rate, data, out), out / name)
        if result is None:
          return
        work_queue.add_result(path, result | {"commit": version})
      break  # Look again at what is left: a search may be over.
    else:
      time.sleep(1)  # Others do the rest.


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--table", default="all", help="all, search, 1, 5, 6, 7, ...")
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parser.add_argument("--steps", type=int, default=600, help="of 1,024 tokens")
  parser.add_argument("--rate", type=float, help="for every model, without a search")
  args = parser.parse_args()
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(args.out / "compiled"))
  jobs = make_jobs(args.table, args.steps)
  if args.rate:
    jobs = [job for job in jobs if job.rate is None]
  work(jobs, args.data, args.out, args.rate)


if __name__ == "__main__":
  main()
