"""What a chip pays as the pod grows, at fixed work per chip: by the compiler, no TPU.

  PYTHONPATH=. python experiments/2611_scaling/run.py

compiles the training step of a model of the second paper's kind for 4 to 1,024 v5p
chips, 8 sequences of 2,048 tokens a chip, in seven layouts; appends a row per program
to results/scaling.jsonl and draws results/scaling.png. Rows that are there are kept.
Times are lower bounds: operations at the chip's peak rates, links at theirs.
"""

import collections
import json
import pathlib

import matplotlib.pyplot as plt

from configs.paper2 import redpajama
from mhmoe_jax.plan.compile import compile_step
from mhmoe_jax.train.config import resolve

RESULTS = pathlib.Path(__file__).parent / "results"
TOPOLOGIES = {
  4: "v5p:2x2x1",
  16: "v5p:2x2x4",
  64: "v5p:4x4x4",
  256: "v5p:4x8x8",
  1024: "v5p:8x8x16",
}
SEQUENCES = 8  # a chip
EXPERTS = 256
# Layout: dispatch, and how many devices share the experts; the rest are data parallel.
LAYOUTS = {
  "no expert axis": ("sorted", lambda chips: 1),
  "ring, experts over 16": ("sorted", lambda chips: min(chips, 16)),
  "ring, experts over all": ("sorted", lambda chips: min(chips, EXPERTS)),
  "all-to-all, experts over 16": ("capacity", lambda chips: min(chips, 16)),
  "all-to-all, experts over all": ("capacity", lambda chips: min(chips, EXPERTS)),
  "rounds, experts over 16": ("rounds", lambda chips: min(chips, 16)),
  "rounds, experts over all": ("rounds", lambda chips: min(chips, EXPERTS)),
}


def make_config(layout: str, chips: int):
  """One layout's config on so many chips."""
  dispatch, expert = LAYOUTS[layout]
  config = redpajama.get_config("mhmoe_h3")
  model = config.model
  model.embed_dim = 1536
  model.ffn_dim = 4096
  model.remat = "blocks"
  model.moe.num_experts = EXPERTS
  model.moe.expert_dim = 1024
  model.moe.dispatch = dispatch
  model.moe.capacity_factor = 1.25
  config.mesh.expert = expert(chips)
  # Parameters can be split over at most as many devices as divide their dimensions.
  config.mesh.data = min(chips // config.mesh.expert, 256)
  config.mesh.replica = chips // config.mesh.expert // config.mesh.data
  config.mesh.fsdp = True
  config.train.batch_size = SEQUENCES * chips
  return config


def measure(layout: str, chips: int) -> dict:
  """A row of the results."""
  found = compile_step(
    resolve(make_config(layout, chips)), TOPOLOGIES[chips], quick=True
  )
  row = {"layout": layout, "chips": chips, "mesh": found.mesh, "fits": found.fits}
  row |= {"memory": found.needed, "compile_seconds": found.compile_seconds}
  if not found.fits:
    return row
  moved = collections.Counter()
  for c in found.collectives:
    moved[c.kind] += c.bytes
  return row | {
    "flops": found.flops,
    "bytes": found.bytes,
    "compute_seconds": found.compute_seconds,
    "collective_seconds": found.collective_seconds,
    "moved": dict(moved),
  }


def draw(rows: list[dict], path: pathlib.Path) -> None:
  """Seconds and memory a chip against the number of chips."""
  figure, panels = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
  titles = {
    "compute_seconds": "computation, ms a step",
    "collective_seconds": "communication, ms a step",
    "memory": "memory, GiB a chip",
  }
  for panel, (key, title) in zip(panels, titles.items(), strict=True):
    scale = 2.0**-30 if key == "memory" else 1e3
    for i, (layout, mark) in enumerate(zip(LAYOUTS, "os^vDPX", strict=True)):
      points = sorted(
        (r["chips"], r[key] * scale) for r in rows if r["layout"] == layout and key in r
      )
      panel.plot(*zip(*points, strict=True), marker=mark, color=f"C{i}", label=layout)
    panel.set(title=title, xlabel="v5p chips", xscale="log", ylim=(0, None))
    panel.set_xticks(list(TOPOLOGIES), [str(c) for c in TOPOLOGIES], minor=False)
    panel.minorticks_off()
    panel.grid(alpha=0.3)
  figure.legend(
    *panels[0].get_legend_handles_labels(), loc="outside lower center", ncol=3
  )
  figure.savefig(path, dpi=130)


def main():
  path = RESULTS / "scaling.jsonl"
  path.parent.mkdir(exist_ok=True)
  text = path.read_text() if path.exists() else ""
  rows = [json.loads(line) for line in text.splitlines()]
  done = {(row["layout"], row["chips"]) for row in rows}
  todo = [(y, n) for n in TOPOLOGIES for y in LAYOUTS if (y, n) not in done]
  for i, (layout, chips) in enumerate(todo, 1):
    rows.append(measure(layout, chips))
    with path.open("a") as file:
      file.write(json.dumps(rows[-1]) + "\n")
    seconds = rows[-1]["compile_seconds"]
    print(f"{i}/{len(todo)} {layout}, {chips} chips: compiled in {seconds:.0f} s")
  print(f"\n{'layout':36} chips  compute  talk  GiB")
  for r in rows:
    compute, talk = (
      r.get(k, 0) * 1e3 for k in ("compute_seconds", "collective_seconds")
    )
    print(
      f"{r['layout']:36} {r['chips']:5} {compute:8.1f} {talk:5.1f} "
      f"{r['memory'] / 2**30:4.1f}{'' if r['fits'] else ' does not fit'}"
    )
  draw(rows, RESULTS / "scaling.png")


if __name__ == "__main__":
  main()
