"""Fine-tunes: run.py --data DIR --pretrained runs/multimodal --out runs/vision_language

Start it as often as there are cores, and again after a kill: see
`experiments/work_queue.py`. README.md says what is in DIR; `report.py` draws what there
is.
"""

import argparse
import os
import pathlib
import statistics
from typing import NamedTuple

import config as tasks
from ml_collections import ConfigDict

from experiments import work_queue

MODELS = ("dense", "xmoe_8", "mhmoe_8", "mhmoe_flops_8")  # of 2612_multimodal
SEEDS = (0, 1, 2)
MAIN = ("emoji", "easy_vqa", "nlvr")


class Job(NamedTuple):
  """One fine-tuning; what identifies its result."""

  task: str
  model: str
  start: str  # "pretrained", or "scratch"
  seed: int  # of the order and of what is new, and of the run that it starts from
  steps: int


def make_jobs() -> list[Job]:
  """All runs, the most wanted first."""
  others = [task for task in tasks.TASKS if task not in (*MAIN, "coco")]
  best, last = MODELS[:-1], MODELS[-1]
  wanted = [
    *((task, model, "pretrained", s) for task in MAIN for s in SEEDS for model in best),
    ("coco", "mhmoe_8", "pretrained", 0),
    *((task, model, "scratch", 0) for task in MAIN for model in best),
    *((task, model, "pretrained", 0) for task in others for model in best),
    *((task, last, "pretrained", s) for s in SEEDS for task in MAIN),
    *((task, model, "scratch", 0) for task in others for model in best),
    *((t, m, "pretrained", s) for s in SEEDS[1:] for t in others for m in best),
  ]
  return [Job(*job, tasks.TASKS[job[0]].steps) for job in wanted]


def job_of(result: dict) -> Job:
  """The job that a result is of."""
  return Job(*(result[name] for name in Job._fields))


def name_of(job: Job) -> str:
  """The folder of a job."""
  return f"{job.task}-{job.model}-{job.start}-{job.steps}-{job.seed}"


def train(job: Job, config: ConfigDict, workdir: pathlib.Path) -> dict | None:
  """Trains and tells the result; None if a signal stopped it."""
  from mhmoe_jax.moe.telemetry import active_share
  from mhmoe_jax.train import loop
  from mhmoe_jax.train.metrics import read_metrics

  evaluation = loop.train(config, str(workdir)).evaluation
  if evaluation is None:
    return None
  metrics = read_metrics(workdir / "metrics.jsonl")
  losses = [[m["step"], m["loss"]] for m in metrics if "loss" in m]
  captions = getattr(evaluation, "captions", [])
  return job._asdict() | {
    "valid": evaluation.scalars(),
    "train_loss": statistics.fmean(loss for _, loss in losses[-4:]),
    "curve": losses,
    "active_experts": {
      name: float(active_share(load.mean(axis=1)).mean())
      for name, load in evaluation.loads.items()
    },
    "captions": [
      [text, refs[0]]
      for text, refs in zip(captions[:8], evaluation.references, strict=False)
    ]
    if captions
    else [],
  }


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--pretrained", type=pathlib.Path, required=True)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parser.add_argument(
    "--run", default="300-0.004", help="of 2612_multimodal: its steps and rate"
  )
  args = parser.parse_args()
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(args.out / "compiled"))

  def run(job: Job, workdir: pathlib.Path) -> dict | None:
    from mhmoe_jax.checkpoints.saved import load_config

    folder = args.pretrained / f"{job.model}-{args.run}-{job.seed}"
    masked = ConfigDict(load_config(folder))
    config = tasks.get_config(job.task, masked, args.data)
    config.init = str(folder) if job.start == "pretrained" else ""
    config.train.seed = config.data.seed = job.seed
    return train(job, config, workdir)

  work_queue.work(make_jobs(), args.out, name_of, job_of, run)


if __name__ == "__main__":
  main()
