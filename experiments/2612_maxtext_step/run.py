"""A whole training step beside MaxText's, both as the TPU compiler leaves them, no TPU.

  PYTHONPATH=. python experiments/2612_maxtext_step/run.py --maxtext PYTHON

compiles training steps of one decoder for v5p:2x2x1, ours here, MaxText's with its own
`train_compile` in the environment of PYTHON, and reads both with `mhmoe_jax.plan`.
Appends a row per program to results/steps.jsonl, keeps those that are there, and prints
the table of README.md. Times are lower bounds: operations at the chip's peak rates,
links at theirs.
"""

import argparse
from collections.abc import Iterator
import json
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
  alike: tuple[tuple[str, str], ...]  # ours and theirs that compute the same again


_KEPT = ("megablox, products kept", "megablox, attention and experts kept")
_FULL = ("megablox, full", "megablox, attention and outputs kept")
_NONE = ("sorted, none", "sorted, norms", "capacity, none", "capacity, norms")
_OURS = ("sorted, blocks", "sorted, projections")
_CAPACITY = ("capacity, blocks", "capacity, projections")
_ROUNDS = ("rounds, blocks", "rounds, projections")
_DROPPING = ("dropping, full", "dropping, attention and outputs kept")
_ALIKE = tuple(zip(_OURS, _FULL, strict=True))
CASES = {
  "FSDP 4, 8 experts, nothing recomputed": Case(
    *(8, 2048, 2, 1),
    theirs=(*_KEPT, "dropping, products kept"),
    ours=_NONE,
    alike=(
      ("sorted, norms", "megablox, products kept"),
      ("capacity, norms", "dropping, products kept"),
    ),
  ),
  "FSDP 4, 8 experts, full remat": Case(
    *(8, 2048, 2, 1),
    theirs=(*_FULL, "dropping, full"),
    ours=(*_OURS, *_CAPACITY),
    alike=(*_ALIKE, ("capacity, blocks", "dropping, full")),
  ),
  "FSDP 4, 64 experts, nothing recomputed": Case(
    *(64, 256, 8, 1),
    theirs=_KEPT,
    ours=_NONE,
    alike=(("sorted, norms", "megablox, products kept"),),
  ),
  "FSDP 4, 64 experts, full remat": Case(
    *(64, 256, 8, 1), theirs=_FULL, ours=(*_OURS, *_CAPACITY), alike=_ALIKE
  ),
  "expert axis 4, 8 experts, full remat": Case(
    *(8, 2048, 2, 4),
    theirs=("megablox, full", "megablox ring, full", *_DROPPING),
    ours=(*_OURS, *_CAPACITY, *_ROUNDS),
    alike=(
      *zip(_ROUNDS, _DROPPING, strict=True),
      *zip(_CAPACITY, _DROPPING, strict=True),
      ("rounds, blocks", "megablox, full"),
      ("sorted, blocks", "megablox ring, full"),
    ),
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


def read() -> list[dict]:
  """The rows that are there."""
  return list(map(json.loads, PATH.read_text().splitlines())) if PATH.exists() else []


def programs() -> Iterator[tuple[str, str, str]]:
  """Keys of all rows, in the table's order."""
  for name, case in CASES.items():
    for system, those in (("MaxText", case.theirs), ("ours", case.ours)):
      yield from ((name, system, program) for program in those)


def describe(rows: list[dict]) -> str:
  """The tables of README.md."""
  found = {key_of(row): row for row in rows}
  every = [
    "| | computation + communication, ms | HBM, GB | temporaries, GiB | FLOPs, 1e12 |",
    "|---|---|---|---|---|",
  ]
  best = [
    "| best of a row, ms | ours | MaxText | ratio | at most 0.85? |",
    "|---|---|---|---|---|",
  ]
  alike = [
    "| the same computed again | ours | MaxText | time | HBM | temporaries |",
    "|---|---|---|---|---|---|",
  ]
  for name, case in CASES.items():
    here = [found[key] for key in programs() if key[0] == name and key in found]
    every += [f"| **{name}** | | | | |", *map(_cells, here)]
    least = [
      min((row for row in here if row["system"] == system), key=_total, default=None)
      for system in ("ours", "MaxText")
    ]
    if all(least):
      ours, theirs = map(_total, least)
      cells = [f"{1e3 * _total(row):.1f} ({row['program']})" for row in least]
      met = "yes" if ours / theirs <= GOAL else "no"
      best.append(f"| {name} | {' | '.join(cells)} | {ours / theirs:.2f} | {met} |")
    for pair in case.alike:
      ours, theirs = (
        found.get((name, *key)) for key in zip(("ours", "MaxText"), pair, strict=True)
      )
      if ours and theirs:
        ratios = (
          _total(ours) / _total(theirs),
          *(ours[key] / theirs[key] for key in ("bytes", "temporaries")),
        )
        cells = " | ".join([*pair, *(f"{ratio:.2f}" for ratio in ratios)])
        alike.append(f"| {name} | {cells} |")
  return "\n".join([*every, "", *best, "", *alike])


def _total(row: dict) -> float:
  return row["compute_seconds"] + row["collective_seconds"]


def _cells(row: dict) -> str:
  compute, talk = (1e3 * row[f"{kind}_seconds"] for kind in ("compute", "collective"))
  return (
    f"| {row['system']} {row['program']} | {compute:.1f} + {talk:.1f}"
    f" | {row['bytes'] / 1e9:.0f} | {row['temporaries'] / 2**30:.1f}"
    f" | {row['flops'] / 1e12:.1f} |"
  )


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--maxtext", required=True, help="python that has MaxText")
  python = parser.parse_args().maxtext
  devices_of(TOPOLOGY)  # which tells libtpu to be quiet, in processes begun here too
  PATH.parent.mkdir(exist_ok=True)
  done = set(map(key_of, read()))
  todo = [key for key in programs() if key not in done]
  for i, (name, system, program) in enumerate(todo, 1):
    start = time.perf_counter()
    how = program.split(", ")
    if system == "ours":
      found = measure_ours(CASES[name], *how)
    else:
      found = measure_theirs(CASES[name], *how, python)
    row = {"case": name, "system": system, "program": program} | found
    with PATH.open("a") as file:
      file.write(json.dumps(row) + "\n")
    seconds = time.perf_counter() - start
    print(f"{i}/{len(todo)} {name}: {system} {program}, {seconds:.0f} s", flush=True)
  print(describe(read()))


if __name__ == "__main__":
  main()
