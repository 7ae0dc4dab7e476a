"""A whole training step beside MaxText's, both as the TPU compiler leaves them, no TPU.

  PYTHONPATH=. python experiments/2612_maxtext_step/run.py --maxtext PYTHON

compiles training steps of one decoder for v5p:2x2x1, ours here, MaxText's with its own
`train_compile` in the environment of PYTHON, and reads both with `mhmoe_jax.plan`.
Appends a row per program to results/steps.jsonl, keeps those that are there, and prints
the table of README.md. Times are lower bounds: operations at the chip's peak rates,
links at theirs.
"""

import argparse
import json
import math
import pathlib
import time
from typing import NamedTuple

import peer

from configs import base
from mhmoe_jax.plan.chips import CHIPS
from mhmoe_jax.plan.compile import collective_seconds, compile_step, devices_of
from mhmoe_jax.plan.costs import read_costs
from mhmoe_jax.train.config import RunConfig, resolve

TOPOLOGY, CHIP, CHIPS_USED = "v5p:2x2x1", CHIPS["v5p"], 4
WIDTH, LAYERS, ATTENTION_HEADS, VOCABULARY = 768, 12, 12, 32_000
SEQUENCES, LENGTH = 8, 2_048  # a chip
BALANCE = 0.01
GOAL = 0.85  # of MaxText's best
MEASURED = (
  "compute_seconds",
  "collective_seconds",
  "bytes",
  "flops",
  "temporaries",
)
PATH = pathlib.Path(__file__).parent / "results" / "steps.jsonl"


class Case(NamedTuple):
  """A row of the table: the layer, the mesh, and how each side is compiled."""

  num_experts: int
  expert_dim: int
  top_k: int
  expert_axis: int  # devices that share the experts; parameters are split over the rest
  theirs: tuple[str, ...]  # "WAY, REMAT" of `peer`
  ours: tuple[str, ...]  # "DISPATCH, REMAT"


_FULL = ("megablox, full", "megablox, attention and experts kept")
_OURS = ("sorted, blocks", "sorted, projections")
_CAPACITY = ("capacity, blocks", "capacity, projections")
CASES = {
  "FSDP 4, 8 experts, nothing recomputed": Case(
    *(8, 2048, 2, 1),
    theirs=("megablox, products kept", "dropping, products kept"),
    ours=("sorted, none", "sorted, norms", "capacity, none", "capacity, norms"),
  ),
  "FSDP 4, 8 experts, full remat": Case(
    *(8, 2048, 2, 1), theirs=(*_FULL, "dropping, full"), ours=(*_OURS, *_CAPACITY)
  ),
  "FSDP 4, 64 experts, full remat": Case(
    *(64, 256, 8, 1), theirs=_FULL, ours=(*_OURS, *_CAPACITY)
  ),
  "expert axis 4, 8 experts, full remat": Case(
    *(8, 2048, 2, 4),
    theirs=("megablox, full", "megablox ring, full", "dropping, full"),
    ours=(*_OURS, *_CAPACITY, "rounds, blocks", "rounds, projections"),
  ),
}


def make_config(case: Case, dispatch: str, remat: str) -> RunConfig:
  """Ours."""
  config = base.get_config()
  config.data.vocabulary, config.data.sequence_length = "bytes", LENGTH
  config.train.batch_size = SEQUENCES * CHIPS_USED
  config.mesh.data = CHIPS_USED // case.expert_axis
  config.mesh.expert = case.expert_axis
  config.mesh.fsdp = True
  config.objective.balance_weight = BALANCE
  model = config.model
  model.update(
    vocab_size=VOCABULARY,
    num_layers=LAYERS,
    embed_dim=WIDTH,
    num_attention_heads=ATTENTION_HEADS,
    ffn="smoe",
    moe_every=1,
    activation="swiglu",
    tie_embeddings=False,
    dtype="bfloat16",
    remat=remat,
  )
  model.moe.update(
    num_experts=case.num_experts,
    expert_dim=case.expert_dim,
    top_k=case.top_k,
    renormalize=True,
    dispatch=dispatch,
    capacity_factor=peer.CAPACITY,
  )
  return resolve(config)


def their_settings(case: Case, way: str, remat: str) -> dict:
  """MaxText's, of the same decoder."""
  return {
    "decoder_block": "mixtral",
    "base_emb_dim": WIDTH,
    "base_num_decoder_layers": LAYERS,
    "base_num_query_heads": ATTENTION_HEADS,
    "base_num_kv_heads": ATTENTION_HEADS,
    "head_dim": WIDTH // ATTENTION_HEADS,
    "vocab_size": VOCABULARY,
    "num_experts": case.num_experts,
    "num_experts_per_tok": case.top_k,
    "base_mlp_dim": case.expert_dim,
    "base_moe_mlp_dim": case.expert_dim,
    "load_balance_loss_weight": BALANCE,
    "max_target_length": LENGTH,
    "per_device_batch_size": SEQUENCES,
    "ici_expert_parallelism": case.expert_axis,
    "ici_fsdp_parallelism": CHIPS_USED // case.expert_axis,
    **peer.WAYS[way],
    **peer.REMATS[remat],
  }


def measure_ours(case: Case, dispatch: str, remat: str) -> dict:
  """A program of ours."""
  found = compile_step(make_config(case, dispatch, remat), TOPOLOGY, quick=True)
  return {name: getattr(found, name) for name in MEASURED}


def measure_theirs(case: Case, way: str, remat: str, python: str) -> dict:
  """A program of MaxText's, compiled by the interpreter `python`."""
  text, temporaries = peer.compile_step(python, their_settings(case, way, remat))
  text = peer.state_kernels(text, SEQUENCES * LENGTH * case.top_k)
  costs = read_costs(text, CHIP.flops, CHIP.bandwidth)
  talk = sum(collective_seconds(c, CHIP) for c in costs.collectives)
  found = (costs.seconds, talk, costs.bytes, costs.flops, temporaries)
  return dict(zip(MEASURED, found, strict=True))


def key_of(row: dict) -> tuple[str, str, str]:
  """What identifies a row of the results."""
  return row["case"], row["system"], row["program"]


def describe(rows: list[dict]) -> str:
  """The tables of README.md."""
  lines = [
    "| | computation + communication, ms | HBM, GB | temporaries, GiB | FLOPs, 1e12 |",
    "|---|---|---|---|---|",
  ]
  verdicts = [
    "| best of a row, ms | ours | MaxText | ratio | at most 0.85? |",
    "|---|---|---|---|---|",
  ]
  for name in CASES:
    lines.append(f"| **{name}** | | | | |")
    best = {}
    for row in rows:
      if row["case"] != name:
        continue
      compute, talk = (1e3 * row[key] for key in MEASURED[:2])
      program = f"{row['system']} {row['program']}"
      cells = f"{row['bytes'] / 1e9:.0f} | {row['temporaries'] / 2**30:.1f}"
      cells += f" | {row['flops'] / 1e12:.1f}"
      lines.append(f"| {program} | {compute:.1f} + {talk:.1f} | {cells} |")
      total = compute + talk
      best[row["system"]] = min(best.get(row["system"], (math.inf,)), (total, program))
    if len(best) == 2:
      (ours, what), (theirs, beside) = best["ours"], best["MaxText"]
      ratio = ours / theirs
      met = "yes" if ratio <= GOAL else "no"
      cells = f"{ours:.1f} ({what}) | {theirs:.1f} ({beside}) | {ratio:.2f} | {met}"
      verdicts.append(f"| {name} | {cells} |")
  return "\n".join([*lines, "", *verdicts])


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--maxtext", required=True, help="python that has MaxText")
  python = parser.parse_args().maxtext
  devices_of(TOPOLOGY)  # which tells libtpu to be quiet, in processes begun here too
  PATH.parent.mkdir(exist_ok=True)
  text = PATH.read_text() if PATH.exists() else ""
  rows = [json.loads(line) for line in text.splitlines()]
  done = set(map(key_of, rows))
  every = [
    (name, system, program)
    for name, case in CASES.items()
    for system, programs in (("MaxText", case.theirs), ("ours", case.ours))
    for program in programs
  ]
  todo = [x for x in every if x not in done]
  for i, (name, system, program) in enumerate(todo, 1):
    start = time.perf_counter()
    how = program.split(", ")
    if system == "ours":
      found = measure_ours(CASES[name], *how)
    else:
      found = measure_theirs(CASES[name], *how, python)
    rows.append({"case": name, "system": system, "program": program} | found)
    with PATH.open("a") as file:
      file.write(json.dumps(rows[-1]) + "\n")
    seconds = time.perf_counter() - start
    print(f"{i}/{len(todo)} {name}: {system} {program}, {seconds:.0f} s", flush=True)
  print(describe(sorted(rows, key=lambda row: every.index(key_of(row)))))


if __name__ == "__main__":
  main()
