"""What `mhmoe plan` counts, against the TPU compiler, program by program.

  python experiments/2611_plan_reader/run.py

compiles programs of one operation or a few for a v5p chip, reads their HLO as `mhmoe
plan` does, and writes both times and numbers of bytes to results/reader.jsonl. Only
programs without loops: the compiler counts a loop's body once.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from mhmoe_jax.plan.chips import CHIPS
from mhmoe_jax.plan.compile import devices_of
from mhmoe_jax.plan.costs import read_costs

RESULTS = pathlib.Path(__file__).parent / "results"
CHIP = CHIPS["v5p"]
COMPILER = 0.85  # of the peak rates, which its estimates take
F, H, I = jnp.float32, jnp.bfloat16, jnp.int32


def convolve(x, w):
  layout = ("NHWC", "HWIO", "NHWC")
  return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout)


def standardize(x):
  return jax.nn.standardize(x.astype(F), axis=-1).astype(x.dtype)


PROGRAMS = {  # the function, and shapes and types of its inputs
  "product": (lambda a, b: a @ b, ((4096, 2048), H), ((2048, 8192), H)),
  "narrow product": (lambda a, b: a @ b, ((65536, 64), H), ((64, 64), H)),
  "products of experts": (
    lambda a, b: jnp.einsum("EGM,EMF->EGF", a, b),
    ((64, 1024, 256), H),
    ((64, 256, 512), H),
  ),
  "convolution": (convolve, ((32, 56, 56, 64), H), ((3, 3, 64, 128), H)),
  "sum": (lambda a, b: a + b, ((8192, 2048), F), ((8192, 2048), F)),
  "sum of three columns": (lambda a, b: a + b, ((10**6, 3), F), ((10**6, 3), F)),
  "odd widths": (
    lambda a, b: jnp.concatenate([a, b], axis=1),
    ((8192, 1000), H),
    ((8192, 1048), H),
  ),
  "norm": (standardize, ((16384, 2048), H)),
  "logsumexp": (lambda a: jax.nn.logsumexp(a, axis=-1), ((8192, 32000), F)),
  "transpose": (lambda a: a.T + 1, ((8192, 4096), F)),
  "cumulative sum": (lambda a: jnp.cumsum(a, axis=0), ((16384, 512), F)),
  "sort": (jnp.sort, ((10**6,), jnp.uint32)),
  "counts": (lambda i: jax.nn.one_hot(i, 512).sum(axis=0), ((65536,), I)),
  "update of rows": (
    lambda a, u, i: jax.lax.dynamic_update_slice(a, u, (i, 0)),
    ((65536, 1024), F),
    ((16, 1024), F),
    ((), I),
  ),
  "gather": (lambda a, i: a[i], ((8192, 512), H), ((65536,), I)),
  "scatter-add": (
    lambda a, i, u: a.at[i].add(u),
    ((32000, 1024), F),
    ((4096,), I),
    ((4096, 1024), F),
  ),
}


def measure(name: str) -> dict:
  """A row of the results: seconds and bytes, ours and the compiler's."""
  function, *inputs = PROGRAMS[name]
  layout = SingleDeviceSharding(devices_of("v5p:2x2x1")[0])
  inputs = [jax.ShapeDtypeStruct(*x, sharding=layout) for x in inputs]
  compiled = jax.jit(function).lower(*inputs).compile()
  ours = read_costs(compiled.as_text(), CHIP.flops, CHIP.bandwidth)
  theirs = compiled.cost_analysis()
  return {
    "program": name,
    "seconds": ours.seconds,
    "bytes": ours.bytes,
    "compiler_seconds": COMPILER * theirs["optimal_seconds"],
    "compiler_bytes": theirs["bytes accessed"],
  }


def main():
  # Nothing is fetched into VMEM beforehand, which the compiler counts as well.
  jax.config.update("jax_optimization_level", "O1")
  RESULTS.mkdir(exist_ok=True)
  with (RESULTS / "reader.jsonl").open("w") as file:
    print(f"{'program':22} ours, us  compiler, us  ratio  ours, MB  compiler, MB")
    for name in PROGRAMS:
      row = measure(name)
      file.write(json.dumps(row) + "\n")
      ours, theirs = row["seconds"], row["compiler_seconds"]
      print(
        f"{name:22} {ours * 1e6:8.1f}  {theirs * 1e6:12.1f}  {ours / theirs:5.2f}  "
        f"{row['bytes'] / 1e6:8.1f}  {row['compiler_bytes'] / 1e6:12.1f}"
      )


if __name__ == "__main__":
  main()
