"""The pod configs by the compiler: the table of docs/pods.md and what configs/pod say.

  pip install libtpu
  PYTHONPATH=. python experiments/2611_pod_plans/run.py

compiles each as `mhmoe plan --json` does and appends a row to results/plans.jsonl; rows
that are there are kept, so that deleting one measures it again. Then it prints the
table and the sentences, which a test holds the pages to.
"""

import importlib
import json
import pathlib

from mhmoe_jax.plan.accounting import count_parameters
from mhmoe_jax.plan.report import plan_step
from mhmoe_jax.train.config import resolve

RESULTS = pathlib.Path(__file__).parent / "results" / "plans.jsonl"
# Config, topology and slices of it.
PLANS = (
  ("paper2_h3", "v5e:4x4", 1),
  ("paper1_256", "v5p:4x4x4", 1),
  ("paper1_256", "v6e:8x8", 1),
  ("multimodal", "v5p:4x4x4", 1),
  ("large", "v5p:4x8x8", 2),
)
HEADER = (
  "config",
  "parameters",
  "chips",
  "memory a chip",
  "step: computation + communication",
  "MFU at most",
)


def measure(name: str, topology: str, slices: int) -> dict:
  """A row of the results."""
  config = importlib.import_module(f"configs.pod.{name}").get_config()
  config.mesh.replica = max(config.mesh.replica, slices)
  cfg = resolve(config)
  about = {"config": name, "topology": topology, "slices": slices}
  about["parameters"] = count_parameters(cfg.task).total
  return about | json.loads(plan_step(cfg, topology, slices, quick=True).json())


def read() -> list[dict]:
  """The rows that are there, in the order of `PLANS`."""
  text = RESULTS.read_text() if RESULTS.exists() else ""
  rows = list(map(json.loads, text.splitlines()))
  key = [(row["config"], row["topology"], row["slices"]) for row in rows]
  return [rows[key.index(plan)] for plan in PLANS if plan in key]


def cells(row: dict) -> tuple[str, ...]:
  """A row of the table."""
  step = row["step"]
  chip, slices = step["chip"], row["slices"]
  count = step["num_devices"] // chip["devices"] // slices
  chips = f"{count} {chip['name']}"
  compute, talk = (1e3 * step[f"{kind}_seconds"] for kind in ("compute", "collective"))
  hidden, serial = step["utilization"]
  return (
    f"`pod/{row['config']}.py`",
    f"{row['parameters'] / 1e9:.3g} B",
    chips if slices == 1 else f"{slices} slices of {chips}",
    _memory(step),
    f"{compute:.0f} + {talk:.0f} ms",
    f"{100 * serial:.1f} - {100 * hidden:.1f} %",
  )


def table(rows: list[dict]) -> str:
  """For docs/pods.md."""
  lines = [HEADER, ("---",) * len(HEADER), *map(cells, rows)]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def sentence(row: dict) -> str:
  """For the docstring of the config."""
  step = row["step"]
  compute, talk = (1e3 * step[f"{kind}_seconds"] for kind in ("compute", "collective"))
  hidden, serial = step["utilization"]
  return (
    f"On {step['chip']['name']} {_memory(step)} a chip; at peak rates {compute:.0f} ms "
    f"of computation and {talk:.0f} ms of communication a step of "
    f"{step['tokens']:,} tokens, so {100 * serial:.1f} to {100 * hidden:.1f} % MFU at "
    "most."
  )


def _memory(step: dict) -> str:
  needed, usable = step["needed"] / 2**30, step["chip"]["usable"] / 2**30
  return f"{needed:.1f} of {usable:.4g} GiB"


def main():
  done = {(row["config"], row["topology"], row["slices"]) for row in read()}
  for plan in PLANS:
    if plan not in done:
      row = measure(*plan)
      with RESULTS.open("a") as file:
        file.write(json.dumps(row) + "\n")
      print(f"{plan}: compiled in {row['step']['compile_seconds']:.0f} s")
  print(table(read()), *map(sentence, read()), sep="\n\n")


if __name__ == "__main__":
  main()
