"""Seconds a training step of the papers' own models takes on four v5p chips.

The compiler tells; no TPU is needed.

  pip install libtpu; python pod_cost.py

By the compiler: every operation at the chip's peak rates, and nothing of the
communication hidden. Appends to results/pod_cost.jsonl; rows that are there are kept.
"""

import json
import pathlib

from configs.paper1 import english
from configs.paper2 import redpajama
from mhmoe_jax.plan.compile import compile_step
from mhmoe_jax.train.config import resolve

TOPOLOGY = "v5p:2x2x1"
SEQUENCES = 32  # eight a chip
MODELS = {
  "paper 1, dense": (english, "dense"),
  "paper 1, X-MoE, 8 experts": (english, "xmoe_8"),
  "paper 1, MH-MoE, 8 experts": (english, "mhmoe_8"),
  "paper 2, dense": (redpajama, "dense"),
  "paper 2, SMoE": (redpajama, "smoe"),
  "paper 2, fine-grained": (redpajama, "finegrained"),
  "paper 2, MH-MoE, h = 2": (redpajama, "mhmoe_h2"),
  "paper 2, MH-MoE, h = 3": (redpajama, "mhmoe_h3"),
}
RESULTS = pathlib.Path(__file__).parent / "results" / "pod_cost.jsonl"


def measure(name: str) -> dict:
  """A row of the results."""
  module, row = MODELS[name]
  config = module.get_config(row)
  config.train.batch_size = SEQUENCES
  config.train.accumulate_steps = 1
  config.mesh.data = 4
  cfg = resolve(config)
  found = compile_step(cfg, TOPOLOGY, quick=True)
  tokens = SEQUENCES * cfg.data.sequence_length
  return {
    "model": name,
    "tokens": tokens,
    "compute_seconds": found.compute_seconds,
    "collective_seconds": found.collective_seconds,
    "flops": found.flops,
    "bytes": found.bytes,
    "needed": found.needed,
  }


def main():
  text = RESULTS.read_text() if RESULTS.exists() else ""
  rows = {r["model"]: r for r in map(json.loads, text.splitlines())}
  for name in MODELS:
    if name not in rows:
      rows[name] = measure(name)
      with RESULTS.open("a") as file:
        file.write(json.dumps(rows[name]) + "\n")
    r = rows[name]
    compute, talk = 1e3 * r["compute_seconds"], 1e3 * r["collective_seconds"]
    print(
      f"{name:28} {r['tokens']} tokens  {compute:6.1f} + {talk:4.1f} ms  "
      f"{r['flops']:.2e} FLOPs  {r['bytes'] / 2**30:6.1f} GiB a chip"
    )


if __name__ == "__main__":
  main()
