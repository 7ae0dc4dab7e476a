"""Seconds of a training step of the main table's models: cost.py --out runs/cost

On one core of this machine: the least time of a step, which other work disturbs least,
in processes that take turns. On a TPU v5p, without one (needs libtpu): the compiler's
lower bound for four chips and 4 x 8,192 tokens in bfloat16, every operation at the
chip's peak rates and no communication hidden. Writes OUT/cost.jsonl.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

import config as rows
import jax
import numpy as np
import run

from mhmoe_jax import allocator
from mhmoe_jax.plan.compile import compile_step
from mhmoe_jax.train.config import resolve
from mhmoe_jax.train.optimizer import make_optimizer
from mhmoe_jax.train.state import make_state
from mhmoe_jax.train.step import make_train_step

TOPOLOGY, CHIPS = "v5p:2x2x1", 4
TURNS, STEPS = 3, 20
FLAGS = "--xla_cpu_multi_thread_eigen=false"


def config_of(row: str):
  """The row's config; a vocabulary of the same size that needs no file."""
  config = rows.get_config(row)
  config.data.vocabulary = "bytes"
  return config


def seconds_here(row: str) -> float:
  """The least time of a step in this process."""
  cfg = resolve(config_of(row))
  allocator.keep_freed_memory()  # as training does
  optimizer = make_optimizer(cfg.optimizer, cfg.train.num_steps)
  state = jax.jit(lambda: make_state(cfg.task, optimizer, 0))()
  step = jax.jit(make_train_step(cfg.task, optimizer, 1), donate_argnums=0)
  B, L = cfg.train.batch_size, cfg.data.sequence_length
  tokens_BL = np.random.default_rng(0).integers(3, cfg.model.vocab_size, (B, L + 1))
  batch = {
    "inputs": tokens_BL[:, :-1].astype(np.int32),
    "targets": tokens_BL[:, 1:].astype(np.int32),
    "positions": np.tile(np.arange(L, dtype=np.int32), (B, 1)),
    "segments": np.ones((B, L), np.int32),
    "weights": np.ones((B, L), np.float32),
  }
  times = []
  for _ in range(STEPS + 1):
    start = time.perf_counter()
    state, _ = jax.block_until_ready(step(state, batch))
    times.append(time.perf_counter() - start)
  return min(times[1:])  # The first one compiles.


def seconds_v5p(row: str) -> float:
  """The compiler's lower bound of a step."""
  config = config_of(row)
  config.model.dtype = "bfloat16"
  config.train.batch_size = 64 * CHIPS
  config.mesh.data = CHIPS
  found = compile_step(resolve(config), TOPOLOGY)
  return found.compute_seconds + found.collective_seconds


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parser.add_argument("--row", help="only this row, in this process; prints seconds")
  args = parser.parse_args()
  if args.row:
    print(seconds_here(args.row))
    return
  times = {row: [] for row in run.MAIN}
  core = min(os.sched_getaffinity(0))
  os.sched_setaffinity(0, {core})  # The processes inherit it.
  environment = os.environ | {"XLA_FLAGS": FLAGS, "JAX_PLATFORMS": "cpu"}
  for _ in range(TURNS):
    for row in run.MAIN:
      command = [sys.executable, __file__, "--out", str(args.out), "--row", row]
      told = subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
      )
      times[row].append(float(told.stdout.split()[-1]))
  args.out.mkdir(parents=True, exist_ok=True)
  with (args.out / "cost.jsonl").open("w") as file:
    for row in run.MAIN:
      result = {"row": row, "cpu": times[row], "v5p": seconds_v5p(row)}
      file.write(json.dumps(result) + "\n")
      print(f"{row:20} {1e3 * min(times[row]):6.1f} ms  {1e3 * result['v5p']:.3f} ms")


if __name__ == "__main__":
  main()
