"""Trains all runs of a row as one program, for an accelerator: at_once.py --table main

Models this small do not fill an accelerator. So the runs of a row that have equally
many steps are lanes of one program: parameters, optimizer states and batches have a
leading axis, and the device makes all steps between two evaluations without the host.
Experts are computed as with dispatch="capacity" and a slot for every sub-token, which
drops nothing and is one batched product; sorted where that would be large.

Reads what batches.py wrote, and writes what run.py writes, with what it ran on. Several
processes share the rows; what a killed one was at begins anew.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
import os
import pathlib
import time
from typing import NamedTuple

import batches
import config as rows
import jax
from ml_collections import ConfigDict
import numpy as np
import optax
import run
import starts

from experiments import work_queue
from mhmoe_jax.plan.accounting import count_flops, count_parameters
from mhmoe_jax.tasks.task import Batch, Evaluation, Sums
from mhmoe_jax.train.config import RunConfig, resolve
from mhmoe_jax.train.optimizer import make_optimizer
from mhmoe_jax.train.state import State, fresh_state
from mhmoe_jax.train.step import make_train_step


class Program(NamedTuple):
  """The runs of a row that have equally many steps."""

  row: str
  steps: int
  lanes: tuple[tuple[int, float], ...]  # seed and learning rate

  @property
  def jobs(self) -> list[run.Job]:
    """The runs."""
    return [run.Job(self.row, seed, self.steps, rate) for seed, rate in self.lanes]

  @property
  def name(self) -> str:
    """Of a lock."""
    return f"{self.row}-{self.steps}"


def make_programs(jobs: Sequence[run.Job]) -> list[Program]:
  """Every job in a program; programs in the order of their first jobs."""
  lanes = {}
  for job in jobs:
    lanes.setdefault((job.row, job.steps), []).append((job.seed, job.rate))
  return [Program(*key, tuple(of_row)) for key, of_row in lanes.items()]


def make_config(program: Program, folder: pathlib.Path) -> ConfigDict:
  """The config of a row, its experts as one product; the vocabulary is in `folder`."""
  config = rows.get_config(program.row, program.steps)
  config.data.vocabulary = str(folder / pathlib.Path(config.data.vocabulary).name)
  config.optimizer.learning_rate = 1.0  # times that of a lane
  moe = config.model.moe
  slots = moe.num_experts / moe.top_k  # for every one that is used
  is_large = rows.ROWS[program.row].width == rows.WIDE and slots > 4
  if moe.dispatch != "capacity" and not is_large:
    moe.dispatch = "capacity"
    moe.capacity_factor = moe.eval_capacity_factor = slots
  return config


def make_init(cfg: RunConfig, row: str) -> Callable[[jax.Array], State]:
  """The state before the first step, of seeds (lanes,)."""
  optimizer = make_optimizer(cfg.optimizer, cfg.train.num_steps)
  change = starts.STARTS[rows.ROWS[row].start]

  def init(seed):
    key, _ = jax.random.split(jax.random.key(seed))
    params = jax.tree_util.tree_map_with_path(
      lambda path, x: change(jax.tree_util.keystr(path), x), cfg.task.init(key)
    )
    return fresh_state(params, optimizer, seed)

  return jax.vmap(init)


def make_advance(cfg: RunConfig) -> Callable[..., tuple[State, jax.Array]]:
  """Many steps of every lane.

  The function takes the state, the learning rates (lanes,) and batches of arrays
  (steps, lanes, B, L), and returns the next state and losses (steps, lanes).
  """
  optimizer = make_optimizer(cfg.optimizer, cfg.train.num_steps)

  def step(state, rate, batch):
    def update(grads, opt_state, params):
      updates, opt_state = optimizer.update(grads, opt_state, params)
      return jax.tree.map(lambda x: rate * x, updates), opt_state

    scaled = optax.GradientTransformation(optimizer.init, update)
    state, metrics = make_train_step(cfg.task, scaled, 1)(state, _widen(cfg, batch))
    return state, metrics["loss"]

  def advance(state, rate_X, some):
    return jax.lax.scan(
      lambda state, batch: jax.vmap(step)(state, rate_X, batch), state, some
    )

  return advance


def make_count(cfg: RunConfig) -> Callable[[Mapping, Batch], Sums]:
  """What the task counts in batches of arrays (batches, B, L), for every lane."""

  def count(params, some):
    def one(batch):
      return cfg.task.count(params, {}, _widen(cfg, batch))

    return jax.tree.map(lambda x: x.sum(axis=0), jax.lax.map(one, some))

  return jax.vmap(count, in_axes=(0, None))


def _widen(cfg: RunConfig, batch: Batch) -> Batch:
  shapes = cfg.task.batch_shapes(cfg.train.batch_size)
  return {name: batch[name].astype(shapes[name].dtype) for name in shapes}


class Trainer:
  """A program, compiled.

  Args:
    program: whose seeds `folder` has batches of.
    folder: what batches.py wrote.
  """

  def __init__(self, program: Program, folder: pathlib.Path):
    config = make_config(program, folder)
    self._program, self._cfg = program, resolve(config)
    seeds, rates = zip(*program.lanes, strict=True)
    kept = {
      seed: batches.load_train(batches.train_path(folder, config, seed))
      for seed in {*seeds}
    }
    every = self._cfg.train.eval_every
    self._parts = [
      {
        name: np.stack([kept[seed][name][start : start + every] for seed in seeds], 1)
        for name in self._cfg.task.batch_shapes(self._cfg.train.batch_size)
      }
      for start in range(0, program.steps, every)
    ]
    self._valid = batches.load_valid(batches.valid_path(folder, config))
    self._rate_X = np.array(rates, np.float32)

    init = jax.jit(make_init(self._cfg, program.row))
    self._state = init(np.array(seeds, np.uint32))
    advance = jax.jit(make_advance(self._cfg), donate_argnums=0)
    self._advance = advance.lower(self._state, self._rate_X, self._parts[0]).compile()
    first, _ = next(iter(self._valid.values()))
    count = jax.jit(make_count(self._cfg))
    self._count = count.lower(self._state["params"], first).compile()

  def train(self) -> list[dict]:
    """Trains every lane and tells the results, in their order; once.

    Raises:
      FloatingPointError: a loss is not finite.
    """
    cfg, program = self._cfg, self._program
    losses, evaluations, seconds = [], [], 0.0
    for part in self._parts:
      begun = time.perf_counter()
      advanced = self._advance(self._state, self._rate_X, part)
      self._state, loss_SX = jax.block_until_ready(advanced)
      seconds += time.perf_counter() - begun
      losses.append(np.asarray(loss_SX))
      if not np.isfinite(losses[-1]).all():
        bad = np.flatnonzero(~np.isfinite(np.concatenate(losses)).all(axis=1))
        raise FloatingPointError(
          f"{program.name}: the loss of step {bad[0] + 1} is not finite."
        )
      evaluations.append(self._evaluate())
    loss_SX = np.concatenate(losses)

    steps = np.cumsum([len(part) for part in losses])
    shared = {
      "parameters": count_parameters(cfg.task).total,
      "macs_per_token": count_flops(cfg, training=False).forward / 2,
      "tokens": cfg.train.batch_size * cfg.data.sequence_length * program.steps,
      "device": jax.devices()[0].device_kind,
      "lanes": len(program.lanes),
      "seconds_per_step": seconds
      / program.steps,  # of all lanes, batches on their way included
    }
    return [
      job._asdict()
      | shared
      | {
        "valid_loss": evaluations[-1][x].loss,
        "bits_per_byte": evaluations[-1][x].bits_per_byte,
        "train_loss": float(loss_SX[-100:, x].mean()),
        "curve": [
          [int(step), of_lanes[x].loss]
          for step, of_lanes in zip(steps, evaluations, strict=True)
        ],
        "active_experts": run.active_experts(evaluations[-1][x]),
      }
      for x, job in enumerate(program.jobs)
    ]

  def _evaluate(self) -> list[Evaluation]:
    """Of each lane."""
    params = self._state["params"]
    sums = {
      name: (jax.device_get(self._count(params, part)), num_bytes)
      for name, (part, num_bytes) in self._valid.items()
    }

    def of_lane(x: int, sums_X: Sums, num_bytes: int) -> Sums:
      return jax.tree.map(lambda a: a[x], sums_X) | {"num_bytes": num_bytes}

    return [
      self._cfg.task.summarize({name: of_lane(x, *of) for name, of in sums.items()})
      for x in range(len(self._program.lanes))
    ]


def work(programs: Sequence[Program], folder: pathlib.Path, out: pathlib.Path) -> None:
  """Trains what is not in the results and no other process is at.

  While one process trains, others compile. A program is trained whole, though a lane of
  it be known.
  """
  path, version = out / "results" / "runs.jsonl", work_queue.commit()
  for program in programs:
    with work_queue.claim(out / "locks" / program.name) as mine:
      done = set(map(run.job_of, work_queue.read_results(path)))
      if not mine or done.issuperset(program.jobs):
        continue
      begun = time.perf_counter()
      trainer = Trainer(program, folder)
      compiled = time.perf_counter() - begun
      with work_queue.claim(out / "locks" / "device", wait=True):
        results = trainer.train()
      for result in results:
        if run.job_of(result) not in done:
          work_queue.add_result(path, result | {"commit": version})
      losses = ", ".join(f"{r['valid_loss']:.4f}" for r in results)
      step = 1e3 * results[0]["seconds_per_step"]
      print(
        f"{program.name}  loss {losses}  {step:.2f} ms a step, {compiled:.0f} s before",
        flush=True,
      )


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--table", default="all", help=f"all, {', '.join(run.TABLES)}")
  parser.add_argument("--row", default="", help="this one alone, see config.py")
  parser.add_argument("--batches", type=pathlib.Path, required=True)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  args = parser.parse_args()
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # for other processes
  try:
    jobs = run.make_jobs(args.table, args.row)
  except ValueError as error:
    parser.error(str(error))
  work(make_programs(jobs), args.batches, args.out)


if __name__ == "__main__":
  main()
