"""Is a dense model better trained on, or upcycled, if either may spend as many FLOPs?

  PYTHONPATH=. python experiments/2611_upcycling/run.py

trains a small dense model on the bundled corpus, three seeds; then goes on from each
in three ways, all with a fresh optimizer and one schedule: dense as it is, upcycled to
an SMoE, upcycled to an MH-MoE. Steps are cut so that each way does the same work.
Rows go to results/rows.jsonl; those that are there are kept, and a run that was
stopped goes on.
"""

import json
import os
import pathlib

from ml_collections import ConfigDict

from configs import base
from mhmoe_jax.checkpoints import restore
from mhmoe_jax.interop import runs, upcycling
from mhmoe_jax.plan.accounting import count_flops, count_parameters
from mhmoe_jax.train import loop
from mhmoe_jax.train.config import resolve

HOME = pathlib.Path(__file__).parent
RUNS = HOME.parent.parent / "runs" / "upcycling"
SEEDS = (0, 1, 2)
STEPS = 1_000  # of the dense model, before and after
FFN_DIM = 128
WAYS = {
  "dense": {"ffn": "dense"},
  "smoe": {
    "ffn": "smoe",
    "moe": {"expert_dim": FFN_DIM, "num_experts": 8, "renormalize": True},
  },
  "mhmoe": {
    "ffn": "mhmoe",
    "moe": {"shared_dim": FFN_DIM, "num_experts": 16, "expert_dim": FFN_DIM},
  },
}


def make_config(way: str, seed: int) -> ConfigDict:
  """A way's config, of the dense model's steps."""
  config = base.get_config()
  config.model.update({"num_layers": 2, "embed_dim": 64, "ffn_dim": FFN_DIM})
  config.model.update({"num_attention_heads": 2, "activation": "swiglu"})
  config.model.scan_unroll = 2
  config.model.moe_every = 1
  change = dict(WAYS[way])
  config.model.moe.update(change.pop("moe", {}))
  config.model.update(change)
  config.data.sequence_length = 64
  config.data.shuffle_buffer = 20_000  # all of the corpus
  config.data.seed = config.train.seed = seed
  config.optimizer.update({"learning_rate": 3e-3, "schedule": "linear"})
  config.optimizer.update({"final_fraction": 0.0, "warmup_steps": 50})
  config.mesh.data = 1
  config.train.update({"batch_size": 16, "num_steps": STEPS, "log_every": 100})
  config.train.update({"checkpoint_every": STEPS, "image_every": 0, "keep_last": 1})
  config.train.eval_every = STEPS
  return config


def go_on(way: str, seed: int, dense: str) -> dict:
  """Trains one way on from a dense run; the row of it."""
  config = make_config(way, 100 + seed)  # Other batches than before.
  cfg = resolve(config)
  spent = count_flops(resolve(make_config("dense", seed))).training
  ratio = count_flops(cfg).training / spent
  config.train.num_steps = round(STEPS / ratio)
  config.train.eval_every = -(-config.train.num_steps // 4)
  workdir = str(RUNS / f"{way}_{seed}")
  if not os.path.exists(workdir):
    if way == "dense":
      runs.start_run(config, workdir, restore.load_model(dense)[1])
    else:
      print(upcycling.upcycle(dense, config, workdir))
  result = loop.train(config, workdir)
  lines = pathlib.Path(workdir, "metrics.jsonl").read_text().splitlines()
  curve = [r for r in map(json.loads, lines) if "valid/bits_per_byte" in r]
  return {
    "way": way,
    "seed": seed,
    "parameters": count_parameters(cfg.task).total,
    "flops_ratio": ratio,
    "steps": config.train.num_steps,
    "bits_per_byte": result.evaluation.bits_per_byte,
    "curve": [[r["step"], r["valid/bits_per_byte"]] for r in curve],
  }


def main() -> None:
  """Trains what is missing, and prints the table."""
  path = HOME / "results" / "rows.jsonl"
  path.parent.mkdir(exist_ok=True)
  text = path.read_text() if path.exists() else ""
  rows = [json.loads(line) for line in text.splitlines()]
  done = {(row["way"], row["seed"]) for row in rows}
  for seed in SEEDS:
    dense = str(RUNS / f"before_{seed}")
    for way in ("before", *WAYS):
      if (way, seed) in done:
        continue
      if way == "before":
        result = loop.train(make_config("dense", seed), dense)
        row = {"way": way, "seed": seed, "steps": STEPS}
        row["bits_per_byte"] = result.evaluation.bits_per_byte
      else:
        row = go_on(way, seed, dense)
      rows.append(row)
      with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
  print(
    "| | parameters | FLOPs a token | steps | bits per byte, seeds 0, 1, 2 | mean |"
  )
  print("|---|---|---|---|---|---|")
  for way in ("before", *WAYS):
    of = sorted((r for r in rows if r["way"] == way), key=lambda r: r["seed"])
    found = [r["bits_per_byte"] for r in of]
    size = f"{of[0]['parameters']:,}" if way != "before" else ""
    work = f"{of[0]['flops_ratio']:.2f} x dense" if way != "before" else ""
    print(
      f"| {way} | {size} | {work} | {of[0]['steps']:,} | "
      f"{', '.join(f'{x:.3f}' for x in found)} | {sum(found) / len(found):.3f} |"
    )


if __name__ == "__main__":
  main()
