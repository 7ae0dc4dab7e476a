"""What routed experts cost on a CPU: python experiments/2611_dispatch_cost/cpu.py

Forward and backward of gated float32 experts, router weights given, as useful FLOP per
second: 3 products x 2 x M x F per row, times 3 for forward and backward; what is
computed twice counts once. Compared in one run, taking turns, with a matmul and with
the experts of Hugging Face transformers (requirements.txt beside this file), if there.
"""

import json
import os
import pathlib
import shlex
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from mhmoe_jax.moe import dispatch
from mhmoe_jax.moe.ffn import ExpertWeights
from mhmoe_jax.moe.grouped import grouped_ffn

SHAPES = ((4096, 768, 2048, 8, 2), (4096, 192, 2048, 32, 2), (16384, 192, 768, 40, 2))
MANY_EXPERTS = tuple((16384, 192, 768, E, 2) for E in (8, 16, 32, 64, 128, 256))
MATMUL = 4096
TURNS = 5
RESULTS = pathlib.Path(__file__).parent / "results" / "cpu.jsonl"


def make_inputs(shape):
  """Weights of the experts, sub-tokens, their experts and weights, a direction."""
  S, M, F, E, K = shape
  random = np.random.default_rng(0)

  def normal(*shape):
    return random.standard_normal(shape, np.float32)

  # K different experts of each sub-token, all as likely.
  experts_SK = np.argsort(random.random((S, E)), axis=1)[:, :K].astype(np.int32)
  weights_SK = random.random((S, K), np.float32)
  w_in, w_gate = (normal(E, M, F) / np.sqrt(M) for _ in range(2))
  w_out = normal(E, F, M) / np.sqrt(F)
  return (w_in, w_gate, w_out), normal(S, M), experts_SK, weights_SK, normal(S, M)


def ours(matrices, x_SM, experts_SK, weights_SK, target_SM):
  def loss(weights, x_SM, weights_SK, experts_SK, target_SM):
    rows = dispatch.sort_by_expert(experts_SK, weights.w_in_EMF.shape[0])
    x_TM = dispatch.to_rows(x_SM, rows)
    scale_T = dispatch.weights_to_rows(weights_SK, rows)
    y_TM = grouped_ffn(weights, x_TM, scale_T, rows.sizes_E)
    return (dispatch.from_rows(y_TM, rows) * target_SM).sum()

  w_in, w_gate, w_out = map(jnp.asarray, matrices)
  # All are arguments: what is closed over is a constant, and XLA sorts it beforehand.
  inputs = (
    ExpertWeights(w_in, w_out, w_gate),
    *map(jnp.asarray, (x_SM, weights_SK, experts_SK, target_SM)),
  )
  step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
  return lambda: jax.block_until_ready(step(*inputs))


def transformers_experts(implementation):
  import torch
  from transformers import MixtralConfig
  from transformers.models.mixtral.modeling_mixtral import MixtralExperts

  torch.set_num_threads(os.cpu_count())

  def make(matrices, x_SM, experts_SK, weights_SK, target_SM):
    w_in, w_gate, w_out = (torch.from_numpy(w).transpose(1, 2) for w in matrices)
    E, F, M = w_in.shape
    config = MixtralConfig(hidden_size=M, intermediate_size=F, num_local_experts=E)
    config._experts_implementation = implementation
    experts = MixtralExperts(config)
    with torch.no_grad():
      experts.gate_up_proj.copy_(torch.cat([w_gate, w_in], dim=1))
      experts.down_proj.copy_(w_out)
    x_SM, weights_SK, target_SM = map(torch.from_numpy, (x_SM, weights_SK, target_SM))
    x_SM.requires_grad_()
    weights_SK.requires_grad_()
    experts_SK = torch.from_numpy(experts_SK).long()
    leaves = (*experts.parameters(), x_SM, weights_SK)

    def step():
      loss = (experts(x_SM, experts_SK, weights_SK) * target_SM).sum()
      return loss.detach(), torch.autograd.grad(loss, leaves)

    return step

  return make


def flops(shape):
  S, M, F, _, K = shape
  return 3 * 2 * M * F * S * K * 3


def seconds(programs):
  """Median seconds of each program; they take turns, so that noise hits them all."""
  times = {name: [] for name in programs}
  for program in programs.values():
    program()
  for _ in range(TURNS):
    for name, program in programs.items():
      start = time.perf_counter()
      program()
      times[name].append(time.perf_counter() - start)
  return {name: statistics.median(t) for name, t in times.items()}


def compare(shape, peers, matmul):
  """One row of the first table."""
  inputs = make_inputs(shape)
  programs = {"matmul": matmul, "ours": ours(*inputs)}
  programs |= {name: make(*inputs) for name, make in peers.items()}
  for name in peers:  # It computes the same.
    np.testing.assert_allclose(programs[name]()[0], programs["ours"]()[0], rtol=1e-2)
  rate = {
    name: (2 * MATMUL**3 if name == "matmul" else flops(shape)) / t / 1e9
    for name, t in seconds(programs).items()
  }
  row = {"shape": shape, "gflops": rate, "of_matmul": rate["ours"] / rate["matmul"]}
  if peers:
    row["best_peer"] = max(peers, key=rate.get)
    row["of_best_peer"] = rate["ours"] / rate[row["best_peer"]]
  return row


def main():
  peers = {}
  try:
    # batched_mm copies an expert's matrices for every row, 103 GB at the first shape.
    peers = {f"hf {i}": transformers_experts(i) for i in ("eager", "grouped_mm")}
  except ImportError as error:
    needed = pathlib.Path(__file__).with_name("requirements.txt")
    python = shlex.quote(sys.executable)
    print(f"Ours only ({error}): {python} -m pip install -r {shlex.quote(str(needed))}")
  a = jax.random.normal(jax.random.key(0), (MATMUL, MATMUL))
  multiply = jax.jit(jnp.matmul)

  def matmul():
    multiply(a, a).block_until_ready()

  rows = [{"load_before": os.getloadavg()[0], "cores": os.cpu_count()}]
  print(f"load {rows[0]['load_before']:.2f} on {os.cpu_count()} cores; GFLOP/s")
  for shape in SHAPES:
    rows.append(compare(shape, peers, matmul))
    row = rows[-1]
    rates = ", ".join(f"{name} {rate:.1f}" for name, rate in row["gflops"].items())
    against = f", {row['of_best_peer']:.2f} x {row['best_peer']}" if peers else ""
    print(
      f"{shape}: {rates}: {row['of_matmul']:.2f} of the matmul{against}", flush=True
    )

  steps = {shape[3]: ours(*make_inputs(shape)) for shape in MANY_EXPERTS}
  times = seconds(steps)
  for E, t in times.items():
    rows.append({"experts": E, "seconds": t, "of_8_experts": t / times[8]})
    print(f"{E:4} experts: {1e3 * t:6.1f} ms, {t / times[8]:.2f} x 8 experts")
  RESULTS.parent.mkdir(exist_ok=True)
  RESULTS.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
  main()
