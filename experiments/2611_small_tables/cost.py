"""Seconds of a training step of each 8-expert model: taskset -c 0 python cost.py

The models take turns, so that what else runs hits them all. The least time of each is
told, which other work disturbs least, and its ratio to the dense model's.
"""

import json
import os
import pathlib
import time

import config as rows
import jax
import jax.numpy as jnp
import numpy as np

from mhmoe_jax.train.config import resolve
from mhmoe_jax.train.optimizer import make_optimizer
from mhmoe_jax.train.state import make_state
from mhmoe_jax.train.step import make_train_step

TURNS = 25
ROWS = ("dense", *(f"{kind}_8" for kind in rows.KINDS[1:]))
RESULTS = pathlib.Path(__file__).parent / "results" / "cost.jsonl"


def make_batch(batch_size: int, length: int, vocab_size: int) -> dict:
  """Tokens at random."""
  tokens_BL = np.random.default_rng(0).integers(3, vocab_size, (batch_size, length + 1))
  return {
    "inputs": jnp.asarray(tokens_BL[:, :-1], jnp.int32),
    "targets": jnp.asarray(tokens_BL[:, 1:], jnp.int32),
    "positions": jnp.tile(jnp.arange(length, dtype=jnp.int32), (batch_size, 1)),
    "segments": jnp.ones((batch_size, length), jnp.int32),
    "weights": jnp.ones((batch_size, length)),
  }


def make_run(row: str):
  """A function that trains one step and waits for it."""
  cfg = resolve(rows.get_config(row))
  optimizer = make_optimizer(cfg.optimizer, cfg.train.num_steps)
  state = jax.jit(lambda: make_state(cfg.task, optimizer, 0))()
  step = jax.jit(make_train_step(cfg.task, optimizer, 1), donate_argnums=0)
  batch = make_batch(
    cfg.train.batch_size, cfg.data.sequence_length, cfg.model.vocab_size
  )

  def run():
    nonlocal state
    state, _ = jax.block_until_ready(step(state, batch))

  return run


def main():
  load = os.getloadavg()[0]
  programs = {row: make_run(row) for row in ROWS}
  times = {row: [] for row in ROWS}
  for turn in range(TURNS + 1):
    for row, program in programs.items():
      start = time.perf_counter()
      program()
      if turn:  # The first one compiles.
        times[row].append(time.perf_counter() - start)
  least = {row: min(t) for row, t in times.items()}
  RESULTS.parent.mkdir(exist_ok=True)
  with RESULTS.open("w") as file:
    for row, seconds in least.items():
      ratio = seconds / least["dense"]
      result = {"row": row, "seconds": seconds, "of_dense": ratio, "load_before": load}
      file.write(json.dumps(result) + "\n")
      print(f"{row:14} {1e3 * seconds:6.1f} ms  {ratio:.2f} x dense")


if __name__ == "__main__":
  main()
