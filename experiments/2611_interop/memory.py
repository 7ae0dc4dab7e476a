"""How much memory does an export need, of a model larger than two of its shards?

  PYTHONPATH=. python experiments/2611_interop/memory.py runs/interop_memory

makes a run of some 600 MB of parameters (once) and exports it in shards of 100 MB, in a
process of its own whose peak is measured; what that process has before it begins, with
jax and the rest loaded, is taken off.
"""

import pathlib
import re
import shutil
import subprocess
import sys

SHARD = 100
MAKE = """
import jax
from mhmoe_jax.interop import runs
from mhmoe_jax.train.config import resolve
from mhmoe_jax.tasks.language import init_params
cfg = resolve(config)
layout = jax.tree.map(lambda x: x.sharding, runs.lay_out(cfg)["params"])
make = jax.jit(lambda: init_params(cfg.model, jax.random.key(0)), out_shardings=layout)
runs.start_run(config, {run!r}, make())
"""
CONFIG = """
from configs import base
config = base.get_config()
config.model.update({{"num_layers": 12, "embed_dim": {width}, "activation": "swiglu"}})
config.model.update({{"ffn": "smoe", "moe_every": 1, "scan_unroll": 1}})
config.model.moe.update({{"num_experts": 16, "expert_dim": {width}}})
config.model.moe.renormalize = True
config.mesh.data = 1
"""
MEASURE = """
from mhmoe_jax.interop import card, exporting
from mhmoe_jax.train.config import resolve
card.write_card = lambda *_: ""  # Counting FLOPs is no part of the question.

def resident(name):
  status = open("/proc/self/status").read()
  return int(status.split(name + ":")[1].split()[0]) / 1e3

cfg = resolve(config)
before = resident("VmHWM")
files = exporting.export_model(cfg, {run!r}, {out!r}, shard_bytes={shard} * 10**6)
print(files, before, resident("VmHWM"))
"""


def python(program: str) -> str:
  """Runs a program; what it printed."""
  run = subprocess.run(
    [sys.executable, "-c", program], check=True, capture_output=True, text=True
  )
  return run.stdout


def main(folder: str) -> None:
  """Prints megabytes, for a small model and for the large one."""
  for name, width in (("small", 64), ("large", 512)):
    run, out = (str(pathlib.Path(folder) / f"{name}_{x}") for x in ("run", "out"))
    config = CONFIG.format(width=width)
    if not pathlib.Path(run).exists():
      python(config + MAKE.format(run=run))
    shutil.rmtree(out, ignore_errors=True)
    shown = python(config + MEASURE.format(run=run, out=out, shard=SHARD))
    files, before, peak = map(float, re.findall(r"[\d.]+", shown))
    size = sum(f.stat().st_size for f in pathlib.Path(out).glob("*.safetensors")) / 1e6
    print(
      f"{name}: {size:,.0f} MB in {files:.0f} files of at most {SHARD}; resident "
      f"{before:,.0f} MB before, {peak:,.0f} at most: {peak - before:,.0f} more"
    )


if __name__ == "__main__":
  main(*sys.argv[1:])
