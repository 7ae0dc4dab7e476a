"""What routed experts cost on an H100, by the GPU compiler; needs no GPU.

  pip install -r experiments/2611_dispatch_cost/requirements-gpu.txt
  PYTHONPATH=. python experiments/2611_dispatch_cost/gpu.py

compiles whole MoE layers in bfloat16 ahead of time for a GPU that is only described
(CUDA's libraries are not needed either, and no kernel is tuned), prints a table of what
is in the programs, and writes results/gpu.jsonl. Nothing is measured.
"""

import json
import os
import pathlib
from unittest import mock

import jax
from jax.experimental.topologies import get_topology_desc
import jax.numpy as jnp
import numpy as np

from mhmoe_jax import MoeConfig, MultiHeadMoe
from mhmoe_jax.moe import batched, blocks
from mhmoe_jax.moe.ffn import ExpertWeights
from mhmoe_jax.plan.costs import op_flops
from mhmoe_jax.plan.hlo import Program
from mhmoe_jax.plan.traffic import op_bytes

RESULTS = pathlib.Path(__file__).parent / "results" / "gpu.jsonl"
# As XLA itself describes it, see xla/backends/gpu/target_config/specs/h100_sxm.txtpb.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  driver_version: "13.0.0"
  runtime_version: "12.8.0"
  compile_time_toolkit_version: "12.8.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
PEAK_FLOPS, PEAK_BYTES = 990e12, 3.35e12  # per second, bfloat16
DIM, HIDDEN, TOP_K = 768, 3072, 2
KERNELS = (
  "fusion",
  "custom-call",
  "copy",
  "dot",
  "dynamic-slice",
  "dynamic-update-slice",
)
PASSES = {"blocks": blocks, "auto": batched}
# Heads, experts, sub-tokens, both passes: training, and a step of decoding.
LAYERS = [(h, E, 8192, both) for h in (1, 4) for E in (8, 64) for both in (False, True)]
LAYERS += [(1, 64, n, False) for n in (1, 16)]
bf16 = jnp.bfloat16


def compile_layer(config: MoeConfig, subtokens: int, backward: bool, device):
  """One or both passes of a layer."""
  layer = MultiHeadMoe(config, bf16)
  here = jax.sharding.SingleDeviceSharding(device)

  def argument(shape):
    return jax.ShapeDtypeStruct(shape, bf16, sharding=here)

  x_BLD = argument((1, subtokens // config.num_heads, DIM))
  one = jnp.ones((1, 1, DIM), bf16)
  params = jax.eval_shape(lambda: layer.init(jax.random.key(0), one))
  params = jax.tree.map(lambda p: argument(p.shape), params)

  def forward(params, x_BLD):
    return layer.apply(params, x_BLD)[0]

  def both(params, x_BLD, dy_BLD):
    y_BLD, vjp = jax.vjp(forward, params, x_BLD)
    return y_BLD, vjp(dy_BLD)

  step, rest = (both, (x_BLD, x_BLD)) if backward else (forward, (x_BLD,))
  return jax.jit(step).lower(params, *rest).compile()


def useful_flops(config: MoeConfig, subtokens: int, backward: bool) -> float:
  """Of experts, router, head and merge layer; of both passes, nothing recomputed."""
  M = DIM // config.num_heads
  rows = TOP_K * 2 * M * HIDDEN + M * config.num_experts
  linear = 2 * config.num_linear * DIM * M  # of a token, per sub-token
  return (6 if backward else 2) * subtokens * (rows + linear)


def read(hlo: Program) -> dict:
  """What one run takes."""
  total = dict.fromkeys(("flops", "bytes", "seconds", "kernels"), 0.0)
  for op, times in hlo.walk(lambda op: 0):
    if op.kind not in KERNELS:
      continue
    flops, moved = op_flops(hlo, op), op_bytes(hlo, op)
    total["flops"] += times * flops
    total["bytes"] += times * moved
    total["seconds"] += times * max(flops / PEAK_FLOPS, moved / PEAK_BYTES)
    total["kernels"] += times
  return total


def loads(num_rows: int, num_experts: int) -> list[np.ndarray]:
  """Rows per expert: even, rising from none to twice as many, and all on one."""
  part = np.arange(num_experts + 1) / num_experts
  return [
    np.diff(np.floor(num_rows * ends)).astype(int)
    for ends in (part, part**2, part >= 1)
  ]


def host_waits(passes, sizes_E, backward: bool) -> int:
  """How often the host reads a loop's condition: once more than the loop turns."""
  waits = 0

  def loop(lower, upper, body, carry):
    nonlocal waits
    waits += 0 if isinstance(upper, int) else int(upper) - int(lower) + 1
    for i in range(int(lower), int(upper)):
      carry = body(jnp.int32(i), carry)
    return carry

  E, T = len(sizes_E), int(sizes_E.sum())
  weights, x_TM = (
    ExpertWeights(jnp.ones((E, 1, 1)), jnp.ones((E, 1, 1))),
    jnp.ones((T, 1)),
  )
  inputs = weights, x_TM, jnp.ones(T), jnp.asarray(sizes_E, jnp.int32)
  with mock.patch.object(jax.lax, "fori_loop", loop), jax.disable_jit():
    passes.forward(*inputs)
    if backward:
      passes.backward(*inputs, x_TM)
  return waits


def measure(config: MoeConfig, subtokens: int, backward: bool, device) -> dict:
  program = compile_layer(config, subtokens, backward, device)
  text = program.as_text()
  row = {
    "heads": config.num_heads,
    "experts": config.num_experts,
    "subtokens": subtokens,
    "backward": backward,
    "backend": config.backend,
    "useful": useful_flops(config, subtokens, backward),
    "MiB": program.memory_analysis().temp_size_in_bytes / 2**20,
    "loads": [],
    "jax": jax.__version__,
    "target": "H100 SXM",
  }
  for sizes_E in loads(subtokens * TOP_K, config.num_experts):
    passes, waits = PASSES.get(config.backend), 0
    if passes:
      waits = host_waits(passes, sizes_E, backward)
    # The loop of each pass, if it has one, turns once less than it waits.
    hlo = Program(text, turns=waits // (1 + backward) - 1)
    row["loads"].append({"waits": waits} | read(hlo))
  return row | {"loops": len(hlo.unknown_loops)}


def main() -> None:
  jax.config.update("jax_platforms", "cpu")
  os.environ["XLA_FLAGS"] = "--xla_gpu_autotune_level=0"
  try:
    chips = get_topology_desc("", "cuda", target_config=H100, topology="1x1x1")
  except NotImplementedError as error:
    needed = pathlib.Path(__file__).with_name("requirements-gpu.txt")
    raise SystemExit(f"No GPU compiler ({error}): pip install -r {needed}") from None
  RESULTS.unlink(missing_ok=True)
  print(
    "| layer | experts | sub-tokens | passes | backend | waits of the host ", end=""
  )
  print("| FLOPs / useful | bound, ms | kernels, even load | temporaries, MiB |")
  print("|" + "---|" * 10)
  for heads, experts, subtokens, backward in LAYERS:
    for backend in ("auto", "blocks", "ragged"):
      config = MoeConfig(
        heads, experts, HIDDEN, TOP_K, num_linear=int(heads > 1), backend=backend
      )
      row = measure(config, subtokens, backward, chips.devices[0])
      with RESULTS.open("a") as file:
        file.write(json.dumps(row) + "\n")
      print_row(row)


def print_row(row: dict) -> None:
  """Of three loads, or one figure where they are alike."""

  def of_loads(form):
    cells = [form(load) for load in row["loads"]]
    return ", ".join(cells if len(set(cells)) > 1 else cells[:1])

  cells = [f"h={row['heads']}", str(row["experts"]), f"{row['subtokens']:,}"]
  cells += ["both" if row["backward"] else "forward", row["backend"]]
  cells.append(of_loads(lambda load: f"{load['waits']}"))
  if row["backend"] == "blocks":  # in loops in loops, which are not read
    cells += ["", "", ""]
  else:
    cells.append(of_loads(lambda load: f"{load['flops'] / row['useful']:.2f}"))
    cells.append(of_loads(lambda load: f"{1e3 * load['seconds']:.2f}"))
    cells.append(f"{row['loads'][0]['kernels']:.0f}")
  print("| " + " | ".join([*cells, f"{row['MiB']:.0f}"]) + " |", flush=True)


if __name__ == "__main__":
  main()
