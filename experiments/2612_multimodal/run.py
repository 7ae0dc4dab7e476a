"""Trains the rows: run.py --data DIR --out runs/multimodal

Start it as often as there are cores: the processes share the work. Start it again after
a kill, and it goes on; what is finished is skipped. README.md says what is in DIR;
`report.py` draws what there is.
"""

import argparse
import os
import pathlib
import statistics
from typing import NamedTuple

import config as rows

from experiments import work_queue

SEEDS = (0, 1, 2)
MAIN = ("dense", "xmoe_8", "mhmoe_8", "mhmoe_flops_8")
PLACES = ("mhmoe_8_shared", "mhmoe_8_second")  # against mhmoe_8
LARGE = ("xmoe_32", "mhmoe_32")


class Job(NamedTuple):
  """One training run; what identifies its result."""

  row: str
  seed: int  # of the data's order, of the masks and of the initial weights
  steps: int
  rate: float  # the highest learning rate


def make_jobs(steps: int, rate: float) -> list[Job]:
  """All runs, the most wanted first."""
  rows_of = [(row, seed) for seed in SEEDS for row in MAIN]
  rows_of += [(row, 0) for row in (*PLACES, *LARGE)]
  rows_of += [(row, seed) for seed in SEEDS[1:] for row in PLACES]
  return [Job(row, seed, steps, rate) for row, seed in rows_of]


def job_of(result: dict) -> Job:
  """The job that a result is of."""
  return Job(*(result[name] for name in Job._fields))


def name_of(job: Job) -> str:
  """The folder of a job."""
  return f"{job.row}-{job.steps}-{job.rate:g}-{job.seed}"


def prepare(data: pathlib.Path, out: pathlib.Path) -> None:
  """Fits both vocabularies, of text and of patches, if they are not there."""
  from mhmoe_jax.codes import build, saved
  from mhmoe_jax.data import tokenizer, windows
  from mhmoe_jax.data.masked.rows import sample_pictures
  from mhmoe_jax.train.config import resolve

  config = rows.get_config("dense")
  rows.set_data(config, data, out)
  cfg = resolve(config)
  with work_queue.claim(out / "prepare.lock", wait=True):
    tokens = out / "tokens.model"
    if not tokens.exists():
      part = tokens.with_suffix(".part")
      texts = windows.iterate_texts(cfg.data.text, "train")
      tokenizer.train_sentencepiece(texts, rows.VOCAB_SIZE - 1, str(part))
      part.rename(tokens)
    if not saved.exists(cfg.data.codes.path):
      pictures = sample_pictures(cfg.data, cfg.model.picture_size)
      steps, seed = cfg.data.codes.steps, cfg.data.seed
      build.build(
        cfg.data.codes.path, cfg.task.codes, pictures, {}, steps=steps, seed=seed
      )


def train(job: Job, config, workdir: pathlib.Path) -> dict | None:
  """Trains and tells the result; None if a signal stopped it."""
  from mhmoe_jax.moe.telemetry import active_share
  from mhmoe_jax.plan.accounting import count_flops, count_parameters
  from mhmoe_jax.train import loop
  from mhmoe_jax.train.config import resolve
  from mhmoe_jax.train.metrics import read_metrics

  result = loop.train(config, str(workdir))
  if result.evaluation is None:
    return None
  cfg, metrics = resolve(config), read_metrics(workdir / "metrics.jsonl")
  parameters = count_parameters(cfg.task)
  speeds = [m["tokens_per_second"] for m in metrics if "tokens_per_second" in m]
  speeds = [speed for speed in speeds if speed == speed]
  tokens = cfg.train.batch_size * cfg.task.tokens_per_example
  loads = result.evaluation.loads.items()
  last = [m for m in metrics if "loss" in m][-1]
  return job._asdict() | {
    "parameters": parameters.total,
    "active_parameters": parameters.active,
    "macs_per_token": count_flops(cfg, training=False).forward / 2,
    "tokens": tokens * job.steps,
    "valid": result.evaluation.scalars(),
    "curve": [[m["step"], m["valid/loss"]] for m in metrics if "valid/loss" in m],
    "seconds_per_step": tokens / statistics.median(speeds) if speeds else None,
    "active_experts": {
      name: float(active_share(load.mean(axis=1)).mean()) for name, load in loads
    },
    "loads": {name: load.mean(axis=1).tolist() for name, load in loads},
    "entropies": {k: x for k, x in last.items() if k.endswith("al_entropy")},
  }


def work(jobs: list[Job], data: pathlib.Path, out: pathlib.Path, train=train) -> None:
  """Trains all jobs.

  Args:
    jobs: the most wanted first.
    data: folder of pictures and texts.
    out: folder of the runs and, in `results`, of what came of them.
    train: trains one job.
  """

  def run(job: Job, workdir: pathlib.Path) -> dict | None:
    config = rows.get_config(job.row)
    rows.set_data(config, data, out)
    rows.set_steps(config, job.steps)
    config.optimizer.learning_rate = job.rate
    config.train.seed = config.data.seed = config.data.text.seed = job.seed
    return train(job, config, workdir)

  work_queue.work(jobs, out, name_of, job_of, run)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parser.add_argument("--steps", type=int, default=300)
  parser.add_argument("--rate", type=float, default=0.004)
  args = parser.parse_args()
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(args.out / "compiled"))
  prepare(args.data, args.out)
  work(make_jobs(args.steps, args.rate), args.data, args.out)


if __name__ == "__main__":
  main()
